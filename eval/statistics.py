"""Intervals for shares of questions: Wilson's for one share, Newcombe's for the difference of two."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from amplification.intervals import Z_95, wilson

__all__ = ["Z_95", "corrected_z", "difference", "wilson"]


def difference(first: tuple[int, int], second: tuple[int, int], z: float = Z_95) -> tuple[float, float]:
    """Newcombe's interval for share(first) - share(second), each given as (successes, n).

    (-1, 1) when either has no questions. Source: R. G. Newcombe, "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17 (1998), method 10.
    """
    if first[1] == 0 or second[1] == 0:
        return -1.0, 1.0
    p, q = first[0] / first[1], second[0] / second[1]
    (p_low, p_high), (q_low, q_high) = wilson(*first, z), wilson(*second, z)
    below = sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    above = sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    return p - q - below, p - q + above


def corrected_z(comparisons: int, confidence: float = 0.95) -> float:
    """z for two-sided intervals that all hold at once with `confidence` (Bonferroni); `Z_95` for one comparison.

    For rejecting "at least as good everywhere" by the worst of many cells: without this, an agent that is equal
    everywhere would be found worse somewhere more often than not.
    """
    if comparisons <= 1 and confidence == 0.95:
        return Z_95
    return NormalDist().inv_cdf(1 - (1 - confidence) / (2 * max(1, comparisons)))
