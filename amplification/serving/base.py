"""Sampler: the one protocol every serving back end implements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

from amplification.question import digest


@dataclass(frozen=True)
class SamplingParams:
    """How a completion is drawn. `temperature` 0 is greedy; `top_p` is nucleus sampling's mass.

    json_schema: the completion must be JSON of this schema (its text); logprob: ask for `Completion.logprob`.
    """

    max_tokens: int = 4
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    logprob: bool = False

    @lru_cache(maxsize=256)  # noqa: B019 - few of them, and immutable: every call of an agent asks for the same string
    def key(self) -> str:
        """All that decides what is drawn, as one short string. Asking for log-probabilities does not change the draw,
        yet completions without them cannot stand in for those with."""
        key = f"{self.max_tokens}/{self.temperature}/{self.top_p}/{'|'.join(self.stop)}"
        if self.json_schema is not None:
            key += f"/schema {digest(self.json_schema)}"
        return f"{key}/logprob" if self.logprob else key


@dataclass(frozen=True)
class ModelRef:
    """An immutable model: a base model's folder (or hub name), and the adapter folder on it, if any."""

    base: str
    adapter: str | None = None

    @property
    def name(self) -> str:
        """A name never reused for other weights (prefix caches are keyed on it)."""
        return digest(self.base, self.adapter or "")


class Call(NamedTuple):
    """One prompt for one model. `sample` distinguishes repeated draws of one prompt."""

    model: ModelRef
    prompt: str
    params: SamplingParams
    sample: int = 0


class Completion(NamedTuple):
    """What a model returned.

    `logprob` is the sum over the completion's tokens, its end included, of their natural log-probabilities in the
    model's own distribution (temperature 1, before a nucleus or a schema's mask); None if not asked for.

    `error` says why this one call could not be answered (a prompt that is too long, say); the others of its batch are.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finished: bool = True
    logprob: float | None = None
    error: str | None = None


class Sampler(Protocol):
    """Where agents run: one call for all prompts that are ready together. The least that a back end must do."""

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order. Raises ServingError if the model cannot answer."""
        ...

    def parameters(self, model: ModelRef) -> int:
        """Number of the model's parameters, for the ledger's FLOPs."""
        ...

    def close(self) -> None:
        """Give back memory and devices until the next call, which takes them again. Calling it twice is harmless."""
        ...


@runtime_checkable
class StreamingSampler(Sampler, Protocol):
    """A back end that hands on each completion as soon as it is there, and takes new calls while others are under way.

    Several streams may run at once in one event loop, and over time in several loops one after the other.
    """

    def stream(self, calls: Sequence[Call]) -> AsyncIterator[list[tuple[int, Completion]]]:
        """(place in `calls`, completion) as they come, each place once. Raises ServingError as `sample` does.

        A consumer that stops early (closes the iterator or is cancelled) aborts what is still under way.
        """
        ...
