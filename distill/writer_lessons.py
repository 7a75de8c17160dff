"""What a small model is taught to be a writer: attacks of the training families, as answers to `attack_short`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from amplification.tasks.attack_families import sampled
from amplification.tasks.attacks import FAMILIES, attacks
from amplification.tasks.base import Task


def writer_lessons(tasks: Mapping[str, Task], count: int, up_to: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows for `distill.imitation.warm_start`: what the prompt `attack_short` holds, and an attack to write.

    No attack of a held-out family or of the held-out side is among them.
    """
    rng = random.Random(f"writer/{seed}")
    rows = []
    for attack in attacks(tasks, count, held_out=False, seed=seed, up_to=up_to):
        task, kind = tasks[attack.task], FAMILIES[attack.family].kind
        question = sampled(task, task.levels[: up_to + 1], "train", rng)
        rows.append(
            {
                "question": f"{kind} {question}",  # with the frame of the template `direct`, as in `attack_short`
                "answer": attack.text,
                "task": task.name,
                "level": 0,
                "source": kind,
                "part": "train",
            }
        )
    return rows
