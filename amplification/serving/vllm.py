"""vLLM in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from amplification.serving.base import Call, Completion, ModelRef
from amplification.serving.config import ServingConfig


class VLLMSampler:
    """One engine a base model; adapters by immutable names."""

    def __init__(self, settings: ServingConfig) -> None:
        self.settings = settings
        self.engines: dict[str, Any] = {}
        self.adapters: dict[str, int] = {}

    def _engine(self, base: str) -> Any:
        if base not in self.engines:
            os.environ.update(
                VLLM_ENABLE_V1_MULTIPROCESSING="0",
                VLLM_CPU_KVCACHE_SPACE=str(self.settings.kv_cache_gib),
                VLLM_LOGGING_LEVEL="ERROR",
                VLLM_NO_USAGE_STATS="1",
            )
            from vllm import LLM

            self.engines[base] = LLM(
                model=base,
                block_size=32,
                max_model_len=self.settings.max_model_len,
                dtype="float32",
                enable_lora=True,
                max_lora_rank=128,
                max_loras=2,
                disable_log_stats=True,
                seed=0,
            )
        return self.engines[base]

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        done: list[Completion | None] = [None] * len(calls)
        groups: dict[str, list[int]] = {}
        for i, call in enumerate(calls):
            groups.setdefault(call.model.base, []).append(i)
        for base, places in groups.items():
            engine = self._engine(base)
            params = [
                SamplingParams(temperature=calls[i].params.temperature, max_tokens=calls[i].params.max_tokens)
                for i in places
            ]
            lora: list[Any] = []
            for i in places:
                ref = calls[i].model
                if ref.adapter is None:
                    lora.append(None)
                else:
                    number = self.adapters.setdefault(ref.name, len(self.adapters) + 1)
                    lora.append(LoRARequest(ref.name, number, ref.adapter))
            out = engine.generate([calls[i].prompt for i in places], params, use_tqdm=False, lora_request=lora)
            for i, o in zip(places, out, strict=True):
                one = o.outputs[0]
                done[i] = Completion(
                    one.text.strip(), len(o.prompt_token_ids), len(one.token_ids), one.finish_reason == "stop"
                )
        return [d for d in done if d is not None]

    def parameters(self, model: ModelRef) -> int:
        return 0

    def close(self) -> None:
        self.engines.clear()
