"""Serving back ends by name."""

from __future__ import annotations

from amplification.serving.base import Sampler
from amplification.serving.config import ServingConfig


def open_sampler(settings: ServingConfig) -> Sampler:
    from amplification.serving.vllm import VLLMSampler

    return VLLMSampler(settings)
