"""Prompts go where answers earn little, attacks are capped, and a training that carries on has the same prompts."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from distill.lessons import FLOOR
from distill.practice import Hardest, Practice

GROUPS = ["easy"] * 50 + ["hard"] * 5 + ["attack/a"] * 20 + ["attack/b"] * 20


def taught(share: float, easy: float, hard: float, attacks: tuple[float, float]) -> Hardest:
    """Practice that has seen so much reward in each group for long."""
    practice = Hardest(GROUPS, 1, share)
    rewards = torch.tensor([easy, hard, *attacks])
    for _ in range(200):
        practice.learned(practice.earned([0, 50, 55, 75], rewards))
    return practice


def shares(practice: Practice, count: int = 20_000) -> dict[str, float]:
    drawn = Counter(GROUPS[place] for place in practice.places(0, count))
    return {group: number / count for group, number in drawn.items()}


def test_groups_come_by_how_little_they_earn() -> None:
    found = shares(taught(0.0, 1.0, 0.0, (1.0, 1.0)))
    assert found["hard"] / found["easy"] == pytest.approx((0.5 + FLOOR) / FLOOR, rel=0.15)


def test_attacks_are_capped_together_and_the_worse_kind_comes_more_often() -> None:
    practice = taught(0.1, 0.0, 0.0, (-1.0, 0.0))
    found = shares(practice)
    assert found["attack/a"] + found["attack/b"] == pytest.approx(0.1, rel=0.1)
    assert found["attack/a"] / found["attack/b"] == pytest.approx((1 + FLOOR) / (0.5 + FLOOR), rel=0.2)
    assert practice.attacks == sum(practice.drawn[group] for group in ("attack/a", "attack/b"))


def test_attacks_that_are_answered_well_come_less_often_than_the_cap() -> None:
    found = shares(taught(0.5, -1.0, -1.0, (1.0, 1.0)))
    assert found["attack/a"] + found["attack/b"] < 0.1


@pytest.mark.parametrize("kind", [Practice, Hardest])
def test_a_training_that_carries_on_has_the_same_prompts(kind: type[Practice]) -> None:
    def made() -> Practice:
        return Hardest(GROUPS, 1, 0.2) if kind is Hardest else Practice(GROUPS, 1)

    def updates(practice: Practice, numbers: range) -> list[list[int]]:
        found = []
        for update in numbers:
            places = practice.places(update, 16)
            rewards = torch.tensor([1.0 if GROUPS[place] == "easy" else -1.0 for place in places])
            practice.learned(practice.earned(places, rewards))
            found.append(places)
        return found

    whole, begun, resumed = made(), made(), made()
    expected = updates(whole, range(8))
    updates(begun, range(5))
    resumed.restore(begun.state())
    assert updates(resumed, range(5, 8)) == expected[5:]
    assert resumed.drawn == whole.drawn
    assert sum(whole.drawn.values()) == 8 * 16


def test_all_prompts_come_before_one_comes_again() -> None:
    practice = Practice(["only"] * 7, 1)
    turns = [practice.places(update, 7) for update in range(3)]
    assert all(sorted(turn) == list(range(7)) for turn in turns)
    assert turns[0] != turns[1]


def test_processes_that_share_a_batch_learn_the_same_of_it() -> None:
    """What each sees of the rewards is added up."""
    together, shared = Hardest(GROUPS, 1, 0.2), [Hardest(GROUPS, 1, 0.2) for _ in range(2)]
    places, rewards = [0, 50, 55, 1], torch.tensor([0.5, -1.0, 0.0, -0.5])
    together.learned(together.earned(places, rewards))
    own = [each.earned(places[rank::2], rewards[rank::2]) for rank, each in enumerate(shared)]
    shared[0].learned(own[0] + own[1])
    assert shared[0].loss == pytest.approx(together.loss)
