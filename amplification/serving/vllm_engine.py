"""One vLLM engine in this process: its start, the weights it holds, and one batch of calls through it."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

from amplification.errors import InputError, ServingError
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams
from amplification.serving.checkpoint import Checkpoint, Shelf
from amplification.serving.config import ServingConfig
from amplification.serving.draws import draw_seed
from amplification.serving.process import same_process_settings, same_random_state, unbound_memory
from amplification.serving.text import Text
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

    def __init__(self, settings: ServingConfig, model: ModelRef, shelf: Shelf) -> None:
        self.settings, self.shelf = settings, shelf
        self.merges = merges_adapters(settings)
        base = shelf.base(model)
        max_model_len = base.max_model_len(settings.max_model_len)
        self.holds: ModelRef | None = ModelRef(model.base)
        self._numbers: dict[str, int] = {}
        self._params: dict[SamplingParams, Any] = {}
        self._numbering = itertools.count()
        self._llm = self._start(base, max_model_len)
        self._open_engines.add(self)
        self._text: Any = Text(self._llm.get_tokenizer(), max_model_len, base.vocabulary)

    def _start(self, base: Checkpoint, max_model_len: int) -> Any:
        try:
            with same_process_settings(), same_random_state():
                return self._open(base, max_model_len)
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
        if not on_cpu:
            return LLM(**options)
        from amplification.serving.vllm_lora import grouped_lora

        with unbound_memory(), grouped_lora():
            return LLM(**options)

    def batches(self, places: Sequence[int], calls: Sequence[Call]) -> list[list[int]]:
        """The places of the calls that can go through together.

        Where adapters are merged, those of one model. And never greedy calls with others: vLLM 0.27 forgets the seeds
        of such a batch on a CPU (and compiles for ten seconds to draw without them).
        """
        groups: dict[tuple[bool, ModelRef | None, bool], list[int]] = {}
        for place in places:
            call = calls[place]
            # Whatever the engine holds already goes first: one change of weights less.
            key = (call.model != self.holds, call.model) if self.merges else (False, None)
            groups.setdefault((*key, call.params.temperature == 0), []).append(place)
        return [groups[key] for key in sorted(groups, key=lambda key: (key[0], str(key[1])))]

    def complete(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order; the calls are one of `batches`. Raises ServingError if the engine fails."""
        loras = self._prepare(list(dict.fromkeys(call.model for call in calls)))
        prompts = self._text.encode([call.prompt for call in calls])
        errors = {i: error for i, ids in enumerate(prompts) if (error := self._text.refusal(calls[i].prompt, ids))}
        outputs: dict[int, tuple[list[int], bool]] = {}
        texts: dict[int, str] = {}
        plain = [i for i in range(len(calls)) if i not in errors and not calls[i].params.stop]
        until = [i for i in range(len(calls)) if i not in errors and calls[i].params.stop]
        try:
            with same_random_state():
                self._run(plain, calls, prompts, loras, outputs)
                self._run_until(until, calls, prompts, loras, outputs, texts)
        except InputError:
            raise
        except Exception as error:
            raise ServingError(f"vLLM failed while answering: {str(error).strip() or type(error).__name__}") from error
        texts.update(zip(plain, self._text.decode([outputs[i][0] for i in plain]), strict=True))
        return [
            Completion("", len(prompts[i]), 0, finished=False, error=errors[i])
            if i in errors
            else Completion(texts[i], len(prompts[i]), len(outputs[i][0]), outputs[i][1])
            for i in range(len(calls))
        ]

    def _prepare(self, models: Sequence[ModelRef]) -> dict[ModelRef, Any]:
        """Make the engine hold what these models need. Gives the LoRARequest of each, None where it has no adapter."""
        if self.merges:
            self._hold(models[0])
            return {models[0]: None}
        return {model: self._lora(model) for model in models}

    def _hold(self, model: ModelRef) -> None:
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
        number = self._numbers.setdefault(model.name, len(self._numbers) + 1)
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
        import vllm
        from vllm.exceptions import VLLMClientError

        engine = self._llm.llm_engine
        try:
            asked = vllm.SamplingParams(
                max_tokens=params.max_tokens,
                temperature=params.temperature,
                top_p=params.top_p,
                stop=list(params.stop) or None,
                seed=0 if params.temperature else None,
            )
        except (VLLMClientError, ValueError) as error:
            raise InputError("sampling parameters", str(error).splitlines()[0], "correct them") from None
        prompt, tasks = {"type": "token", "prompt_token_ids": [0]}, engine.get_supported_tasks()
        return engine.input_processor.process_inputs("template", prompt, asked, tasks).sampling_params

    def _run(
        self,
        places: Sequence[int],
        calls: Sequence[Call],
        prompts: Sequence[list[int]],
        loras: dict[ModelRef, Any],
        outputs: dict[int, tuple[list[int], bool]],
    ) -> None:
        """Drive the engine's core without the front end, which costs as much time as a tiny model does.

        What the front end adds is checked or done here: prompt lengths, request ids, decoding. Stop strings it alone
        can see, so calls with those go through `_run_until`.
        """
        from vllm.v1.engine import EngineCoreRequest, FinishReason

        core = self._llm.llm_engine.engine_core
        waiting: dict[str, int] = {}
        tokens: dict[int, list[int]] = {}
        sampling = [self._sampling(calls[i]) for i in places]
        try:
            for i, params in zip(places, sampling, strict=True):
                name = str(next(self._numbering))
                waiting[name], tokens[i] = i, []
                request = EngineCoreRequest(
                    request_id=name,
                    prompt_token_ids=prompts[i],
                    mm_features=None,
                    sampling_params=params,
                    pooling_params=None,
                    arrival_time=0.0,
                    lora_request=loras[calls[i].model],
                    cache_salt=calls[i].model.name,
                    data_parallel_rank=None,
                )
                core.add_request(request)
            while waiting:
                for output in core.get_output().outputs:
                    i = waiting[output.request_id]
                    tokens[i] += output.new_token_ids
                    if output.finish_reason is not None:
                        del waiting[output.request_id]
                        outputs[i] = tokens[i], output.finish_reason == FinishReason.STOP
        finally:
            if waiting:
                core.abort_requests(list(waiting))

    def _run_until(
        self,
        places: Sequence[int],
        calls: Sequence[Call],
        prompts: Sequence[list[int]],
        loras: dict[ModelRef, Any],
        outputs: dict[int, tuple[list[int], bool]],
        texts: dict[int, str],
    ) -> None:
        if not places:
            return
        inputs = [{"prompt_token_ids": prompts[i], "cache_salt": calls[i].model.name} for i in places]
        sampling = [self._sampling(calls[i]) for i in places]
        requests = [loras[calls[i].model] for i in places]
        answered = self._llm.generate(inputs, sampling, use_tqdm=False, lora_request=requests)
        for i, output in zip(places, answered, strict=True):
            one = output.outputs[0]
            outputs[i] = list(one.token_ids), one.finish_reason == "stop"
            texts[i] = one.text.strip()

    def generate(self, model: ModelRef, prompts: Sequence[str], params: SamplingParams) -> None:
        """The same prompts through `LLM.generate`, as text: what others would call, to measure against."""
        loras = self._prepare([model])
        self.reset_prefix_cache()
        sampling = self._sampling(Call(model, "", params))
        self._llm.generate(list(prompts), sampling, use_tqdm=False, lora_request=loras[model])

    def reset_prefix_cache(self) -> None:
        self._llm.reset_prefix_cache()

    def close(self) -> None:
        """Give back the engine's memory and its process group."""
        if self._llm is None:
            return
        self._open_engines.discard(self)
        core = self._llm.llm_engine.engine_core.engine_core
        if self._open_engines:  # its own shutdown would take the process group from under the others
            core.model_executor.shutdown()
            core.scheduler.shutdown()
        else:
            core.shutdown()
        self._llm = self._text = None
        gc.collect()


def merges_adapters(settings: ServingConfig) -> bool:
    """Whether adapters are added to the weights rather than served beside them. Imports vLLM to see where it runs."""
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if settings.adapters != "auto":
        return settings.adapters == "merge"
    with same_process_settings():
        from vllm.platforms import current_platform

        return bool(current_platform.is_cpu())
