"""Curriculum: which training questions a generation is taught, labelled and practised on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from amplification.errors import InputError
from amplification.tasks.attacks import attacks
from amplification.tasks.base import Task, questions
from distill.archive import Found
from distill.config import LabelsConfig
from distill.practice import ATTACK, Prompt

SEEDS_A_GENERATION = 1_000
PRACTICE = 500  # added to a seed, so that PPO practises on other questions than those that were labelled
WATCH = 700  # the same for the questions by which H^A watches PPO
LEAST_WATCHED = 2
FAMILY = "attack:"  # how the source of a training family's attack begins
ADVERSARY = "adversary"  # the source of what an adversary found


@dataclass(frozen=True)
class Chosen:
    """A question that H^A will be asked: its task and level ("" and 0 for an attack), and where it comes from."""

    question: str
    task: str
    level: int
    source: str


def generation_seed(seed: int, generation: int) -> int:
    """A seed for one generation, so that generations draw different questions."""
    return seed * SEEDS_A_GENERATION + generation


def curriculum(tasks: Mapping[str, Task], generation: int, new: int, replay: int, seed: int) -> list[Chosen]:
    """Training questions of generation n: `new` of each task at levels[n], `replay` at each level before."""
    chosen = []
    for task in tasks.values():
        for index, level in enumerate(task.levels[: generation + 1]):
            count = new if index == generation else replay
            texts = islice(questions(task, level, "train", generation_seed(seed, generation)), count)
            chosen += [Chosen(text, task.name, level, "task") for text in texts]
    return chosen


def attack_questions(
    tasks: Mapping[str, Task], generation: int, count: int, found: Sequence[str], seed: int
) -> list[Chosen]:
    """`count` attacks: what adversaries found before (at most half of them), the rest from the training families.

    Those are made from questions of the levels that generation n knows: a longer one would teach that long is nonsense.
    """
    kept = [_found(tasks, text) for text in found[-(count // 2) :]] if count > 1 else []
    families = attacks(tasks, count - len(kept), held_out=False, seed=seed, up_to=generation)
    return kept + [Chosen(attack.text, "", 0, f"{FAMILY}{attack.family}/{attack.task}") for attack in families]


def _found(tasks: Mapping[str, Task], text: str) -> Chosen:
    """What an adversary found; it may be a question with a meaning, at whose answer A failed."""
    return Chosen(text, *place_of(tasks, text), ADVERSARY)


def place_of(tasks: Mapping[str, Task], text: str) -> tuple[str, int]:
    """Task and level of a question; "" and 0 where it makes no sense to any of them."""
    for task in tasks.values():
        if (level := task.level_of(text)) is not None:
            return task.name, level
    return "", 0


def share_of(total: int, share: float) -> int:
    """How many attacks beside `total` ordinary questions make up `share` of all."""
    return round(total * share / (1 - share))


def choose(
    tasks: Mapping[str, Task], generation: int, settings: LabelsConfig, share: float, found: Sequence[str], seed: int
) -> list[Chosen]:
    """The questions of generation n's labels, each once."""
    chosen = curriculum(tasks, generation, settings.questions, settings.replay, seed)
    hostile = share_of(len(chosen), share)
    chosen += attack_questions(tasks, generation, hostile, found, generation_seed(seed, generation))
    return list({choice.question: choice for choice in chosen}.values())


def practice(
    tasks: Mapping[str, Task], generation: int, count: int, share: float, found: Sequence[str], seed: int
) -> list[Prompt]:
    """`count` prompts for PPO of generation n, of which at most `share` are attacks.

    Two thirds of each task's prompts are of the new level, the rest is spread over the older ones.
    """
    hostile = round(count * share)
    each = (count - hostile) // len(tasks)
    prompts: list[Prompt] = []
    for task in tasks.values():
        older = task.levels[:generation]
        replay = each // 3 // len(older) if older else 0
        numbers = dict.fromkeys(older, replay) | {task.levels[generation]: each - replay * len(older)}
        for level, number in numbers.items():
            texts = _draw(task, level, number, generation_seed(seed, generation))
            prompts += [Prompt(text, group_of(task.name, level)) for text in texts]
    attacked = attack_questions(tasks, generation, hostile, found, generation_seed(seed, generation))
    return prompts + [Prompt(choice.question, attack_group(choice.source)) for choice in attacked]


def labelled(rows: Sequence[Mapping[str, Any]], found: Iterable[Found] = ()) -> list[Prompt]:
    """The training part of H^A's labels, and what an adversary's stage has had it judge, as prompts with answers."""
    prompts = [
        Prompt(
            str(row["question"]),
            group_of(row["task"], row["level"]) if row["source"] == "task" else attack_group(row["source"]),
            str(row["answer"]),
        )
        for row in rows
        if row["part"] == "train"
    ]
    held_out = {str(row["question"]) for row in rows if row["part"] != "train"}
    return prompts + [
        Prompt(each.question, attack_group(ADVERSARY), each.answer) for each in found if each.question not in held_out
    ]


def group_of(task: str, level: int) -> str:
    """The name of what is practised together."""
    return f"{task}/{level}"


def attack_group(source: str) -> str:
    """The same of attacks: a training family on a task, or what adversaries found."""
    return ATTACK + source.removeprefix(FAMILY)


def watched_questions(
    tasks: Mapping[str, Task], generation: int, count: int, taught: Collection[str], seed: int
) -> list[str]:
    """Up to `count` training questions of generation n to judge its agent by, none of those in `taught`.

    Of each task alike; two thirds of them of the new level, where there are so many, and the rest of older ones.
    Raises InputError if there are fewer than two.
    """
    each, texts = -(-count // len(tasks)), list[str]()
    for task in tasks.values():
        new, *older = reversed(task.levels[: generation + 1])
        found = _untaught(task, new, each - each // 3 if older else each, taught, generation_seed(seed, generation))
        for level in older:
            found += _untaught(task, level, each - len(found), taught, generation_seed(seed, generation))
        texts += found
    if len(texts) < LEAST_WATCHED:
        problem = f"hardly a question of generation {generation} is no label, so there is none to watch PPO by"
        raise InputError("distill.ppo.watch", problem, "raise distill.labels.heldout or set 'every' to 0")
    return texts[:count]


def _untaught(task: Task, level: int, count: int, taught: Collection[str], seed: int) -> list[str]:
    return list(islice((q for q in questions(task, level, "train", seed + WATCH) if q not in taught), count))


def _draw(task: Task, level: int, count: int, seed: int) -> list[str]:
    """`count` training questions, over again where a small level has fewer. Other draws than the labels'."""
    return list(islice(cycle(islice(questions(task, level, "train", seed + PRACTICE), count)), count))
