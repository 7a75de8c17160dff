"""What the embedded tasks' program overseers share: ask both halves, check what came back, combine."""

from __future__ import annotations

import re
from collections.abc import Sequence

from amplification.question import Question
from amplification.tasks.base import Task
from amplification.workspace import Ask, Exchange, GiveUp, SubQuestion, Workspace

# Single digits, as the tasks about lists of numbers write them; a list longer than A's levels is H^A's to halve.
DIGITS = r"(?P<digits>[0-9](?: [0-9])*)"

NOT_ANSWERED = "no answer to the sub-question"


def digits(match: re.Match[str]) -> tuple[int, ...]:
    """The numbers that `DIGITS` matched."""
    return tuple(map(int, match["digits"].split()))


def sub_question(task: Task, text: str, parent_size: int) -> SubQuestion:
    """A part of a question of `parent_size`: to A if it has a level that A was made for, else to a new H^A."""
    size = task.level_of(text)
    fits = size is not None and size in task.levels and size <= (parent_size + 1) // 2
    return SubQuestion(Question(text), recurse=not fits)


def answers_or_next(task: Task, workspace: Workspace, texts: Sequence[str], size: int) -> list[str] | Ask | GiveUp:
    """The answers to the parts `texts`, in order; or the next step while some are missing or unusable.

    What A cannot answer (it refuses, or its answer has not the form of one) is asked of a new H^A, which breaks it up
    further; what that cannot answer either ends in a GiveUp.
    """
    found: list[str] = []
    missing: list[SubQuestion] = []
    for text in texts:
        exchanges = [exchange for exchange in workspace.exchanges if exchange.question.text == text]
        if not exchanges:
            missing.append(sub_question(task, text, size))
        elif (problem := unusable(task, exchanges[-1])) is None:
            found.append(exchanges[-1].answer.text)
        elif len(exchanges) > texts.count(text) or sub_question(task, text, size).recurse:
            return problem
        else:
            missing.append(SubQuestion(Question(text), recurse=True))
    return Ask(tuple(missing)) if missing else found


def unusable(task: Task, exchange: Exchange) -> GiveUp | None:
    """Why a sub-answer cannot be built upon: it failed, or it has not the form of an answer to its question."""
    text, answer = exchange.question.text, exchange.answer
    if answer.failure is not None:
        # A reason from below is passed on as it is: one that grew at each level would be as large as the tree.
        told = answer.failure.startswith(NOT_ANSWERED)
        return GiveUp(answer.failure if told else f"{NOT_ANSWERED} '{text}': {answer.failure}")
    if answer.text not in task.valid_answers(text):
        return GiveUp(f"sub-question '{text}' got '{answer.text[:40]}', which is not an answer to it")
    return None


def not_mine(task: Task, text: str) -> ValueError:
    """The error of a question that is not of `task`."""
    return ValueError(f"not a question of the {task.name} task: {text[:80]!r}")
