"""How often H^A is right when A errs at a known rate: by votes, by depth, and by where the votes are spent."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.benchmarks.base import Measured, Settings
from amplification.benchmarks.chances import elected_right, sum_is_right
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Episode
from amplification.intervals import wilson
from amplification.overseer import Decision, Overseer
from amplification.question import Question, digest
from amplification.serving.base import ModelRef, SamplingParams
from amplification.serving.programs import ProgramSampler, Unreliable
from amplification.voting import Voting
from amplification.workspace import Action, Ask, Reply, SubQuestion, Workspace

ERROR_RATES, VOTES, DEPTHS = (0.01, 0.05, 0.1, 0.2), (1, 3, 5), (1, 2, 4, 6)
QUESTIONS = 400

# A adds up six digits: 0 to 54, so a wrong answer of the right form is one of 54.
DIGITS, WRONG_ANSWERS = 6, 54

LIMITS = Limits(calls=10**9, tokens=10**12, depth=20, workspace_chars=10_000, seconds=3_600)
AGENT = Agent("erring", ModelRef("none"), "0", SamplingParams(temperature=1.0))

# Votes by depth in the second experiment, at about equal cost: two leaves and their addition are asked in each of the
# 16 deepest workspaces, one addition in each of the 15 above.
SPENT = {"nowhere": (1,), "deep": (1, 1, 1, 1, 3), "shallow": (7, 7, 7, 7, 1), "everywhere": (3,)}
SPENT_DEPTH = len(SPENT["deep"])


@dataclass(frozen=True)
class Cell:
    """`right` of `questions` answered right, Wilson's 95% interval of the share, and what is predicted for it."""

    error_rate: float
    votes: int
    weights: str
    depth: int
    calls: int
    questions: int
    right: int
    share: float
    low: float
    high: float
    predicted: float


@dataclass(frozen=True)
class SpentCell:
    """The same for votes spent deep or shallow; `calls` are those of one episode, `errs` is where A errs."""

    errs: Literal["evenly", "at the top"]
    spent: str
    calls: int
    questions: int
    right: int
    share: float
    low: float
    high: float
    predicted_at_least: float


@dataclass(frozen=True)
class Reliability(Measured):
    """`within` of the cells' intervals hold the predicted share (of exact predictions some 95% should)."""

    cells: tuple[Cell, ...]
    within: int
    spent: tuple[SpentCell, ...]

    def as_line(self) -> str:
        lines = [f"{self.within} of {len(self.cells)} predictions lie in the 95% interval of what was measured"]
        lines += [
            f"  A errs {c.error_rate:.0%}, {c.votes} votes ({c.weights}), depth {c.depth} ({c.calls} calls): "
            f"{c.share:.3f} [{c.low:.3f}, {c.high:.3f}], predicted {c.predicted:.3f}"
            for c in self.cells
        ]
        lines += [
            f"  A errs {s.errs}, votes {s.spent} ({s.calls} calls): {s.share:.3f} [{s.low:.3f}, {s.high:.3f}], "
            f"predicted at least {s.predicted_at_least:.3f}"
            for s in self.spent
        ]
        return "\n".join(lines)


class Halver(Overseer):
    """`sum of 1 2 ...`: halves down to six digits, which it asks A, and adds the answers up itself or by asking A."""

    def __init__(self, asks_to_add: bool = False) -> None:
        self.asks_to_add, self.name = asks_to_add, "adding" if asks_to_add else "halving"

    async def act(self, workspace: Workspace) -> Decision:
        return Decision(self._action(workspace))

    def _action(self, workspace: Workspace) -> Action:
        answers = [exchange.answer.text for exchange in workspace.exchanges]
        if not answers:
            digits = workspace.question.text.split()[2:]
            middle = len(digits) // 2
            return Ask((_part(digits[:middle]), _part(digits[middle:])))
        if not self.asks_to_add:
            return Reply(str(sum(map(int, answers))))
        if len(answers) == 2:
            return Ask((SubQuestion(Question(f"sum of {answers[0]} {answers[1]}")),))
        return Reply(answers[-1])


def _part(digits: Sequence[str]) -> SubQuestion:
    return SubQuestion(Question("sum of " + " ".join(digits)), recurse=len(digits) > DIGITS)


def reliability(settings: Settings) -> Reliability:
    """Both experiments, at least `QUESTIONS` questions a cell (`--calls` has no say, `--repeats` is times as many)."""
    questions = QUESTIONS * (settings.repeats or 1)
    cells = [_cell(rate, votes, depth, questions) for rate, votes, depth in product(ERROR_RATES, VOTES, DEPTHS)]
    for rate, votes in product((0.1, 0.2), (3, 5)):
        cells.append(_mixed_cell(rate, votes, "majority", 4, questions))
        cells.append(_mixed_cell(rate, votes, "probability", 4, questions))
    spent = tuple(_spent_cells(questions))
    within = sum(cell.low <= cell.predicted <= cell.high for cell in cells)
    return Reliability(tuple(cells), within, spent)


def _cell(rate: float, votes: int, depth: int, questions: int) -> Cell:
    """Every answer of A is wrong with the same probability, independently: the prediction is exact."""
    predicted = sum_is_right(elected_right(rate, votes, WRONG_ANSWERS, Voting()), 2**depth, DIGITS)
    right, calls = _asked(Halver(), rate, Voting(samples=(votes,)), depth, questions)
    low, high = wilson(right, questions)
    return Cell(rate, votes, "majority", depth, calls, questions, right, right / questions, low, high, predicted)


def _mixed_cell(
    rate: float, votes: int, weights: Literal["majority", "probability"], depth: int, questions: int
) -> Cell:
    """Half of A's questions are hard (1.8 times the rate), half easy (0.2 times), and A's log-probabilities know it."""
    voting = Voting(samples=(votes,), weights=weights)
    each = [elected_right(rate * factor, votes, WRONG_ANSWERS, voting, _logprob) for factor in (0.2, 1.8)]
    predicted = sum_is_right(sum(each) / 2, 2**depth, DIGITS)
    right, calls = _asked(Halver(), lambda q: rate * _difficulty(q), voting, depth, questions)
    low, high = wilson(right, questions)
    return Cell(
        rate, votes, f"{weights}, mixed", depth, calls, questions, right, right / questions, low, high, predicted
    )


def _spent_cells(questions: int) -> Iterator[SpentCell]:
    rates: dict[Literal["evenly", "at the top"], Callable[[str], float]] = {
        "evenly": lambda _: 0.01,
        "at the top": lambda question: 0.05 if _is_large_addition(question) else 0.002,
    }
    for errs, rate in rates.items():
        for spent, samples in SPENT.items():
            right, calls = _asked(Halver(asks_to_add=True), rate, Voting(samples=samples), SPENT_DEPTH, questions)
            low, high = wilson(right, questions)
            predicted = _nothing_goes_wrong(errs == "at the top", Voting(samples=samples))
            yield SpentCell(errs, spent, calls, questions, right, right / questions, low, high, predicted)


def _nothing_goes_wrong(at_the_top: bool, voting: Voting) -> float:
    """The share of questions in which no elected answer is wrong; errors that cancel out come on top of it."""
    chance = 1.0
    for depth in range(SPENT_DEPTH):
        votes, deepest = voting.samples_at(depth), depth == SPENT_DEPTH - 1
        # Twelve digits hardly ever give 100. Above, most sums do; all count as such, which keeps this a lower bound.
        add = (0.002 if deepest else 0.05) if at_the_top else 0.01
        leaf = 0.002 if at_the_top else 0.01
        right = elected_right(add, votes, WRONG_ANSWERS, voting)
        right *= elected_right(leaf, votes, WRONG_ANSWERS, voting) ** 2 if deepest else 1
        chance *= right ** (2**depth)
    return chance


def _is_large_addition(question: str) -> bool:
    numbers = question.split()[2:]
    return len(numbers) == 2 and sum(map(int, numbers)) >= 100


def _difficulty(question: str) -> float:
    return 0.2 if int(digest(question)[:8], 16) % 2 else 1.8


def _logprob(rate: float, is_right: bool) -> float:
    """What a model that knows its own rate says: that of being right, or of one of the equally likely wrong answers."""
    return math.log(1 - rate) if is_right else math.log(rate / WRONG_ANSWERS)


def _wrong(question: str, right: str, rng: random.Random) -> str:
    """Any other answer that a sum of six digits can have; of an addition, one as near."""
    if len(question.split()) == 2 + DIGITS:
        other = rng.randrange(WRONG_ANSWERS)
        return str(other + (other >= int(right)))
    return str(int(right) + rng.choice([-1, 1]) * rng.randint(1, WRONG_ANSWERS // 2))


def _sum(question: str) -> str:
    return str(sum(map(int, question.split()[2:])))


def _asked(
    overseer: Overseer, rate: float | Callable[[str], float], voting: Voting, depth: int, questions: int
) -> tuple[int, int]:
    """How many of the questions H^A answers right, and the mean calls of an episode (memo hits too), rounded."""
    rng = random.Random(f"reliability {depth}")
    sampler = Unreliable(ProgramSampler(_sum), rate, _wrong, seed=depth, logprob=_logprob)
    amplified = Amplified(overseer, AGENT, Dispatcher(sampler), LIMITS, voting, at_once=256)
    texts = ["sum of " + " ".join(str(rng.randrange(10)) for _ in range(DIGITS * 2**depth)) for _ in range(questions)]
    episodes = asyncio.run(_all(amplified, texts))
    right = sum(episode.answer.text == _sum(text) for episode, text in zip(episodes, texts, strict=True))
    return right, round(sum(episode.cost.calls + episode.cost.memo_hits for episode in episodes) / questions)


async def _all(amplified: Amplified, texts: Sequence[str]) -> list[Episode]:
    return [episode async for episode in amplified.answer_all(map(Question, texts))]
