"""Wilson's interval for a share of questions."""

from __future__ import annotations

from math import sqrt

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
