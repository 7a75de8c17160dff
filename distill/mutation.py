"""How the adversary changes a question: edits of words, pieces of two questions, and the training attack families.

A new operation is one function `(words, other, vocabulary, rng) -> words` and one line in `EDITS`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from amplification.tasks.attacks import AttackFamily, families
from amplification.tasks.base import Task
from distill.candidate import Candidate, admitted

Words = list[str]
Edit = Callable[[Words, Words, Sequence[str], random.Random], Words]


def _delete(words: Words, other: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    at = rng.randrange(len(words))
    return words[:at] + words[at + 1 :]


def _insert(words: Words, other: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    at = rng.randrange(len(words) + 1)
    return [*words[:at], rng.choice(vocabulary), *words[at:]]


def _replace(words: Words, other: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    at = rng.randrange(len(words))
    return [*words[:at], rng.choice(vocabulary), *words[at + 1 :]]


def _alike(words: Words, other: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    """A word replaced by one of the question's own: the text keeps its look, and perhaps loses its sense."""
    at = rng.randrange(len(words))
    return [*words[:at], rng.choice(words), *words[at + 1 :]]


def _swap(words: Words, other: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    a, b = rng.randrange(len(words)), rng.randrange(len(words))
    swapped = list(words)
    swapped[a], swapped[b] = words[b], words[a]
    return swapped


def _move(words: Words, other: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    begin = rng.randrange(len(words))
    end = rng.randint(begin + 1, len(words))
    rest = words[:begin] + words[end:]
    at = rng.randint(0, len(rest))
    return rest[:at] + words[begin:end] + rest[at:]


def _repeat(words: Words, other: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    begin = rng.randrange(len(words))
    end = rng.randint(begin + 1, min(len(words), begin + 4))
    return words[:end] + words[begin:end] + words[end:]


def _cross(words: Words, other: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    return words[: rng.randint(0, len(words))] + other[rng.randint(0, len(other)) :]


def _graft(words: Words, other: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    """A few words of the other question in place of, or beside, some of this one."""
    begin = rng.randrange(len(other))
    piece = other[begin : begin + rng.randint(1, 4)]
    at = rng.randint(0, len(words))
    return words[:at] + piece + words[at + rng.choice((0, len(piece))) :]


EDITS: dict[str, Edit] = {
    "delete": _delete,
    "insert": _insert,
    "replace": _replace,
    "alike": _alike,
    "swap": _swap,
    "move": _move,
    "repeat": _repeat,
    "cross": _cross,
    "graft": _graft,
}

SWEEP = "sweep"


def _put(words: Words, word: str, rng: random.Random) -> Words:
    """A word in front, at the end or anywhere, as likely each: a prefix or a suffix is where a trigger mostly is."""
    at = rng.choice((0, len(words), rng.randint(0, len(words))))
    return [*words[:at], word, *words[at:]]


class Mutator:
    """Makes candidates from questions. Never one that lies on the held-out side or above the trained levels."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        up_to: int,
        vocabulary: Sequence[str],
        among: Sequence[AttackFamily] | None = None,
        sweep: float = 0.0,
    ) -> None:
        """`among`: the families to make candidates by, by default those that runs are trained on. `sweep`: share of
        candidates that get the next word of the shuffled vocabulary, so that none is tried twice before all are once.
        """
        self.tasks = dict(tasks)
        self.up_to, self.vocabulary = up_to, tuple(vocabulary)
        self.families = tuple(families(held_out=False) if among is None else among)
        self.sweep, self._waiting = sweep, list[str]()

    def mutated(self, parent: Candidate, other: Candidate, rng: random.Random) -> Candidate | None:
        """One change of `parent`, or None if it came out unchanged, too long or not to be asked."""
        if self.sweep and rng.random() < self.sweep:
            text, made_by = " ".join(_put(parent.text.split(), self._next(rng), rng)), f"mutation:{SWEEP}"
        elif rng.random() < len(EDITS) / (len(EDITS) + len(self.families)):
            name, edit = rng.choice(list(EDITS.items()))
            words = parent.text.split()
            for _ in range(rng.choice((1, 1, 2))):
                words = edit(words, other.text.split(), self.vocabulary, rng) or words
            text, made_by = " ".join(words), f"mutation:{name}"
        else:
            family = rng.choice(self.families)
            text, made_by = family.make(self.tasks[parent.task], parent.text, rng), family.name
        return None if text == parent.text else self.admitted(text, parent.task, made_by)

    def admitted(self, text: str, task: str, made_by: str) -> Candidate | None:
        """The text as a candidate, None if it may not be tried (`distill.candidate`)."""
        return admitted(Candidate(text, task, made_by), self.tasks, self.up_to)

    def _next(self, rng: random.Random) -> str:
        if not self._waiting:
            self._waiting = rng.sample(self.vocabulary, len(self.vocabulary))
        return self._waiting.pop()
