"""Overseer (H): decides the next step in a workspace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from amplification.tasks.base import Task
from amplification.workspace import Action, GiveUp, Workspace

NOT_UNDERSTOOD = "no task understands this question"


class Overseer(Protocol):
    """A program, a language model, a person, or a model that imitates one of them.

    `name` goes into episodes and into the memo's scope; two overseers that act differently have different names.
    """

    name: str

    async def act(self, workspace: Workspace) -> Action:
        """The next step. Never raises for bad content: it gives up with a reason instead."""
        ...


class ProgramOverseer:
    """H as a program: each task's own rules, and an honest refusal of what no task understands."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self.name = "program:" + ",".join(tasks)

    async def act(self, workspace: Workspace) -> Action:
        for task in self.tasks.values():
            if task.level_of(workspace.question.text) is not None:
                return task.act(workspace)
        return GiveUp(NOT_UNDERSTOOD)
