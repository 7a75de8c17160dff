"""Intervals against published values and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.statistics import corrected_z, difference, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (
            81,
            263,
            0.2553,
            0.3662,
        ),  # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(share: tuple[int, int]) -> None:
    k, n = share
    low, high = wilson(k, n)
    assert 0 <= low <= (k / n if n else 0.5) <= high <= 1
    mirrored = wilson(n - k, n)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


def test_wilson_refuses_what_is_no_share() -> None:
    for successes, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="not a share"):
            wilson(successes, n)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),  # Newcombe (1998), "Interval estimation for the difference", table II
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_difference_gives_published_values(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    assert difference(first, second) == pytest.approx((low, high), abs=5e-5)
    assert difference(second, first) == pytest.approx((-high, -low), abs=5e-5)


def test_nothing_is_known_of_no_questions() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert difference((0, 0), (5, 5)) == (-1.0, 1.0)


def test_correction_widens_with_comparisons() -> None:
    assert corrected_z(1) == corrected_z(0) == 1.96
    assert corrected_z(10) == pytest.approx(2.807, abs=1e-3)
