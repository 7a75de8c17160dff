"""Lessons: which training rows come next, where the loss is highest.

Rows belong to groups (a task at a level, or nonsense). A group is drawn with a probability proportional to its running
loss plus a floor, and its rows in turn, shuffled anew each time round. So what is learnt takes little time, what is
hard gets more, and what is being forgotten comes back.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence

from torch.utils.data import Sampler

from amplification.errors import StageError

# What every group is drawn for even when its loss is nothing, in nats.
FLOOR = 0.05
# How much of the running loss one batch replaces.
RATE = 0.1
# The running loss of a group that has not been drawn yet.
UNKNOWN = 1.0


class LessonSampler(Sampler[int]):
    """`draws` indices of rows. `group_of[i]` is the group of row i; `learned` tells of losses as training goes on.

    `floors` are the floors of groups that have one of their own.
    """

    def __init__(
        self, group_of: Sequence[str], draws: int, seed: int, floors: Mapping[str, float] | None = None
    ) -> None:
        self.draws = draws
        self.floors = dict(floors or {})
        self.group_of = list(group_of)
        self.rng = random.Random(f"{seed}/lessons")
        self.rows: dict[str, list[int]] = {}
        for index, group in enumerate(group_of):
            self.rows.setdefault(group, []).append(index)
        self.loss: dict[str, float] = dict.fromkeys(self.rows, UNKNOWN)
        self._waiting: dict[str, list[int]] = {group: [] for group in self.rows}

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        """Lazily, so that each batch is drawn by what is known when it is asked for."""
        groups = list(self.rows)
        for _ in range(self.draws):
            group = self.rng.choices(groups, [self.loss[group] + self.floors.get(group, FLOOR) for group in groups])[0]
            waiting = self._waiting[group]
            if not waiting:
                waiting += self.rng.sample(self.rows[group], len(self.rows[group]))
            yield waiting.pop()

    def learned(self, indices: Sequence[int], losses: Sequence[float]) -> None:
        """Take note of the loss, in nats, of some rows just trained on. Raises StageError for one that is no number."""
        if not all(map(math.isfinite, losses)):
            keys = "distill.warm_start.learning_rate, or an imitator's training.learning_rate"
            raise StageError(f"supervised training diverged: its loss is no number; lower {keys}")
        found: dict[str, list[float]] = {}
        for index, loss in zip(indices, losses, strict=True):
            found.setdefault(self.group_of[index], []).append(loss)
        for group, values in found.items():
            self.loss[group] += RATE * (sum(values) / len(values) - self.loss[group])
