"""The embedded tasks by name. A new task is one new file and one line in `TASKS`."""

from __future__ import annotations

from amplification.errors import InputError
from amplification.tasks.base import NONSENSE, Task
from amplification.tasks.boolean import Boolean
from amplification.tasks.counting import Counting
from amplification.tasks.permutation import Permutation
from amplification.tasks.summing import Summing

TASKS: dict[str, Task] = {t.name: t for t in (Counting(), Summing(), Permutation(), Boolean())}


def task(name: str) -> Task:
    """The task called `name`. Raises InputError if there is none."""
    if name not in TASKS:
        raise InputError("tasks", f"there is no task '{name}'", f"choose from {', '.join(TASKS)}")
    return TASKS[name]


def task_of(text: str) -> Task | None:
    """The task that understands a question; None if the question makes no sense to any."""
    return next((t for t in TASKS.values() if t.level_of(text) is not None), None)


def vocabulary() -> tuple[str, ...]:
    """Every word of every task, and `NONSENSE`, each once, in a fixed order."""
    return tuple(dict.fromkeys([word for t in TASKS.values() for word in t.words()] + [NONSENSE]))
