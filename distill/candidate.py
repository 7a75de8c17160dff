"""Candidate: a text that an adversary would try, and which texts may be tried at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from amplification.tasks.attacks import MAX_WORDS, attack_split, understood
from amplification.tasks.base import Task, split_of


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
