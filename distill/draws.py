"""Draws: what is random in an update of PPO, as a function of the seed, the update and a row's place in the batch.

So a training that was killed and resumed draws the same, without any random state being kept, and so do several
processes that share a batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch

from amplification.question import digest
from distill.rollout import uniform


class Share(NamedTuple):
    """A process's part of a minibatch: places `mine` among its prompts. `most`: of prompts that any process has, and at
    least 1."""

    mine: list[int]
    most: int


class Draws:
    """Answers' draws and minibatches of an update; `rank` of `world` processes sees its share."""

    def __init__(self, seed: int, prompts: int, each: int, rank: int, world: int) -> None:
        """`prompts`: of an update, over all processes, with so many answers `each`."""
        self.seed, self.prompts, self.each, self.rank, self.world = seed, prompts, each, rank, world

    def answers(self, update: int, longest: int) -> torch.Tensor:
        """Even draws [rows, longest] from [0, 1) for the tokens of the answers to this process's prompts."""
        drawn = uniform(self.prompts * self.each, longest, self._number(update, "draw"))
        return drawn.view(self.prompts, self.each, longest)[self.rank :: self.world].reshape(-1, longest)

    def seeds(self, update: int) -> list[int]:
        """A seed for each of this process's prompts, for a sampler that makes its own draws."""
        return [self._number(update, "seed", place) for place in range(self.prompts)][self.rank :: self.world]

    def minibatches(self, update: int, epoch: int, size: int) -> Iterator[Share]:
        """This process's share, which may be nothing, of each minibatch of `size` prompts over all processes."""
        order = list(range(self.prompts))
        random.Random(self._number(update, "minibatches", epoch)).shuffle(order)
        for start in range(0, self.prompts, size):
            chosen = order[start : start + size]
            ranks = [place % self.world for place in chosen]
            mine = sorted(place // self.world for place in chosen if place % self.world == self.rank)
            yield Share(mine, max(map(ranks.count, range(self.world))))

    def _number(self, update: int, *what: object) -> int:
        return int(digest(str(self.seed), str(update), *map(str, what))[:15], 16)
