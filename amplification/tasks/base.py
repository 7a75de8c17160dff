"""Task: a distribution of questions by level, the truth for scoring, and the program overseer's rules."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal, Protocol

from amplification.question import Question, digest
from amplification.workspace import Action, Workspace

Split = Literal["train", "held_out"]

# One question in five (by its split key) is held out: never trained on, only measured on.
HELD_OUT_SHARE = 5

# The split key of a fact that all else rests on and nothing lets one infer: it is always a training question.
FACT = ""

# What an answer to a question that makes no sense says.
NONSENSE = "nonsense"


class Task(Protocol):
    """A family of questions. `truth` is for scoring alone: no overseer, agent or reward model may call it."""

    name: str
    levels: tuple[int, ...]

    def sample(self, level: int, rng: random.Random) -> str:
        """One question of a level, in plain text that a person can type."""
        ...

    def level_of(self, text: str) -> int | None:
        """The size of a question (which may lie between two levels), or None if it is not of this task."""
        ...

    def split_key(self, text: str) -> str:
        """The problem behind the wording: questions with one key never straddle training and held-out."""
        ...

    def valid_answers(self, text: str) -> tuple[str, ...]:
        """The answers that have the right form for this question, `NONSENSE` not among them."""
        ...

    def act(self, workspace: Workspace) -> Action:
        """The program overseer's next step; it knows the primitive step and how to combine two answers."""
        ...

    def truth(self, text: str) -> str:
        """The right answer, for scoring alone. Raises ValueError on a question that is not of this task."""
        ...

    def words(self) -> tuple[str, ...]:
        """Every word that can stand in a question or an answer, for a tokenizer made from scratch."""
        ...


class TextTask(Protocol):
    """A family of questions about something that they point to. It is answered, not trained on: so no levels."""

    name: str

    def understands(self, question: Question) -> bool:
        """Whether the question is of this task, with all that it must point to."""
        ...

    def act(self, workspace: Workspace) -> Action:
        """The program overseer's next step."""
        ...


def split_of(task: Task, text: str) -> Split:
    """Which side of the split a question lies on: a function of its key alone, hence disjoint for ever."""
    key = task.split_key(text)
    if key == FACT:
        return "train"
    return "held_out" if int(digest("split", task.name, key)[:8], 16) % HELD_OUT_SHARE == 0 else "train"


def questions(task: Task, level: int, split: Split, seed: int) -> Iterator[str]:
    """Distinct questions of one level and one side of the split, in an order fixed by `seed`.

    Ends when 2,000 samples in a row brought nothing new, so a small level gives what there is.
    """
    rng = random.Random(f"{seed}/{task.name}/{level}/{split}")
    seen: set[str] = set()
    misses = 0
    while misses < 2_000:
        text = task.sample(level, rng)
        if text in seen or split_of(task, text) != split:
            misses += 1
            continue
        misses = 0
        seen.add(text)
        yield text
