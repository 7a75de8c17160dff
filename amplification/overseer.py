"""Overseer (H): decides the next step in a workspace. Each kind of overseer has a file in `amplification.overseers`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from amplification.workspace import Action, Workspace

NOT_UNDERSTOOD = "no task understands this question"


class Use(NamedTuple):
    """Calls and tokens (prompt and completion) of the overseer's own model; a memo hit uses none.

    `work` is parameters x tokens, which adds up over models of different sizes, and `work_saved` what memo hits would
    have added to it. `unpriced`: tokens (the saved ones included) of a model whose size nobody told.
    """

    calls: int = 0
    tokens: int = 0
    work: int = 0
    work_saved: int = 0
    unpriced: int = 0

    def plus(self, other: Use) -> Use:
        return Use(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


FREE = Use()


class Decision(NamedTuple):
    """The next step, who decided it ("" for the overseer that was asked), and what deciding used."""

    action: Action
    by: str = ""
    used: Use = FREE


class Overseer(Protocol):
    """A program, a language model, a person, or a model that imitates one of them.

    `name` goes into episodes; two overseers that act differently have different names.
    """

    name: str

    def bound(self, workspace: Workspace) -> Use:
        """The most that deciding this step may use; it is set aside before `act` is called."""
        return FREE

    async def act(self, workspace: Workspace) -> Decision:
        """The next step. Never raises for bad content: it gives up with a reason instead.

        Raises ServingError where a model behind it cannot answer at all.
        """
        ...
