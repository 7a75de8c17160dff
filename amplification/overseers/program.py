"""ProgramOverseer: H as a program."""

from __future__ import annotations

from collections.abc import Mapping

from amplification.overseer import NOT_UNDERSTOOD, Decision, Overseer
from amplification.overseers.judging import is_judging, judge_step
from amplification.tasks.base import Task
from amplification.workspace import GiveUp, Workspace


class ProgramOverseer(Overseer):
    """Each task's own rules, how to judge by them, and an honest refusal of what no task understands."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self.name = "program:" + ",".join(tasks)

    async def act(self, workspace: Workspace) -> Decision:
        if is_judging(workspace.question):
            return Decision(judge_step(workspace))
        for task in self.tasks.values():
            if task.level_of(workspace.question.text) is not None:
                return Decision(task.act(workspace))
        return Decision(GiveUp(NOT_UNDERSTOOD))
