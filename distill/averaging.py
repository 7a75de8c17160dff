"""Averaging: an agent whose weights lie between two agents', published as an immutable agent like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from distill.config import AdapterConfig
from distill.optimizer import trainable
from distill.weights import load_policy, quiet, save_policy


def load_between(base: Path, first: Path | None, second: Path | None, share: float, settings: AdapterConfig) -> Any:
    """A model with weights `first` + `share` x (`second` - `first`) in everything that `settings.method` trains.

    None is the base. For `lora` it is the factors that are averaged and not their product.
    """
    model, other = (load_policy(base, agent, settings, seed=0) for agent in (first, second))
    move(model, trainable(other), share)
    return model


@torch.no_grad()
def move(model: torch.nn.Module, towards: list[torch.nn.Parameter], share: float) -> None:
    """Move what is trained of `model` towards other weights by a share of the way."""
    for mine, theirs in zip(trainable(model), towards, strict=True):
        mine.lerp_(theirs, share)


def save_between(
    base: Path, first: Path | None, second: Path | None, share: float, settings: AdapterConfig, out: Path
) -> None:
    """Write the agent `share` of the way from `first` to `second` into `out`."""
    with quiet():
        save_policy(load_between(base, first, second, share, settings), base, settings, out)
