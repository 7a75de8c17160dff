"""Judging: which of some answers to a question is best, and whether each is acceptable, asked like any other question.

The question points to the question that is judged and to the candidates, in this order. The answer names candidates by
their place: `acceptable: 1 3; best: 1`, or `acceptable: none; best: none`. An overseer with graded views adds a score
for each candidate, of which higher is better: `acceptable: 1 3; best: 1; scores: 9 2 7.5`. The question says so itself,
behind the candidates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from amplification.messages import Content
from amplification.overseer import NOT_UNDERSTOOD
from amplification.question import Answer, Message, Question
from amplification.tasks.base import NONSENSE
from amplification.workspace import Action, Ask, GiveUp, Look, Reply, Seen, SubQuestion, Workspace

_HEAD = "Which of these answers to the question $1 is best, and is each acceptable?"
# What H is told of the form that `view_from` reads.
_FORM = (
    "The number of an answer stands before it. Answer in one line of this form: acceptable: NUMBERS; best: NUMBER",
    "NUMBERS are those of all acceptable answers, with spaces between them; NUMBER is that of the best one.",
    "If none of them is good enough, write: acceptable: none; best: none",
    "If you can grade them, add a score for each answer, in their order and higher for a better one. For example, with"
    " three answers: acceptable: 1 3; best: 3; scores: 7 -2 9.5",
)
_NUMBERS = r"none|[1-9][0-9]{0,3}(?: [1-9][0-9]{0,3})*"
_SCORE = r"-?[0-9]{1,6}(?:\.[0-9]{1,6})?"
_SCORES = rf"(?:; scores: ({_SCORE}(?: {_SCORE})*))?"
_JUDGED = re.compile(rf"acceptable: ({_NUMBERS}); best: (none|[1-9][0-9]{{0,3}}){_SCORES}")


class View(NamedTuple):
    """A judgement: whether each candidate is acceptable, the place (from 0) of the best, None if none is good, and each
    candidate's score, None where there are only the former two."""

    acceptable: tuple[bool, ...]
    best: int | None
    scores: tuple[float, ...] | None = None


def judging(question: Message, candidates: Sequence[Answer]) -> tuple[Question, list[Content]]:
    """The question which of the candidates is best and whether each is acceptable, and how to say so; the messages it
    points to."""
    known: list[Content] = [question, *candidates]
    lines = [_HEAD, *(f"{place}: ${place + 1}" for place in range(1, len(candidates) + 1)), *_FORM]
    return Question("\n".join(lines), tuple(message.digest for message in known)), known


def is_judging(question: Question) -> bool:
    """Whether `judging` made this question."""
    return bool(question.pointers) and question.text.startswith(_HEAD)


def view_from(text: str, candidates: int) -> View:
    """The judgement that an answer states. Raises ValueError for anything else: what cannot be read is no verdict."""
    match = _JUDGED.fullmatch(" ".join(text.split()))
    if match is None:
        raise ValueError(f"not a judgement: {text[:80]!r}")
    accepted = [] if match[1] == "none" else [int(number) - 1 for number in match[1].split()]
    best = None if match[2] == "none" else int(match[2]) - 1
    if any(place >= candidates for place in [*accepted, best or 0]):
        raise ValueError(f"a judgement of {candidates} candidates names another one: {text[:80]!r}")
    scores = tuple(map(float, match[3].split())) if match[3] else None
    if scores is not None and len(scores) != candidates:
        raise ValueError(f"a judgement of {candidates} candidates has {len(scores)} scores: {text[:80]!r}")
    return View(tuple(place in accepted for place in range(candidates)), best, scores)


def view_text(view: View) -> str:
    """What `view_from` reads as this judgement."""
    accepted = " ".join(str(place + 1) for place, good in enumerate(view.acceptable) if good)
    scores = f"; scores: {' '.join(f'{score:.6f}' for score in view.scores)}" if view.scores else ""
    return f"acceptable: {accepted or 'none'}; best: {'none' if view.best is None else view.best + 1}{scores}"


def judge_step(workspace: Workspace) -> Action:
    """A program's next step in judging: read the question, have a copy of H^A answer it, and accept what says the same.

    Where the copy says that the question makes no sense, what says so too is acceptable. It gives up where the copy
    comes to no answer.
    """
    judged, *candidates = workspace.question.pointers
    if not workspace.exchanges:
        size = next(size for digest, size in workspace.pointers if digest == judged)
        seen = [event for event in workspace.events if isinstance(event, Seen)]
        text = "".join(event.text for event in seen)
        if len(text) < size:
            return Look(judged, len(text))
        return Ask((SubQuestion(Question(text), recurse=True),))
    answer = workspace.exchanges[-1].answer
    if answer.failure == NOT_UNDERSTOOD:
        answer = Answer(NONSENSE)
    if not answer.ok:
        return GiveUp(f"no answer to the question that is judged: {answer.failure}")
    # A pointer is a digest of what it stands for, so equal answers have one.
    acceptable = tuple(candidate == answer.digest for candidate in candidates)
    return Reply(view_text(View(acceptable, acceptable.index(True) if any(acceptable) else None)))
