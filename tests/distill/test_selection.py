"""Which questions are worth asking, and that a batch of them is not all of one kind."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.selection import disagreement, double_thompson, pick, value_of

AGREED = torch.tensor([[2.0, -1.0, 0.0], [1.0, -3.0, 0.5], [4.0, 0.0, 1.0]])
TORN = torch.tensor([[2.0, -2.0, 0.0], [-2.0, 2.0, 0.0], [2.0, -2.0, 0.0]])

scores = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.floats(-20, 20), min_size=n, max_size=n), min_size=1, max_size=4)
)


def test_members_that_are_apart_are_worth_more_than_members_that_agree() -> None:
    assert disagreement(TORN) > 4 * disagreement(AGREED)
    drawn = [double_thompson(TORN, random.Random(seed)) for seed in range(60)]
    # Of three pairs of members, two hold one of each opinion.
    assert sum(value > 0.9 for value in drawn) / 60 == pytest.approx(2 / 3, abs=0.2)
    assert {value for value in drawn if value <= 0.9} == {0.0}
    assert all(double_thompson(AGREED, random.Random(seed)) == 0 for seed in range(20))


@given(scores, st.randoms(use_true_random=False))
def test_values_are_bounded_and_what_all_answers_have_in_common_is_worth_nothing(
    rows: list[list[float]], rng: random.Random
) -> None:
    table = torch.tensor(rows)
    shift = torch.randn(len(rows), 1, generator=torch.Generator().manual_seed(1))
    assert 0 <= disagreement(table) <= 0.25 + 1e-6
    assert disagreement(table) == pytest.approx(disagreement(table + shift), abs=1e-3)
    assert -1e-6 <= double_thompson(table, rng) <= 1 + 1e-6


@pytest.mark.parametrize("by", ["disagreement", "double_thompson"])
def test_nothing_is_learned_from_one_answer_one_member_or_none(by: str) -> None:
    rng = random.Random(1)
    for shape in ((3, 1), (1, 4), (3, 0)):
        assert value_of(by, torch.randn(shape), rng) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), max_size=40), st.integers(0, 50), st.integers())
def test_a_batch_has_as_many_as_it_can_each_once(of: list[tuple[float, str]], count: int, seed: int) -> None:
    values, groups = [value for value, _ in of], [group for _, group in of]
    picked = pick(values, groups, count, random.Random(seed))
    assert len(picked) == len(set(picked)) == min(count, len(of))
    assert picked == pick(values, groups, count, random.Random(seed))


def test_the_valuable_are_drawn_first_and_no_group_has_more_than_its_share() -> None:
    # A quarter of the candidates is of the hard group, and of each group half are worth something.
    groups = ["hard"] * 100 + ["easy"] * 300
    values = [1.0 if place < 50 else 0.1 if 100 <= place < 250 else 0.0 for place in range(400)]
    counts = Counter[str]()
    for seed in range(10):
        picked = pick(values, groups, 40, random.Random(seed))
        assert all(values[place] > 0 for place in picked)
        counts.update(groups[place] for place in picked)
    assert counts["hard"] == 10 * 20  # twice its share, where its values are three times the others' together
    assert counts["easy"] == 10 * 20


def test_candidates_of_equal_value_are_drawn_evenly() -> None:
    drawn = Counter(place for seed in range(400) for place in pick([0.0] * 20, ["a"] * 20, 5, random.Random(seed)))
    assert len(drawn) == 20
    assert max(drawn.values()) < 2 * min(drawn.values())
