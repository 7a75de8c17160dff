"""VLLMRollouts: a vLLM engine beside the trainer that draws rollouts with an adapter of every update."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amplification.errors import InputError, ServingError
from amplification.serving.base import ModelRef
from amplification.serving.checkpoint import Shelf
from amplification.serving.config import ServingConfig
from amplification.serving.process import same_random_state
from amplification.serving.rollouts import Drawing, Drawn
from amplification.serving.vllm_engine import Engine, can_sleep


class VLLMRollouts:
    """A `RolloutSampler`. The engine starts when the first weights are published.

    Grammars, nuclei and a model's own sampling defaults are all off: the log-probabilities must be the trainer's.
    """

    def __init__(self, settings: ServingConfig, base: str, longest: int, sleep: bool) -> None:
        """`longest`: tokens of a prompt with its answer, at most. `sleep`: the engine gives its memory back after each
        batch (vLLM's level 1: the weights go to the host, keys and values are forgotten), where the device can."""
        self.base, self.shelf = base, Shelf()
        self.settings = settings.model_copy(update={"max_model_len": longest, "dtype": _dtype(settings)})
        self.gives_back = sleep and can_sleep()
        if sleep and not self.gives_back:
            said = "vLLM cannot give memory back on this device: its engine keeps it while PPO trains"
            warnings.warn(said, RuntimeWarning, stacklevel=2)
        self._engine: Engine | None = None
        self._model: ModelRef | None = None

    def publish(self, folder: Path) -> None:
        whole = not (folder / "adapter_config.json").is_file()
        model = ModelRef(str(folder)) if whole else ModelRef(self.base, str(folder))
        self.shelf.base(model), self.shelf.adapter(model)
        if self._engine is None:
            self._engine = self._start(model, whole)
        elif whole and not self._engine.merges:
            raise InputError(folder, "this is a whole model, and adapters are served", "publish one kind alone")
        self._engine.wake()
        self._engine.take(model)
        old, self._model = self._model, model
        if old is not None:
            self._engine.forget(old)

    def draw(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Drawing) -> list[list[Drawn]]:
        if self._engine is None or self._model is None:
            raise ServingError("no weights were published to vLLM, so there is nothing to draw with")
        from vllm import SamplingParams

        asked = [
            SamplingParams(
                n=how.answers,
                temperature=how.temperature,
                seed=seed,
                max_tokens=how.longest,
                logprobs=0,
                stop_token_ids=[how.end],
                ignore_eos=True,  # a model may have other ends of its own, which are ordinary tokens to the trainer
                detokenize=False,
            )
            for seed in seeds
        ]
        try:
            with same_random_state():
                self._engine.wake()  # it sleeps if the same weights have drawn before
                outputs = self._engine.run(self._model, prompts, asked)
                if self.gives_back:
                    self._engine.sleep()
        except Exception as error:
            raise ServingError(f"vLLM failed while drawing rollouts: {str(error) or type(error).__name__}") from error
        return [[_drawn(each) for each in output.outputs] for output in outputs]

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = self._model = None

    def _start(self, model: ModelRef, whole: bool) -> Engine:
        base = self.shelf.base(model)
        most = base.max_model_len(self.settings.max_model_len)
        if most < self.settings.max_model_len:
            problem = f"it takes {most} tokens, and a prompt with its answer has up to {self.settings.max_model_len}"
            raise InputError(base.folder, problem, "make 'distill.ppo.answer_tokens' less, or take another base")
        # A whole model is no adapter: it can only take the place of the weights before.
        settings = self.settings.model_copy(update={"adapters": "merge"}) if whole else self.settings
        options: dict[str, Any] = {
            "logprobs_mode": "processed_logprobs",  # those of what is drawn from, at the sampling temperature
            "enable_sleep_mode": self.gives_back,
            "generation_config": "vllm",
        }
        if _shares_a_process_group():
            # vLLM then takes part in the trainer's group instead of making one, each process with an engine of its own.
            options["distributed_executor_backend"] = "external_launcher"
        return Engine(settings, ModelRef(model.base), self.shelf, options)


def _drawn(completion: Any) -> Drawn:
    tokens = tuple(completion.token_ids)
    chosen = (float(position[token].logprob) for position, token in zip(completion.logprobs, tokens, strict=True))
    return Drawn(tokens, tuple(chosen))


def _dtype(settings: ServingConfig) -> str:
    """As the trainer has it: single precision on a CPU, whatever the weights are stored in."""
    import torch

    return "float32" if settings.dtype == "auto" and not torch.cuda.is_available() else settings.dtype


def _shares_a_process_group() -> bool:
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
