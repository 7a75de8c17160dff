"""VLLMSampler: agents on vLLM, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from amplification.errors import InputError
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams
from amplification.serving.checkpoint import Shelf
from amplification.serving.config import ServingConfig
from amplification.serving.vllm_engine import Engine, merges_adapters


class VLLMSampler:
    """One engine a base; adapters are merged into it or served beside it (see ServingConfig.adapters).

    An engine starts at the first call for its model. Prompts are text and go through the model's own tokenizer.
    """

    def __init__(self, settings: ServingConfig) -> None:
        self.settings = settings
        self._shelf = Shelf()
        self._engines: dict[str, Engine] = {}
        self._merges: bool | None = None

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order; a prompt that cannot be served gives a completion with an `error`.

        Raises InputError for a model or adapter folder that is missing, broken or does not fit, before anything is
        asked; ServingError if an engine cannot start or fails, after which the next call starts afresh.
        """
        groups: dict[str, list[int]] = {}
        for model in dict.fromkeys(call.model for call in calls):
            self._shelf.adapter(model)
        for i, call in enumerate(calls):
            groups.setdefault(self._key(call.model), []).append(i)
        done: dict[int, Completion] = {}
        for places in groups.values():
            engine = self._engine(calls[places[0]].model)
            for batch in engine.batches(places, calls):
                try:
                    done.update(zip(batch, engine.complete([calls[i] for i in batch]), strict=True))
                except InputError:
                    raise  # noticed before the engine was asked
                except BaseException:
                    self.close()  # what it holds and what it still works on is not known
                    raise
        return [done[i] for i in range(len(calls))]

    def parameters(self, model: ModelRef) -> int:
        """Number of the model's parameters, its adapter's included. Raises InputError for a bad folder."""
        return self._shelf.parameters(model)

    def raw_generate(self, model: ModelRef, prompts: Sequence[str], params: SamplingParams) -> None:
        """Send prompts through vLLM's own `LLM.generate` on the same engine, to measure against."""
        self._engine(model).generate(model, prompts, params)

    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of earlier prompts, in every engine."""
        for engine in self._engines.values():
            engine.reset_prefix_cache()

    def close(self) -> None:
        """Give back the engines' memory. Harmless when repeated; the next call starts an engine again."""
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            engine.close()

    def _key(self, model: ModelRef) -> str:
        """Models of one key share an engine."""
        if self._merges is None:
            self._merges = merges_adapters(self.settings)
        return self._shelf.base(model).skeleton if self._merges else model.base

    def _engine(self, model: ModelRef) -> Engine:
        key = self._key(model)
        if key not in self._engines:
            self._engines[key] = Engine(self.settings, model, self._shelf)
        return self._engines[key]
