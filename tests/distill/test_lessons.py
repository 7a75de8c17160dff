"""Lessons go where the loss is, and nothing is left out for ever."""

from collections import Counter
from itertools import islice

import pytest

from distill.lessons import FLOOR, LessonSampler

GROUPS = ["easy"] * 50 + ["hard"] * 5


def test_groups_are_drawn_in_proportion_to_their_loss() -> None:
    sampler = LessonSampler(GROUPS, 20_000, seed=1)
    for _ in range(200):
        sampler.learned([0, 50], [0.0, 0.95])
    drawn = Counter(GROUPS[index] for index in sampler)
    assert drawn["easy"] / drawn["hard"] == pytest.approx(FLOOR / (0.95 + FLOOR), rel=0.15)


def test_a_groups_rows_come_in_turn() -> None:
    sampler = LessonSampler(["only"] * 7, 21, seed=1)
    drawn = list(sampler)
    assert all(sorted(drawn[start : start + 7]) == list(range(7)) for start in (0, 7, 14))
    assert drawn[:7] != drawn[7:14]


def test_what_is_forgotten_comes_back() -> None:
    sampler = LessonSampler(GROUPS, 4_000, seed=1)
    indices = iter(sampler)
    for _ in range(100):
        sampler.learned([0, 50], [0.0, 0.0])
    calm = Counter(GROUPS[index] for index in islice(indices, 1_000))
    for _ in range(100):
        sampler.learned([50], [2.0])
    after = Counter(GROUPS[index] for index in islice(indices, 1_000))
    assert calm["hard"] < 600 < 900 < after["hard"]


def test_the_order_depends_on_the_seed_alone() -> None:
    first, again, other = (list(LessonSampler(GROUPS, 500, seed)) for seed in (1, 1, 2))
    assert first == again != other
