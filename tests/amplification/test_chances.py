"""Predictions of votes and trees against counting by hand and against what is measured."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from amplification.amplified import Amplified
from amplification.benchmarks import reliability
from amplification.benchmarks.chances import elected_right, sum_is_right
from amplification.dispatch import Dispatcher
from amplification.serving.programs import ProgramSampler
from amplification.voting import Voting


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_one_vote_is_right_as_often_as_a_is(rate: float) -> None:
    assert elected_right(rate, 1, 9, Voting()) == pytest.approx(1 - rate)


def test_three_votes_by_hand() -> None:
    p, k = 0.2, 4
    two_or_three_right = (1 - p) ** 3 + 3 * (1 - p) ** 2 * p
    # one right and two different wrong ones is a tie, which the first wins: right in one of three orders
    tie = 3 * (1 - p) * p * p * (k - 1) / k / 3
    assert elected_right(p, 3, k, Voting()) == pytest.approx(two_or_three_right + tie)


def test_with_one_wrong_answer_votes_are_binomial() -> None:
    p = 0.3
    binomial = sum(math.comb(5, n) * (1 - p) ** n * p ** (5 - n) for n in (3, 4, 5))
    assert elected_right(p, 5, 1, Voting()) == pytest.approx(binomial)


def test_probabilities_that_mean_something_help_a_vote() -> None:
    by_probability = elected_right(0.2, 3, 54, Voting(weights="probability"), reliability._logprob)
    assert by_probability == pytest.approx(1 - 0.2**3)  # one right sample outweighs any two wrong ones
    assert by_probability > elected_right(0.2, 3, 54, Voting())


def test_sums_of_parts_by_enumeration() -> None:
    # one digit a part: a wrong one is any of nine others
    right, rng, hits, n = 0.6, random.Random(0), 0, 40_000
    for _ in range(n):
        error = 0
        for _ in range(2):
            truth = rng.randrange(10)
            if rng.random() >= right:
                error += rng.choice([d for d in range(10) if d != truth]) - truth
        hits += error == 0
    assert sum_is_right(right, 2, 1) == pytest.approx(hits / n, abs=0.01)
    assert sum_is_right(1.0, 64, 6) == pytest.approx(1)
    assert sum_is_right(0.9, 1, 6) == pytest.approx(0.9)


def test_what_is_measured_agrees_with_what_is_predicted() -> None:
    for cell in (reliability._cell(0.1, 1, 2, 400), reliability._mixed_cell(0.2, 3, "probability", 2, 400)):
        spread = math.sqrt(cell.predicted * (1 - cell.predicted) / cell.questions)
        assert abs(cell.share - cell.predicted) < 4 * spread  # deterministic: the errors are a function of the seed
        assert cell.low <= cell.share <= cell.high


def test_votes_are_spent_where_they_are_said_to_be() -> None:
    for spent, calls in {"nowhere": 63, "deep": 159, "shallow": 153, "everywhere": 189}.items():
        voting = Voting(samples=reliability.SPENT[spent])
        right, used = reliability._asked(reliability.Halver(True), 0.0, voting, reliability.SPENT_DEPTH, 3)
        assert (right, used) == (3, calls)


def test_an_episode_of_the_adding_overseer_asks_a_to_add() -> None:
    rng = random.Random(0)
    assert {reliability._wrong("sum of 1 2 3 4 5 6", "21", rng) for _ in range(3_000)} == {
        str(n) for n in range(55) if n != 21
    }
    assert asyncio.run(reliability._all(_exact(), ["sum of " + " ".join("123456" * 4)]))[0].answer.text == "84"


def _exact() -> Amplified:
    dispatcher = Dispatcher(ProgramSampler(reliability._sum))
    return Amplified(reliability.Halver(True), reliability.AGENT, dispatcher, reliability.LIMITS)
