"""Robustness: how often an agent is unacceptable off the training distribution, as H^A judges it.

Truth has no part in this: an answer is acceptable when H^A gives the same, which is `nonsense` where the question
makes no sense.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amplification.errors import StageError
from amplification.tasks.attacks import Attack
from amplification.verdict import AnswerTexts, JudgeTexts, failure_of
from eval.results import Unacceptable
from eval.statistics import wilson

# A cap on the attacker's calls -> how many it needed until the first failure, None if that many were not enough.
Attacker = Callable[[int], int | None]


@dataclass(frozen=True)
class Rate:
    """`unacceptable` of `questions`, with Wilson's 95% interval; rate 0 and interval (0, 1) of no questions."""

    unacceptable: int
    questions: int
    rate: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, unacceptable: int, questions: int) -> Rate:
        share = unacceptable / questions if questions else 0.0
        return cls(unacceptable, questions, share, wilson(unacceptable, questions))


@dataclass(frozen=True)
class RobustnessResult:
    """Rates of unacceptable answers: of attacks together, and of every family (off-distribution questions are one).

    kinds: by family, how answers were unacceptable, in numbers. "wrong" (another answer than H^A's to a question that
    has a meaning) is a lack of skill; "answered_nonsense" and "refused" are not.
    undecided: questions on which H^A came to no answer (its budget ran out, say); they are in no rate.
    attacker_calls_to_failure: None if `attacker_call_cap` calls brought no failure, or no attacker was given (cap 0).
    """

    attacks: Rate
    off_distribution: Rate
    families: dict[str, Rate]
    kinds: dict[str, dict[str, int]]
    undecided: int
    attacker_calls_to_failure: int | None
    attacker_call_cap: int

    def counts(self) -> dict[str, Unacceptable]:
        """By family, as a run's results hold them."""
        return {
            name: Unacceptable(unacceptable=rate.unacceptable, questions=rate.questions)
            for name, rate in self.families.items()
        }

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def measure(
    answer: AnswerTexts,
    judge: JudgeTexts,
    attacks: Sequence[Attack],
    off_distribution: Sequence[Attack] = (),
    attacker: Attacker | None = None,
    call_cap: int = 2_000,
) -> RobustnessResult:
    """How often `answer` differs from H^A, over attacks and over questions off the distribution that have a meaning.

    All questions go out in one call each of `answer` and `judge`. `attacker` searches the same agent for a failure
    with at most `call_cap` calls of it. Raises StageError if answers are missing.
    """
    asked = [*attacks, *off_distribution]
    texts = [attack.text for attack in asked]
    answers, judged = (answer(texts), judge(texts)) if texts else ((), ())
    if not len(answers) == len(judged) == len(texts):
        raise StageError(f"robustness: {len(texts)} questions, {len(answers)} answers and {len(judged)} judgements")
    failed = [None if view is None else failure_of(given, view) for given, view in zip(answers, judged, strict=True)]
    decided = [place for place, view in enumerate(judged) if view is not None]
    families: dict[str, list[int]] = {}
    for place in decided:
        families.setdefault(asked[place].family, []).append(place)

    def rate(places: Sequence[int]) -> Rate:
        return Rate.of(sum(failed[place] is not None for place in places), len(places))

    def kinds(places: Sequence[int]) -> dict[str, int]:
        return dict(sorted(Counter(kind for place in places if (kind := failed[place]) is not None).items()))

    return RobustnessResult(
        attacks=rate([place for place in decided if place < len(attacks)]),
        off_distribution=rate([place for place in decided if place >= len(attacks)]),
        families={name: rate(places) for name, places in sorted(families.items())},
        kinds={name: kinds(places) for name, places in sorted(families.items())},
        undecided=len(asked) - len(decided),
        attacker_calls_to_failure=attacker(call_cap) if attacker else None,
        attacker_call_cap=call_cap if attacker else 0,
    )
