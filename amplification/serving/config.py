"""Configuration of the serving back end."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ServingConfig(BaseModel):
    """Where agents run, and how much memory they may take there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Literal["vllm", "transformers", "scripted"] = "vllm"
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 64
    max_loras: int = Field(default=2, ge=1)
    kv_cache_gib: int = Field(default=1, ge=1)
    block_size: int = Field(default=32, ge=1)
    max_model_len: int = Field(default=128, ge=8)
    max_num_seqs: int = Field(default=256, ge=1)
