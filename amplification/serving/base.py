"""Sampler: the one protocol every serving back end implements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from amplification.question import digest


@dataclass(frozen=True)
class SamplingParams:
    """How a completion is drawn. `temperature` 0 is greedy; `top_p` is nucleus sampling's mass."""

    max_tokens: int = 4
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()

    def key(self) -> str:
        return f"{self.max_tokens}/{self.temperature}/{self.top_p}/{'|'.join(self.stop)}"


@dataclass(frozen=True)
class ModelRef:
    """An immutable model: a base model's folder (or hub name), and the adapter folder on it, if any."""

    base: str
    adapter: str | None = None

    @property
    def name(self) -> str:
        """A name never reused for other weights (prefix caches are keyed on it)."""
        return digest(self.base, self.adapter or "")


@dataclass(frozen=True)
class Call:
    """One prompt for one model. `sample` distinguishes repeated draws of one prompt."""

    model: ModelRef
    prompt: str
    params: SamplingParams
    sample: int = 0


@dataclass(frozen=True)
class Completion:
    """What a model returned. `logprob` is the sum over the completion's tokens, None if not asked for.

    `error` says why this one call could not be answered (a prompt that is too long, say); the others of its batch are.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finished: bool = True
    logprob: float | None = None
    error: str | None = None


class Sampler(Protocol):
    """Where agents run. Synchronous and batched: one call for all prompts that are ready together."""

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order. Raises ServingError if the model cannot answer."""
        ...

    def parameters(self, model: ModelRef) -> int:
        """Number of the model's parameters, for the ledger's FLOPs."""
        ...

    def close(self) -> None:
        """Give back memory and devices. Calling it twice is harmless."""
        ...
