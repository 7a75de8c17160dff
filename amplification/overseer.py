"""Overseer (H): decides the next step in a workspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from amplification.tasks.base import Task
from amplification.workspace import Action, GiveUp, Workspace

NOT_UNDERSTOOD = "no task understands this question"


class Use(NamedTuple):
    """Calls and tokens (prompt and completion) of the overseer's own model."""

    calls: int = 0
    tokens: int = 0


FREE = Use()


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step, who decided it ("" for the overseer that was asked), and what deciding used."""

    action: Action
    by: str = ""
    used: Use = FREE


class Overseer(Protocol):
    """A program, a language model, a person, or a model that imitates one of them.

    `name` goes into episodes; two overseers that act differently have different names. `bound` is the most that one
    decision may use, and is set aside before it is asked for.
    """

    name: str
    bound: Use = FREE

    async def act(self, workspace: Workspace) -> Decision:
        """The next step. Never raises for bad content: it gives up with a reason instead.

        Raises ServingError where a model behind it cannot answer at all.
        """
        ...


class ProgramOverseer(Overseer):
    """H as a program: each task's own rules, and an honest refusal of what no task understands."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self.name = "program:" + ",".join(tasks)

    async def act(self, workspace: Workspace) -> Decision:
        for task in self.tasks.values():
            if task.level_of(workspace.question.text) is not None:
                return Decision(task.act(workspace))
        return Decision(GiveUp(NOT_UNDERSTOOD))
