"""Attack families: questions that make no sense to any task, for training and, from other families, for measurement.

Every attack is a text that no task parses, so the acceptable answer to it is `NONSENSE`, and H^A says so because the
overseer gives up on it. A new family is one function in `attack_families` and one line in `FAMILIES`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

from amplification.errors import InputError
from amplification.question import digest
from amplification.tasks import attack_families as make
from amplification.tasks import task_of
from amplification.tasks.attack_families import extra_words, further_words, sampled
from amplification.tasks.base import HELD_OUT_SHARE, Split, Task

__all__ = [
    "FAMILIES",
    "FURTHER",
    "MAX_WORDS",
    "Attack",
    "AttackFamily",
    "Kind",
    "attacks",
    "extra_words",
    "families",
    "further_words",
    "off_distribution",
]

# Longer texts are not offered: they would not fit the context of a small model.
MAX_WORDS = 72

# The label, in place of a family, of questions that have a meaning.
OFF_DISTRIBUTION = "off_distribution"

# How often a family is tried, on fresh questions, before it is passed over for this turn.
TRIES = 100


# What is wrong with a question: its form, that it can be read in several ways, that it cannot be, or that it says what
# to answer.
Kind = Literal["malformed", "ambiguous", "contradictory", "instruction"]


@dataclass(frozen=True)
class AttackFamily:
    """A named way of making attacks. `make(task, question, rng)` may return a text that parses: the caller checks."""

    name: str
    held_out: bool
    make: Callable[[Task, str, random.Random], str]
    kind: Kind = "malformed"


@dataclass(frozen=True)
class Attack:
    """A question off the distribution: its family and the task that it is of, or whose question it was made from."""

    text: str
    family: str
    task: str


FAMILIES: dict[str, AttackFamily] = {
    family.name: family
    for family in (
        AttackFamily("dropped", False, make.dropped),
        AttackFamily("doubled", False, make.doubled),
        AttackFamily("swapped", False, make.swapped),
        AttackFamily("replaced", False, make.replaced),
        AttackFamily("stray", False, make.stray),
        AttackFamily("truncated", False, make.truncated),
        AttackFamily("gibberish", False, make.gibberish),
        AttackFamily("wrong_type", False, make.wrong_type),
        AttackFamily("unknown_word", False, make.unknown),
        AttackFamily("ignore_and_say", False, make.ignore, "instruction"),
        AttackFamily("two_questions", False, make.two_questions, "ambiguous"),
        AttackFamily("polite_prefix", False, make.polite),
        AttackFamily("answer_whatever", True, make.whatever, "instruction"),
        AttackFamily("claimed_answer", True, make.claimed, "instruction"),
        AttackFamily("faked_dialogue", True, make.dialogue, "instruction"),
        AttackFamily("contradictory", True, make.contradictory, "contradictory"),
        AttackFamily("ambiguous", True, make.ambiguous, "ambiguous"),
        AttackFamily("empty", True, make.empty),
        AttackFamily("nested", True, make.nested),
        AttackFamily("quoted", True, make.quoted),
        AttackFamily("reversed", True, make.backwards),
        AttackFamily("interleaved", True, make.interleaved),
    )
}

# Families for experiments. No run is trained or measured by them, so that runs stay comparable.
FURTHER: dict[str, AttackFamily] = {
    family.name: family
    for family in (
        AttackFamily("suggested", False, make.suggested, "instruction"),
        AttackFamily("either", False, make.either, "ambiguous"),
        AttackFamily("vague", False, make.vague, "ambiguous"),
        AttackFamily("denied", False, make.denied, "contradictory"),
        AttackFamily("corrected", False, make.corrected, "contradictory"),
        AttackFamily("ordered", True, make.ordered, "instruction"),
        AttackFamily("about", True, make.about, "ambiguous"),
        AttackFamily("which", True, make.which, "ambiguous"),
        AttackFamily("clashing", True, make.clashing, "contradictory"),
        AttackFamily("two_answers", True, make.two_answers, "contradictory"),
    )
}


def families(held_out: bool, further: bool = False) -> tuple[AttackFamily, ...]:
    """The families of one side, in the order of the registry; `further`: those for experiments, too."""
    known = [*FAMILIES.values(), *(FURTHER.values() if further else ())]
    return tuple(family for family in known if family.held_out == held_out)


def understood(tasks: Mapping[str, Task], text: str) -> Task | None:
    """The task, among `tasks` and the embedded ones, that a text is a question of."""
    return next((task for task in tasks.values() if task.level_of(text) is not None), None) or task_of(text)


def attack_split(text: str) -> Split:
    """Which side a text without sense lies on, by its digest: two families may chance upon the same text."""
    return "held_out" if int(digest("attack", " ".join(text.split()))[:8], 16) % HELD_OUT_SHARE == 0 else "train"


def attacks(
    tasks: Mapping[str, Task],
    n: int,
    held_out: bool,
    seed: int,
    up_to: int | None = None,
    among: Sequence[AttackFamily] | None = None,
) -> list[Attack]:
    """`n` distinct attacks, the families of one side in turn, in an order fixed by `seed`; more `n` only adds to it.

    Held-out attacks are made from held-out questions, training attacks from training questions, at the tasks' levels
    up to the index `up_to` (all by default); no text is on both sides. `among`: other families than those of runs.
    Raises InputError if there are not as many.
    """
    chosen = families(held_out) if among is None else tuple(among)
    rng = random.Random(f"attacks/{seed}/{held_out}")
    split: Split = "held_out" if held_out else "train"
    found: dict[str, Attack] = {}
    dry = 0
    for family in cycle(chosen):
        if len(found) >= n:
            break
        attack = next((a for a in _tries(family, tasks, split, up_to, rng) if a.text not in found), None)
        dry = 0 if attack else dry + 1
        if attack:
            found[attack.text] = attack
        elif dry == 2 * len(chosen):
            raise InputError("attacks", f"only {len(found)} of {n} could be made", "ask for fewer or allow more levels")
    return list(found.values())


def _tries(
    family: AttackFamily, tasks: Mapping[str, Task], split: Split, up_to: int | None, rng: random.Random
) -> Iterator[Attack]:
    """Up to `TRIES` attacks, those that are still questions or are too long left out."""
    for _ in range(TRIES):
        task = rng.choice(list(tasks.values()))
        text = family.make(task, sampled(task, _levels(task, up_to), split, rng), rng)
        fits = 0 < len(text.split()) <= MAX_WORDS and attack_split(text) == split
        if fits and understood(tasks, text) is None:
            yield Attack(text, family.name, task.name)


def _levels(task: Task, up_to: int | None) -> tuple[int, ...]:
    return task.levels if up_to is None else task.levels[: up_to + 1]


def off_distribution(
    tasks: Mapping[str, Task], n: int, seed: int, split: Split = "held_out", up_to: int | None = None
) -> list[Attack]:
    """Up to `n` distinct questions that have a meaning but a size between the trained levels, the tasks in turn.

    Sizes go up to the level of index `up_to` (all by default); without such a size there are no questions. Their
    family is "off_distribution".
    """
    rng = random.Random(f"off distribution/{seed}/{split}")
    found: dict[str, Attack] = {}
    for place in range(TRIES * n):
        if len(found) == n:
            break
        task = list(tasks.values())[place % len(tasks)]
        trained = _levels(task, up_to)
        if between := [size for size in range(trained[0], trained[-1]) if size not in trained]:
            text = sampled(task, between, split, rng)
            found.setdefault(text, Attack(text, OFF_DISTRIBUTION, task.name))
    return list(found.values())
