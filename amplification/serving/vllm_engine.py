"""One vLLM engine in this process: its start, the weights it holds, and what a call becomes for it."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from amplification.errors import InputError, ServingError
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.checkpoint import Checkpoint, Shelf
from amplification.serving.config import ServingConfig
from amplification.serving.draws import draw_seed
from amplification.serving.flow import Flow, Ticket
from amplification.serving.process import same_process_settings, same_random_state, unbound_memory
from amplification.serving.schema import Schemas
from amplification.serving.text import Text
from amplification.serving.vllm_device import memory_share, served_dtype
from amplification.serving.vllm_queue import Queue
from amplification.serving.vllm_weights import change_weights

# Read when vLLM is imported or an engine starts. In one process an engine starts in a second or two, not in twenty.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_CONFIGURE_LOGGING": "1",
}
GIB = 2**30


class Engine:
    """Serves a base and its adapters; where it merges those, also every other base that differs in weights alone."""

    # All of this process, whichever sampler they belong to: they share one process group.
    _open_engines: ClassVar[weakref.WeakSet[Engine]] = weakref.WeakSet()

    def __init__(
        self, settings: ServingConfig, model: ModelRef, shelf: Shelf, more: Mapping[str, Any] | None = None
    ) -> None:
        """`more` goes to vLLM's `LLM` as it is."""
        self.settings, self.shelf, self._more = settings, shelf, dict(more or {})
        self.merges = merges_adapters(settings)
        base = shelf.base(model)
        max_model_len = base.max_model_len(settings.max_model_len)
        self.holds: ModelRef | None = ModelRef(model.base)
        self._numbers: dict[str, int] = {}
        self._numbering = itertools.count(1)  # never reused, whatever was removed: vLLM's caches are keyed on them
        self._asleep = False
        self._params: dict[SamplingParams, Any] = {}
        self._is_guest = self._group_is_anothers()
        self._llm = self._start(base, max_model_len)
        self._open_engines.add(self)
        tokenizer = self._llm.get_tokenizer()
        self.text = Text(tokenizer, max_model_len, base.vocabulary)
        self._schemas = Schemas(tokenizer, base.vocabulary)
        core = self._llm.llm_engine.engine_core
        from amplification.serving.vllm_schema import use_schemas  # imports vLLM

        use_schemas(core.engine_core.structured_output_manager, self._schemas)
        self.queue = Queue(core, self.text, self._hold if self.merges else None)

    def _start(self, base: Checkpoint, max_model_len: int) -> Any:
        try:
            with same_process_settings(), same_random_state():
                return self._open(base, max_model_len)
        except InputError:
            raise
        except MemoryError as error:
            raise ServingError(f"no memory for {base.folder}: lower serving.kv_cache_gib") from error
        except Exception as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise ServingError(f"vLLM could not load {base.folder}: {first[0]}") from error

    def _open(self, base: Checkpoint, max_model_len: int) -> Any:
        from vllm import LLM
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        settings = self.settings
        eager = on_cpu if settings.enforce_eager is None else settings.enforce_eager
        options: dict[str, Any] = {
            "model": str(base.folder),
            "dtype": base.dtype if settings.dtype == "auto" else settings.dtype,
            "seed": settings.seed,
            "block_size": settings.block_size,
            "enable_prefix_caching": True,
            "max_model_len": max_model_len,
            "max_num_seqs": settings.max_num_seqs,
            "enforce_eager": eager,
            "load_format": "safetensors",
            "use_tqdm_on_load": False,
            "disable_log_stats": True,
        }
        if settings.kv_cache_gib is not None:
            options["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * GIB)
        if not self.merges:
            options |= {"enable_lora": True, "max_loras": settings.max_loras, "max_lora_rank": settings.max_lora_rank}
        options |= self._more
        if not on_cpu:
            options["dtype"] = served_dtype(settings.dtype, base.dtype, adapters_beside=not self.merges)
            return LLM(**options, gpu_memory_utilization=memory_share())
        from amplification.serving.vllm_lora import grouped_lora

        with unbound_memory(), grouped_lora():
            return LLM(**options)

    def tickets(self, flow: Flow, places: Sequence[int], calls: Sequence[Call]) -> list[Ticket]:
        """Tickets for the calls at these places. Raises InputError for what cannot be asked; nothing was, then."""
        loras = (
            {} if self.merges else {model: self._lora(model) for model in dict.fromkeys(calls[i].model for i in places)}
        )
        made = []
        for i, prompt in zip(places, self.text.encode([calls[i].prompt for i in places]), strict=True):
            ticket = Ticket(flow, i, calls[i], prompt, self._sampling(calls[i]), loras.get(calls[i].model))
            ticket.error = self.text.refusal(calls[i].prompt, prompt)
            made.append(ticket)
        return made

    def _hold(self, model: ModelRef) -> None:
        """Make the engine hold this model's weights."""
        if self.holds == model:
            return
        base, adapter = self.shelf.base(model), self.shelf.adapter(model)
        self.holds = None
        try:
            change_weights(self._llm, base, adapter)
        except Exception as error:
            folder = adapter.folder if adapter else base.folder
            raise ServingError(f"vLLM could not take the weights of {folder}: {error}") from error
        self.holds = model

    def _lora(self, model: ModelRef) -> Any:
        from vllm.lora.request import LoRARequest

        adapter = self.shelf.adapter(model)
        if adapter is None:
            return None
        if adapter.rank > self.settings.max_lora_rank:
            problem = f"its rank {adapter.rank} is above serving.max_lora_rank ({self.settings.max_lora_rank})"
            raise InputError(adapter.folder, problem, "raise that setting")
        known = model.name in self._numbers
        number = self._numbers[model.name] if known else next(self._numbering)
        self._numbers[model.name] = number
        request = LoRARequest(model.name, number, str(adapter.folder))
        if not known:
            try:
                self._llm.llm_engine.add_lora(request)
            except Exception as error:  # an adapter that fails inside a step would take the whole batch with it
                del self._numbers[model.name]
                raise InputError(
                    adapter.folder, f"vLLM cannot load it ({error})", "train a plain LoRA adapter"
                ) from None
        return request

    def _sampling(self, call: Call) -> Any:
        """vLLM's parameters for a call. Each draw has its own seed, so that it does not depend on its batch."""
        template = self._params.get(call.params)
        if template is None:
            template = self._params[call.params] = self._template(call.params)
        if call.params.temperature == 0:
            return template
        own = copy.copy(template)
        own.seed = draw_seed(self.settings.seed, call)
        return own

    def _template(self, params: SamplingParams) -> Any:
        """What all calls of these parameters share. Stop strings are the queue's business."""
        import vllm
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import StructuredOutputsParams

        engine = self._llm.llm_engine
        try:
            asked = vllm.SamplingParams(
                max_tokens=params.max_tokens,
                temperature=params.temperature,
                top_p=params.top_p,
                seed=0 if params.temperature else None,
                logprobs=0 if params.logprob else None,
            )
        except (VLLMClientError, ValueError) as error:
            raise InputError("sampling parameters", str(error).splitlines()[0], "correct them") from None
        prompt, tasks = {"type": "token", "prompt_token_ids": [0]}, engine.get_supported_tasks()
        template = engine.input_processor.process_inputs("template", prompt, asked, tasks).sampling_params
        if params.json_schema is not None:
            self._schemas.guide(params.json_schema)  # says what is wrong with it
            template.structured_outputs = StructuredOutputsParams(json=params.json_schema)
        return template

    def generate(self, model: ModelRef, prompts: Sequence[str], params: SamplingParams) -> None:
        """The same prompts through `LLM.generate`, as text: what others would call, to measure against."""
        if self.merges:
            self._hold(model)
        self.reset_prefix_cache()
        sampling = self._sampling(Call(model, "", params))
        lora = None if self.merges else self._lora(model)
        self._llm.generate(list(prompts), sampling, use_tqdm=False, lora_request=lora)

    def take(self, model: ModelRef) -> None:
        """Make a model ready to be asked. Raises InputError or ServingError."""
        if self.merges:
            self._hold(model)
        else:
            self._lora(model)

    def run(self, model: ModelRef, prompts: Sequence[Sequence[int]], params: Sequence[Any]) -> list[Any]:
        """vLLM's own outputs for token ids, each prompt with vLLM parameters of its own."""
        self.take(model)
        asked = [{"prompt_token_ids": list(ids), "cache_salt": model.name} for ids in prompts]
        lora = None if self.merges else self._lora(model)
        outputs: list[Any] = self._llm.generate(asked, list(params), use_tqdm=False, lora_request=lora)
        return outputs

    def forget(self, model: ModelRef) -> None:
        """Let go of a model that nobody will ask again; its files may go then, too."""
        number = self._numbers.pop(model.name, None)
        if number is not None:
            self._llm.llm_engine.remove_lora(number)
        self.shelf.forget(model)

    def sleep(self) -> None:
        """Give the device's memory back until the engine is woken (see `can_sleep`)."""
        self._llm.sleep(level=1)
        self._asleep = True

    def wake(self) -> None:
        """Take the memory again. Harmless if it never slept."""
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def reset_prefix_cache(self) -> None:
        self._llm.reset_prefix_cache()

    def close(self) -> None:
        """Give back the engine's memory, and its process group if that is its own."""
        if self._llm is None:
            return
        import torch

        self._open_engines.discard(self)
        self._shut_down(self._llm.llm_engine.engine_core.engine_core)
        self._llm = None
        self.queue.close()
        gc.collect()
        torch.cuda.empty_cache()  # nothing to do on a CPU

    def _shut_down(self, core: Any) -> None:
        # Its own shutdown would take the process group from under the others, or from under the trainer.
        if self._open_engines or self._is_guest:
            core.model_executor.shutdown()
            core.scheduler.shutdown()
        else:
            core.shutdown()

    @classmethod
    def _group_is_anothers(cls) -> bool:
        """Whether an engine that starts now finds a process group that is not the engines', such as accelerate's."""
        from torch import distributed

        if cls._open_engines:
            return any(engine._is_guest for engine in cls._open_engines)
        return distributed.is_available() and distributed.is_initialized()


def merges_adapters(settings: ServingConfig) -> bool:
    """Whether adapters are added to the weights rather than served beside them. Imports vLLM to see where it runs."""
    cpu = on_cpu()
    return cpu if settings.adapters == "auto" else settings.adapters == "merge"


def on_cpu() -> bool:
    """Whether vLLM's engines run on the CPU here. Imports vLLM."""
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    return bool(_platform().is_cpu())


def can_sleep() -> bool:
    """Whether an engine can give its device's memory back and take it again. Not on a CPU. Imports vLLM."""
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    return bool(_platform().is_sleep_mode_available())


def _platform() -> Any:
    with same_process_settings():
        from vllm.platforms import current_platform

        return current_platform
