"""Intervals for shares of questions: Wilson's for one share, Newcombe's for the difference of two."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

Z_95 = 1.96


def wilson(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval for a share of `n` questions; (0, 1) when there are none.

    Raises ValueError unless 0 <= successes <= n. Source: E. B. Wilson, "Probable inference, the law of succession,
    and statistical inference", JASA 22 (1927).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n} is not a share")
    if n == 0:
        return 0.0, 1.0
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # At the ends the interval reaches them exactly; rounding must not leave it a hair short.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


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
