"""Projection: what the run's own costs come to where an episode of H^A costs 1,000 of A's, as the source expects.

Source: P. Christiano, "Benign model-free RL" (2017): F1 of 10%, F2 of 0.01% and F3 of 1000, 20% in all. A run on small
tasks has an F3 of a few, so its total says little about that. What carries over are two curves that the run measured:

- F1 = a + b / s and F2 = F2 / s, with s times as many training episodes on the same labels. a is paid with each episode
  (the reward model's forward passes, attacks among PPO's prompts), b once (training on labels, warm start, the reward
  model's training, the adversary's search).
- how F1 and F2 moved from generation to generation as F3 grew, as powers of F3.

None of this is a measurement at F3 = 1000, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.overhead import Factors, GenerationCost

REGIME_F3 = 1000.0
HOPE = 0.2
# Times as many training episodes on the same labels.
TIMES = (1, 10, 100, 1_000, 10_000)
# A power of F3 is fitted to so many generations at least, and if F3 grew by so much at least from the lowest on.
LEAST_GENERATIONS, LEAST_GROWTH = 3, 1.5

ASSUMPTIONS = (
    "As many labels as in this run, each at 1,000 times an episode of A.",
    "What is paid once (training on labels, warm start, the reward model's training, the adversary's search) stays as "
    "it is; what is paid with each training episode (the reward model's forward passes, attacks) keeps its share.",
    "That an agent has a use for so many more episodes on the same labels is assumed: this run did not try it.",
)


@dataclass(frozen=True)
class Projected:
    """F1, F2 and F1 + F2 x 1000, all shares. `times`: as many training episodes as in the run."""

    times: float
    f1: float
    f2: float
    total: float

    def as_json(self) -> dict[str, float]:
        return {"times": self.times, "F1": self.f1, "F2": self.f2, "total": self.total}


@dataclass(frozen=True)
class Trend:
    """F1 and F2 as powers of F3, fitted by least squares to the logarithms of `generations` generations.

    `f3_from`, `f3_to`: the F3 that they had, the lowest and the highest. `projected`: at F3 = 1000, far beyond.
    """

    generations: int
    f3_from: float
    f3_to: float
    f1_exponent: float
    f2_exponent: float
    projected: Projected

    def as_json(self) -> dict[str, Any]:
        measured = {"generations": self.generations, "F3_measured": [self.f3_from, self.f3_to]}
        exponents = {"F1_exponent": self.f1_exponent, "F2_exponent": self.f2_exponent}
        return measured | exponents | self.projected.as_json()


@dataclass(frozen=True)
class Projection:
    """`f1_each` and `f1_once` are the a and b of F1 = a + b / s. `times_for_hope`: the s at which the total is `HOPE`;
    None if a alone is more. `trend`: None where too few generations differ in F3."""

    f1_each: float
    f1_once: float
    by_times: tuple[Projected, ...]
    times_for_hope: float | None
    trend: Trend | None

    def as_json(self) -> dict[str, Any]:
        """As the report holds it: labelled, and beside its assumptions."""
        return {
            "measured": False,
            "F3": REGIME_F3,
            "assumptions": list(ASSUMPTIONS),
            "F1_each_episode": self.f1_each,
            "F1_once": self.f1_once,
            "more_episodes": [row.as_json() for row in self.by_times],
            "hope": HOPE,
            "times_for_hope": self.times_for_hope,
            "trend": self.trend.as_json() if self.trend else None,
        }


def projection(costs: Sequence[GenerationCost], generations: Sequence[Factors], run: Factors) -> Projection | None:
    """From what the ledger wrote and the factors that came of it. None without plain RL to measure by, or from a ledger
    that did not tell apart what is paid once."""
    plain, once = sum(cost.plain_rl_flops for cost in costs), [cost.once_flops for cost in costs]
    if run.f1 is None or run.f2 is None or None in once:
        return None
    b = sum(each for each in once if each is not None) / plain
    a = max(0.0, run.f1 - b)
    dear = b + run.f2 * REGIME_F3
    by_times = tuple(Projected(s, a + b / s, run.f2 / s, a + dear / s) for s in TIMES)
    return Projection(a, b, by_times, dear / (HOPE - a) if a < HOPE else None, _trend(generations))


def _trend(generations: Sequence[Factors]) -> Trend | None:
    rows = [(one.f3, one.f1, one.f2) for one in generations if one.f3 and one.f1 and one.f2]
    if len(rows) < LEAST_GENERATIONS:
        return None
    f3 = [row[0] for row in rows]
    if max(f3) < LEAST_GROWTH * min(f3):
        return None
    powers = [_power(f3, [row[place] for row in rows]) for place in (1, 2)]
    f1, f2 = (scale * REGIME_F3**exponent for scale, exponent in powers)
    projected = Projected(1, f1, f2, f1 + f2 * REGIME_F3)
    return Trend(len(rows), min(f3), max(f3), powers[0][1], powers[1][1], projected)


def _power(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """(scale, exponent) of the least-squares line through the logarithms of positive numbers."""
    across, up = [math.log(value) for value in x], [math.log(value) for value in y]
    middle, height = sum(across) / len(across), sum(up) / len(up)
    spread = sum((value - middle) ** 2 for value in across)
    slope = sum((a - middle) * (b - height) for a, b in zip(across, up, strict=True)) / spread
    return math.exp(height - slope * middle), slope
