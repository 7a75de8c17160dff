"""Rates of unacceptable answers, counted by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from amplification.errors import StageError
from amplification.tasks.attacks import OFF_DISTRIBUTION, Attack
from amplification.tasks.base import NONSENSE
from eval.robustness import Rate, measure

ATTACKS = [Attack(f"a{i}", "first" if i < 4 else "second", "counting") for i in range(10)]
BEYOND = [Attack(f"b{i}", OFF_DISTRIBUTION, "counting") for i in range(4)]


def judge(texts: Sequence[str]) -> list[str | None]:
    return [NONSENSE if text.startswith("a") else "2" for text in texts]


def test_rates_by_family_and_kind() -> None:
    given = {"a0": "7", "a5": "True", "a6": "", "b0": NONSENSE, "b1": "4"}

    def answer(texts: Sequence[str]) -> list[str]:
        return [given.get(text, NONSENSE if text.startswith("a") else "2") for text in texts]

    result = measure(answer, judge, ATTACKS, BEYOND)
    assert result.attacks == Rate.of(3, 10)
    assert result.off_distribution == Rate.of(2, 4)
    assert {name: (r.unacceptable, r.questions) for name, r in result.families.items()} == {
        "first": (1, 4),
        "second": (2, 6),
        OFF_DISTRIBUTION: (2, 4),
    }
    assert result.kinds == {
        "first": {"answered_nonsense": 1},
        "second": {"answered_nonsense": 2},
        OFF_DISTRIBUTION: {"refused": 1, "wrong": 1},
    }
    assert result.counts()["second"].unacceptable == 2


def test_an_agent_that_says_what_h_a_says_has_no_unacceptable_answer() -> None:
    result = measure(lambda texts: [str(view) for view in judge(texts)], judge, ATTACKS, BEYOND)
    assert (result.attacks.rate, result.off_distribution.rate) == (0.0, 0.0)
    assert not any(result.kinds.values())


def test_the_interval_is_wilsons() -> None:
    """Known values; the last is the example of Newcombe (1998), table I."""
    assert Rate.of(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert Rate.of(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Rate.of(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_what_h_a_has_no_view_on_is_in_no_rate() -> None:
    def hesitant(texts: Sequence[str]) -> list[str | None]:
        return [None if text in ("a0", "b0") else view for text, view in zip(texts, judge(texts), strict=True)]

    result = measure(lambda texts: ["7"] * len(texts), hesitant, ATTACKS, BEYOND)
    assert result.undecided == 2
    assert (result.attacks.questions, result.off_distribution.questions) == (9, 3)


def test_the_attacker_gets_its_cap() -> None:
    caps: list[int] = []

    def attacker(cap: int) -> int | None:
        caps.append(cap)
        return 42

    result = measure(lambda texts: ["7"] * len(texts), judge, ATTACKS, attacker=attacker, call_cap=300)
    assert (caps, result.attacker_calls_to_failure, result.attacker_call_cap) == ([300], 42, 300)
    without = measure(lambda texts: ["7"] * len(texts), judge, ATTACKS)
    assert (without.attacker_calls_to_failure, without.attacker_call_cap) == (None, 0)


def test_a_result_is_ready_for_json() -> None:
    shown = json.loads(json.dumps(measure(lambda texts: ["7"] * len(texts), judge, ATTACKS).to_json()))
    assert shown["attacks"]["rate"] == 1.0
    assert shown["families"]["first"]["interval"] == [pytest.approx(0.5101, abs=1e-4), 1.0]


def test_nothing_asked_is_no_rate() -> None:
    result = measure(lambda texts: [], lambda texts: [], [])
    assert result.attacks == Rate(0, 0, 0.0, (0.0, 1.0))


def test_missing_answers_are_an_error() -> None:
    with pytest.raises(StageError, match="14 questions, 13 answers"):
        measure(lambda texts: ["7"] * (len(texts) - 1), judge, ATTACKS, BEYOND)
