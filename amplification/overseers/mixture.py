"""MixedOverseer: one overseer or the other, with a set probability."""

from __future__ import annotations

from amplification.overseer import Decision, Overseer, Use
from amplification.overseers.notation import workspace_text
from amplification.question import digest
from amplification.workspace import Workspace


class MixedOverseer(Overseer):
    """`second` decides with probability `share`, `first` otherwise; `Decision.by` is the name of the one who did.

    The choice is a function of the seed and of what the workspace shows, so that a run that is resumed chooses alike.
    """

    def __init__(self, first: Overseer, second: Overseer, share: float, seed: int) -> None:
        self.first, self.second, self.share, self.seed = first, second, share, seed
        self.name = f"mixture({first.name} | {share:g} of {second.name}, seed {seed})"

    def chosen(self, workspace: Workspace) -> Overseer:
        """Who decides here."""
        # Without the budget left: a run on a slower machine has fewer seconds, and would choose otherwise.
        shown = workspace_text(Workspace(workspace.question, workspace.events, workspace.pointers))
        drawn = int(digest("mixture", str(self.seed), shown)[:13], 16) / 16**13
        return self.second if drawn < self.share else self.first

    def bound(self, workspace: Workspace) -> Use:
        return self.chosen(workspace).bound(workspace)

    async def act(self, workspace: Workspace) -> Decision:
        chosen = self.chosen(workspace)
        decision = await chosen.act(workspace)
        return Decision(decision.action, decision.by or chosen.name, decision.used)
