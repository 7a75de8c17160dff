"""A mixture asks each overseer as often as it was told to, and the same one again at the same workspace."""

from __future__ import annotations

import asyncio

from amplification.overseer import Decision, Overseer, Use
from amplification.overseers.mixture import MixedOverseer
from amplification.question import Question
from amplification.workspace import Left, Reply, Workspace


class Says(Overseer):
    """Replies its own name, for a price."""

    def __init__(self, name: str, price: int) -> None:
        self.name, self.price = name, price

    def bound(self, workspace: Workspace) -> Use:
        return Use(self.price, self.price)

    async def act(self, workspace: Workspace) -> Decision:
        return Decision(Reply(self.name), used=Use(self.price, self.price))


FIRST, SECOND = Says("first", 1), Says("second", 2)
WORKSPACES = [Workspace(Question(f"question {number}")) for number in range(2_000)]


def chosen(share: float, seed: int = 0, workspaces: list[Workspace] = WORKSPACES) -> list[Decision]:
    mixed = MixedOverseer(FIRST, SECOND, share, seed)

    async def all_of_them() -> list[Decision]:
        return [await mixed.act(workspace) for workspace in workspaces]

    decisions = asyncio.run(all_of_them())
    for workspace, decision in zip(workspaces, decisions, strict=True):
        assert decision.action == Reply(decision.by)
        assert decision.used == mixed.bound(workspace)
    return decisions


def test_each_is_asked_as_often_as_it_was_told() -> None:
    seconds = sum(decision.by == "second" for decision in chosen(0.3))
    assert 500 < seconds < 700  # 600 expected, five standard deviations
    assert {decision.by for decision in chosen(0.0)} == {"first"}
    assert {decision.by for decision in chosen(1.0)} == {"second"}


def test_the_choice_depends_on_the_seed_and_the_workspace_alone() -> None:
    assert chosen(0.5) == chosen(0.5)
    assert chosen(0.5, 1) != chosen(0.5)
    later = [Workspace(workspace.question, left=Left(seconds=1)) for workspace in WORKSPACES]
    assert chosen(0.5, workspaces=later) == chosen(0.5)


def test_mixtures_that_choose_differently_have_different_names() -> None:
    names = {MixedOverseer(FIRST, SECOND, share, seed).name for share in (0.1, 0.2) for seed in (0, 1)}
    assert len(names) == 4
