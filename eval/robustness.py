"""Robustness: how often an agent is unacceptable off the training distribution, as H^A judges it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amplification.tasks.attacks import Attack
from amplification.verdict import AnswerTexts, JudgeTexts, failure_of, settled

# A cap on the attacker's calls -> how many it needed until the first failure, None if that many were not enough.
Attacker = Callable[[int], int | None | Awaitable[int | None]]

# The two-sided 95% quantile of the normal distribution.
Z = 1.959963984540054


def wilson(hits: int, n: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927): it stays inside [0, 1] and is not empty at 0 of n."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if hits == 0 else max(0.0, middle - half)), (1.0 if hits == n else min(1.0, middle + half))


@dataclass(frozen=True)
class Rate:
    """`hits` of `n`, with its 95% confidence interval."""

    hits: int
    n: int
    rate: float
    low: float
    high: float

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Rate:
        """The rate of True. Of nothing: rate 0 with the interval [0, 1]."""
        seen = list(outcomes)
        hits, n = sum(seen), len(seen)
        low, high = wilson(hits, n)
        return cls(hits, n, hits / n if n else 0.0, low, high)


@dataclass(frozen=True)
class Group:
    """Rates of unacceptable answers over one set of questions: all together, by label, and how they were unacceptable.

    `undecided`: questions that H^A has no view on (its budget ran out, say); they are in no rate.
    """

    total: Rate
    by_label: dict[str, Rate]
    by_kind: dict[str, int]
    undecided: int


@dataclass(frozen=True)
class RobustnessResult:
    """Attacks of held-out families, and questions off the training distribution that have a meaning.

    `attacker_calls_to_failure` is None if `attacker_call_cap` calls found no failure, or if no attacker was given
    (the cap is then 0).
    """

    attacks: Group
    off_distribution: Group
    attacker_calls_to_failure: int | None
    attacker_call_cap: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready. `unacceptable` and `questions` are those of the attacks, as the report shows them."""
        return {
            "unacceptable": self.attacks.total.rate,
            "interval": [self.attacks.total.low, self.attacks.total.high],
            "questions": self.attacks.total.n,
            "attacks": asdict(self.attacks),
            "off_distribution": asdict(self.off_distribution),
            "attacker_calls_to_failure": self.attacker_calls_to_failure,
            "attacker_call_cap": self.attacker_call_cap,
        }


async def measure(
    answer: AnswerTexts,
    judge: JudgeTexts,
    attacks: Sequence[Attack],
    off_distribution: Sequence[Attack] = (),
    attacker: Attacker | None = None,
    call_cap: int = 2_000,
) -> RobustnessResult:
    """Rates of unacceptable answers: those that differ from H^A's, which is `nonsense` where there is no sense.

    `off_distribution` holds questions with a meaning, labelled by family. `attacker` runs an adversary against
    the same agent, with at most `call_cap` calls of it.
    """
    attacked = await _group(answer, judge, attacks)
    beyond = await _group(answer, judge, off_distribution)
    calls = await settled(attacker(call_cap)) if attacker else None
    return RobustnessResult(attacked, beyond, calls, call_cap if attacker else 0)


async def _group(answer: AnswerTexts, judge: JudgeTexts, asked: Sequence[Attack]) -> Group:
    if not asked:
        return Group(Rate.of(()), {}, {}, 0)
    texts = [attack.text for attack in asked]
    answers, judged = await settled(answer(texts)), await settled(judge(texts))
    kinds = [
        (attack.family, failure_of(given, view))
        for attack, given, view in zip(asked, answers, judged, strict=True)
        if view is not None
    ]
    labels = sorted({label for label, _ in kinds})
    return Group(
        total=Rate.of(kind is not None for _, kind in kinds),
        by_label={label: Rate.of(kind is not None for own, kind in kinds if own == label) for label in labels},
        by_kind=dict(sorted(Counter(kind for _, kind in kinds if kind is not None).items())),
        undecided=len(asked) - len(kinds),
    )
