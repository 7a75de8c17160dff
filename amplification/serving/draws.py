"""Draws that depend on their call alone: not on the batch they were in, nor on what was drawn before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from amplification.question import digest
from amplification.serving.base import Call, SamplingParams


def draw_seed(seed: int, call: Call) -> int:
    """The seed of one draw: a function of the run's seed, the prompt, the parameters and the sample.

    Not of whether log-probabilities are asked for. Not of the model: its name holds a path, and a run must not depend
    on the folder it is in.
    """
    params = replace(call.params, logprob=False)
    return int(digest(str(seed), call.prompt, params.key(), str(call.sample))[:15], 16)


def own_draws(params: SamplingParams, seeds: Sequence[int]) -> Any:
    """Logits processors for transformers under which taking the likeliest token is a draw, row by row from its seed.

    Adding Gumbel noise to logits and taking the largest draws from their softmax (E. J. Gumbel, 1954).
    """
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    if params.temperature == 0:
        return LogitsProcessorList()
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noisy(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=stream) for stream in streams])
        return scores.float() - noise.log().to(scores.device)

    warpers = [TemperatureLogitsWarper(params.temperature)]
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    return LogitsProcessorList([*warpers, noisy])
