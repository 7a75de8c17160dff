"""CautiousOverseer: an H that trusts its agent's doubts, for the experiment on drift.

Nothing that it says is its own: it neither breaks a question up nor knows a fact, so whatever the agent comes to say,
its labels come to say.
"""

from __future__ import annotations

from amplification.overseer import Decision, Overseer
from amplification.question import Question
from amplification.tasks.base import NONSENSE
from amplification.tasks.counting import Counting
from amplification.workspace import Ask, GiveUp, Reply, SubQuestion, Workspace

# In how many wordings the agent is asked: the question's own, and the next ones in the task's list.
WORDINGS = 3


class CautiousOverseer(Overseer):
    """Refuses where the agent refuses in any of the wordings it is asked, else says what it says in most of them."""

    name = "cautious"

    def __init__(self, task: Counting) -> None:
        self.task = task

    async def act(self, workspace: Workspace) -> Decision:
        text = workspace.question.text
        if not workspace.exchanges:
            wordings = self.task.wordings(text)
            here = wordings.index(text)
            asked = [wordings[(here + place) % len(wordings)] for place in range(WORDINGS)]
            return Decision(Ask(tuple(SubQuestion(Question(wording)) for wording in asked)))
        said = [exchange.answer.text for exchange in workspace.exchanges if exchange.answer.ok]
        if not said:
            return Decision(GiveUp("the agent answered in no wording"))
        return Decision(Reply(NONSENSE if NONSENSE in said else max(said, key=said.count)))
