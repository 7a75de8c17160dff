"""Candidate: a text that an adversary would try, and which texts may be tried at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace

from amplification.tasks.attacks import MAX_WORDS, attack_split, understood
from amplification.tasks.base import Task, split_of

# Longer texts than this are no questions, whatever they have for words.
MAX_CHARS = 1_000


@dataclass(frozen=True)
class Candidate:
    """A text to try: the task it was made from or is a question of, and what made it (a family, `mutation:EDIT`,
    `corpus` or `writer:KIND`)."""

    text: str
    task: str
    made_by: str


def admitted(candidate: Candidate, tasks: Mapping[str, Task], up_to: int) -> Candidate | None:
    """The candidate, with the task that it is a question of if it is one.

    None if it is empty, too long, held out, or larger than the tasks' levels up to the index `up_to`.
    """
    text = candidate.text
    if not 0 < len(text.split()) <= MAX_WORDS:
        return None
    owner = understood(tasks, text)
    if owner is None:
        return candidate if attack_split(text) == "train" else None
    level = owner.level_of(text)
    largest = owner.levels[: up_to + 1][-1]
    if owner.name not in tasks or split_of(owner, text) != "train" or level is None or level > largest:
        return None
    return replace(candidate, task=owner.name)


def cleaned(text: str) -> str | None:
    """A text from elsewhere as a question is written: words apart by one blank. None if it cannot be one: it is too
    long or has control characters in it."""
    words = " ".join(text[: 2 * MAX_CHARS].split())
    if not words or len(words) > MAX_CHARS or any(unicodedata.category(c) in ("Cc", "Cs") for c in words):
        return None
    return words


def nearest(tasks: Mapping[str, Task], text: str) -> str:
    """The task that has most of a text's words among its own; the first of several."""
    words = set(text.split())
    return max(tasks, key=lambda name: len(words & set(tasks[name].words())))
