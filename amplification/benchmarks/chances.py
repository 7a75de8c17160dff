"""What to expect of votes and of trees when every sample of A is wrong independently, at a known rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from amplification.question import Answer
from amplification.voting import Voting

RIGHT = 0

LogProb = Callable[[float, bool], float]


def elected_right(rate: float, votes: int, wrong_answers: int, voting: Voting, logprob: LogProb | None = None) -> float:
    """The probability that a vote elects the right answer.

    Each sample is right with probability 1 - rate, or else one of `wrong_answers` equally likely wrong ones, all
    samples independently: wrong ones agree by chance alone. Every pattern of agreement is gone through and put to
    `voting` itself, so ties and weights are counted as it counts them. `logprob` as in `serving.programs.Unreliable`.
    """

    def elects(pattern: tuple[int, ...]) -> bool:
        answers = [Answer(str(answer)) for answer in pattern]
        given = [logprob(rate, answer == RIGHT) if logprob else None for answer in pattern]
        return voting.elect(answers, given).text == str(RIGHT)

    def chance(pattern: tuple[int, ...]) -> float:
        if len(pattern) == votes:
            return float(elects(pattern))
        seen = max(pattern, default=RIGHT)  # wrong answers are numbered in the order in which they come
        each = rate / wrong_answers
        found = (1 - rate) * chance((*pattern, RIGHT))
        found += sum(each * chance((*pattern, wrong)) for wrong in range(1, seen + 1))
        if seen < wrong_answers and rate:
            found += each * (wrong_answers - seen) * chance((*pattern, seen + 1))
        return found

    return chance(())


def sum_is_right(right: float, parts: int, digits: int) -> float:
    """The probability that a sum of `parts` answers is right, each right with probability `right` by itself.

    A wrong one is any other sum of so many digits, equally likely; wrong ones that cancel out are counted. Exact over
    questions of random digits: the error's distribution is that of one part, folded `parts` times.
    """
    most = 9 * digits
    sums = np.ones(1)
    for _ in range(digits):
        sums = np.convolve(sums, np.full(10, 0.1))
    error = np.zeros(2 * most + 1)  # of one part, from -most to most
    for truth, share in enumerate(sums):
        error[most - truth : 2 * most - truth + 1] += share * (1 - right) / most
        error[most] -= share * (1 - right) / most
    error[most] += right
    length = 2 ** math.ceil(math.log2(parts * 2 * most + 1))
    whole = np.fft.irfft(np.fft.rfft(error, length) ** parts, length)
    return float(whole[parts * most])
