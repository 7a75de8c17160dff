"""ProgramOverseer: H as a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amplification.overseer import NOT_UNDERSTOOD, Decision, Overseer
from amplification.overseers.judging import is_judging, judge_step
from amplification.question import Question
from amplification.tasks.base import Task, TextTask
from amplification.tasks.long_text import LongText
from amplification.workspace import GiveUp, Workspace


class ProgramOverseer(Overseer):
    """Each task's own rules, how to judge by them, and an honest refusal of what no task understands."""

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
        if is_judging(workspace.question):
            return Decision(judge_step(workspace))
        task = self.task_for(workspace.question)
        return Decision(task.act(workspace) if task is not None else GiveUp(NOT_UNDERSTOOD))
