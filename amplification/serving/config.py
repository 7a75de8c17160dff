"""Configuration of the serving back end."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Serving back ends by name; a new one is a file beside this and a line here. Each class is called with the
# ServingConfig alone, and is imported only when it is chosen.
SAMPLERS = MappingProxyType(
    {
        "vllm": "amplification.serving.vllm:VLLMSampler",
        "transformers": "amplification.serving.transformers:TransformersSampler",
        "scripted": "amplification.serving.scripted:ScriptedSampler",
    }
)


class ServingConfig(BaseModel):
    """Where agents run, and how much memory they may take there.

    adapters: `merge` adds an adapter to the base's weights in place whenever the model asked changes (fastest where
    many calls in a row are for one model; the prefix cache survives the change). `lora` keeps up to `max_loras`
    adapters beside the base and mixes them in one batch. `auto` is merge on a CPU, lora on a GPU. transformers merges.
    kv_cache_gib: on a GPU, None takes most of what is free.
    dtype: `auto` is the type that the weights are stored in.
    enforce_eager: None compiles on a GPU only (on a CPU compiling costs half a minute a start).
    seed: draws at a temperature above 0 depend on it, the prompt and the call's `sample`, not on their batch.
    script: for the scripted back end, a JSON file that maps prompts to completions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str = "vllm"
    adapters: Literal["auto", "merge", "lora"] = "auto"
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 64
    max_loras: int = Field(default=2, ge=1)
    kv_cache_gib: float | None = Field(default=1, gt=0)
    block_size: int = Field(default=32, ge=1)
    max_model_len: int = Field(default=128, ge=8)
    max_num_seqs: int = Field(default=256, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    enforce_eager: bool | None = None
    seed: int = Field(default=0, ge=0)
    script: Path | None = None

    @field_validator("backend")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(f"'{name}' is not a serving back end; choose one of: {', '.join(SAMPLERS)}")
        return name
