"""Overseer (H): decides the next step in a workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from amplification.question import Question
from amplification.tasks.base import Task, TextTask
from amplification.tasks.long_text import LongText
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

    def __init__(self, tasks: Mapping[str, Task], texts: Sequence[TextTask] = (LongText(),)) -> None:
        """`texts`: what it knows to do with questions that point to something, an attached file say."""
        self.tasks, self.texts = tasks, texts
        self.name = "program:" + ",".join(tasks)

    def task_for(self, question: Question) -> Task | TextTask | None:
        """The task that understands a question, None if none does."""
        if question.pointers:
            return next((task for task in self.texts if task.understands(question)), None)
        return next((task for task in self.tasks.values() if task.level_of(question.text) is not None), None)

    async def act(self, workspace: Workspace) -> Decision:
        task = self.task_for(workspace.question)
        return Decision(task.act(workspace) if task is not None else GiveUp(NOT_UNDERSTOOD))
