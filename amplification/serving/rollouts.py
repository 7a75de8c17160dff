"""RolloutSampler: who draws the answers that a trainer learns from, token by token, with adapters that change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class Drawn(NamedTuple):
    """One answer: its token ids, the end included if it has one, and the log-probabilities they were drawn with (at
    the sampling temperature), in nats."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class Drawing(NamedTuple):
    """So many answers to each prompt, at this temperature, to the token `end` or `longest` tokens."""

    answers: int
    temperature: float
    longest: int
    end: int


class RolloutSampler(Protocol):
    """A back end for a trainer. Prompts are token ids and answers come as token ids: nothing is told by its text."""

    @property
    def gives_back(self) -> bool:
        """Whether its memory is the trainer's while nothing is drawn."""
        ...

    def publish(self, folder: Path) -> None:
        """From now on draw with the weights in this folder, an adapter or a whole model, and let go of those before.

        A folder's path must never have been published before: what is kept from earlier prompts is keyed on it.
        Raises InputError for a folder that cannot be served.
        """
        ...

    def draw(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Drawing) -> list[list[Drawn]]:
        """`how.answers` draws for each prompt, in order, each prompt with its seed.

        The k-th draw of a prompt depends on its seed and k alone. Raises ServingError if the engine fails.
        """
        ...

    def close(self) -> None:
        """Give back memory and devices. Calling it twice is harmless."""
        ...
