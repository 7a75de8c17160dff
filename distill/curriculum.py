"""Curriculum: which training questions a generation is taught, labelled and practised on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from amplification.tasks.attacks import attacks
from amplification.tasks.base import Task, questions
from distill.config import LabelsConfig

SEEDS_A_GENERATION = 1_000
PRACTICE = 500  # added to a seed, so that PPO practises on other questions than those that were labelled


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
    return kept + [Chosen(attack.text, "", 0, f"attack:{attack.family}/{attack.task}") for attack in families]


def _found(tasks: Mapping[str, Task], text: str) -> Chosen:
    """What an adversary found; it may be a question with a meaning, at whose answer A failed."""
    task = next((task for task in tasks.values() if task.level_of(text) is not None), None)
    return Chosen(text, task.name if task else "", (task.level_of(text) or 0) if task else 0, "adversary")


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
    tasks: Mapping[str, Task], generation: int, episodes: int, share: float, found: Sequence[str], seed: int
) -> tuple[list[str], int]:
    """PPO's prompts of generation n, one an episode, and how many of them are attacks (at most `share`).

    Two thirds of each task's prompts are of the new level, the rest is spread over the older ones.
    """
    hostile = round(episodes * share)
    each = (episodes - hostile) // len(tasks)
    texts: list[str] = []
    for task in tasks.values():
        older = task.levels[:generation]
        replay = each // 3 // len(older) if older else 0
        for level in older:
            texts += _draw(task, level, replay, generation_seed(seed, generation))
        texts += _draw(task, task.levels[generation], each - replay * len(older), generation_seed(seed, generation))
    attacked = attack_questions(tasks, generation, hostile, found, generation_seed(seed, generation))
    return texts + [choice.question for choice in attacked], len(attacked)


def _draw(task: Task, level: int, count: int, seed: int) -> list[str]:
    """`count` training questions, over again where a small level has fewer. Other draws than the labels'."""
    return list(islice(cycle(islice(questions(task, level, "train", seed + PRACTICE), count)), count))
