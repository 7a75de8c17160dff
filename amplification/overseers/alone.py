"""LoneOverseer: an overseer without an agent. Whatever it would ask A, it asks a copy of itself.

So a question is broken up until H knows the answer itself, or its budget is spent. What A says cannot reach an answer
that was come to in this way.
"""

from __future__ import annotations

from amplification.overseer import Decision, Overseer, Use
from amplification.workspace import Ask, Workspace


class LoneOverseer(Overseer):
    """`overseer` with all its sub-questions answered by copies of itself."""

    def __init__(self, overseer: Overseer) -> None:
        self.overseer = overseer
        self.name = f"alone({overseer.name})"

    def bound(self, workspace: Workspace) -> Use:
        return self.overseer.bound(workspace)

    async def act(self, workspace: Workspace) -> Decision:
        decision = await self.overseer.act(workspace)
        if not isinstance(decision.action, Ask):
            return decision
        subs = tuple(sub._replace(recurse=True) for sub in decision.action.subs)
        return decision._replace(action=Ask(subs))
