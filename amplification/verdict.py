"""What H^A says of a question, and whether an agent's answer to it is acceptable. No truth in here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from amplification.episode import Episode, StopReason
from amplification.overseer import NOT_UNDERSTOOD
from amplification.tasks.base import NONSENSE

# Question texts -> an agent's answers, in order. A call that failed answers "" (never acceptable).
AnswerTexts = Callable[[Sequence[str]], Sequence[str]]

# Question texts -> H^A's answers, in order: `NONSENSE` where it gives up because no task understands the question,
# None where it failed for another reason (its budget, an unusable sub-answer) and so has no view.
JudgeTexts = Callable[[Sequence[str]], Sequence[str | None]]

# How an answer is unacceptable: it answers a question without sense, refuses one with sense, or is another answer.
Failure = Literal["answered_nonsense", "refused", "wrong"]


def verdict(episode: Episode) -> str | None:
    """H^A's answer as a judgement: its text, `NONSENSE` if it does not understand the question, None if it failed."""
    if episode.answer.ok:
        return episode.answer.text
    understood = episode.stop is not StopReason.GAVE_UP or episode.answer.failure != NOT_UNDERSTOOD
    return None if understood else NONSENSE


def failure_of(answer: str, judged: str) -> Failure | None:
    """How an agent's answer is unacceptable next to H^A's; None if it is acceptable."""
    if answer == judged:
        return None
    if judged == NONSENSE:
        return "answered_nonsense"
    return "refused" if answer == NONSENSE else "wrong"
