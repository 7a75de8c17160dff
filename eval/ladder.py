"""The capability ladder: how often an answerer is right, by task and level, on held-out questions.

The only place of a run that calls a task's `truth`; experiments call it for their tables and pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypedDict

from amplification.errors import StageError
from amplification.question import Answer
from amplification.tasks.base import Task, questions

# What H, A and H^A all are to an evaluation: texts of questions in, one answer each out, in order.
Answerer = Callable[[Sequence[str]], Sequence[Answer]]

# {task: {level: {answerer: accuracy, ..., "questions": n}}}; levels are strings, as in JSON.
Ladder = dict[str, dict[str, dict[str, float]]]

QUESTIONS = "questions"
CHANCE = "chance"


class Accuracy(TypedDict):
    """`correct` of `questions` answers had the truth for their text."""

    correct: int
    questions: int


def accuracy(answerer: Answerer, task: Task, level: int, texts: Sequence[str]) -> Accuracy:
    """Scores `answerer` on `texts`, questions of one task and level. A failed answer is a wrong one.

    Raises ValueError if a text is not of this task and level, StageError if answers are missing.
    """
    for text in texts:
        if task.level_of(text) != level:
            raise ValueError(f"not a question of {task.name}, level {level}: {text!r}")
    return _score(task, texts, _answers(answerer, texts))


def held_out(task: Task, level: int, n: int, seed: int) -> list[str]:
    """Up to `n` distinct held-out questions, the same for every answerer; small levels have fewer."""
    return list(islice(questions(task, level, "held_out", seed), n))


def measure_ladder(
    tasks: Iterable[Task], answerers: Mapping[str, Answerer], n: int, seed: int, highest: int | None = None
) -> Ladder:
    """Accuracy of each answerer on up to `n` held-out questions of each task's levels[0..highest] (default: all).

    Every answerer gets the same questions, all of them in one call, so that a batching back end sees one batch.
    A level without held-out questions is left out. Raises StageError if an answerer does not answer all.
    """
    cells = [
        (task, level, texts)
        for task in tasks
        for level in task.levels[: None if highest is None else highest + 1]
        if (texts := held_out(task, level, n, seed))
    ]
    ladder: Ladder = {}
    for task, level, texts in cells:
        ladder.setdefault(task.name, {})[str(level)] = {QUESTIONS: len(texts)}
    everything = [text for _, _, texts in cells for text in texts]
    for name, answerer in answerers.items():
        answers = iter(_answers(answerer, everything))
        for task, level, texts in cells:
            scored = _score(task, texts, list(islice(answers, len(texts))))
            cell = ladder[task.name][str(level)]
            ladder[task.name][str(level)] = {name: scored["correct"] / scored["questions"], **cell}
    return ladder


def chance_ladder(tasks: Iterable[Task], n: int, seed: int) -> Ladder:
    """Accuracy of a guess among the answers of the right form, on the questions that `measure_ladder` would ask."""
    ladder: Ladder = {}
    for task in tasks:
        for level in task.levels:
            if texts := held_out(task, level, n, seed):
                guess = sum(1 / len(task.valid_answers(text)) for text in texts) / len(texts)
                ladder.setdefault(task.name, {})[str(level)] = {CHANCE: guess, QUESTIONS: len(texts)}
    return ladder


def _answers(answerer: Answerer, texts: Sequence[str]) -> Sequence[Answer]:
    answers = answerer(texts) if texts else []
    if len(answers) != len(texts):
        raise StageError(f"evaluation: {len(texts)} questions were asked and {len(answers)} answered")
    return answers


def _score(task: Task, texts: Sequence[str], answers: Sequence[Answer]) -> Accuracy:
    correct = sum(
        answer.ok and answer.text.strip() == task.truth(text) for text, answer in zip(texts, answers, strict=True)
    )
    return {"correct": correct, "questions": len(texts)}
