"""Draws: everything random in PPO, as a function of the seed, the update and a row's place in the global batch.

So a training that was killed and resumed draws the same, without any random state being kept, and so do several
processes that share a batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch

from amplification.question import digest
from distill.rollout import gumbel


class Draws:
    """Which prompts, which noise and which minibatches an update has; `rank` of `world` processes sees its share."""

    def __init__(self, seed: int, prompts: int, batch: int, rank: int, world: int) -> None:
        """`prompts`: how many there are; `batch`: rows of an update, over all processes."""
        self.seed, self.prompts, self.batch, self.rank, self.world = seed, prompts, batch, rank, world
        self._epoch, self._order = -1, list[int]()

    def places(self, update: int) -> list[int]:
        """Places of this process's prompts: epochs of shuffled prompts, one after the other."""
        begin = update * self.batch
        return [self._shuffled(place) for place in range(begin, begin + self.batch)][self.rank :: self.world]

    def noise(self, update: int, steps: int, vocabulary: int) -> list[torch.Tensor]:
        """Gumbel noise [rows, vocabulary] of each answer token, for this process's rows."""
        return [
            gumbel(self.batch, vocabulary, self._number(update, "draw", step))[self.rank :: self.world]
            for step in range(steps)
        ]

    def seeds(self, update: int) -> list[int]:
        """A seed for each of this process's rows, for a sampler that makes its own noise."""
        return [self._number(update, "seed", place) for place in range(self.batch)][self.rank :: self.world]

    def minibatches(self, update: int, epoch: int, size: int) -> Iterator[list[int]]:
        """Places, among this process's rows, of each minibatch of `size` rows over all processes; may be none."""
        order = list(range(self.batch))
        random.Random(self._number(update, "minibatches", epoch)).shuffle(order)
        for start in range(0, self.batch, size):
            chosen = order[start : start + size]
            yield sorted(place // self.world for place in chosen if place % self.world == self.rank)

    def _shuffled(self, place: int) -> int:
        epoch, within = divmod(place, self.prompts)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self.prompts))
            random.Random(f"{self.seed}/prompts/{epoch}").shuffle(self._order)
        return self._order[within]

    def _number(self, update: int, *what: object) -> int:
        return int(digest(str(self.seed), str(update), *map(str, what))[:15], 16)
