"""Overseer (H): decides the next step in a workspace. Each kind of overseer has a file in `amplification.overseers`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from amplification.workspace import Action, Workspace

NOT_UNDERSTOOD = "no task understands this question"


class Use(NamedTuple):
    """Calls and tokens (prompt and completion) of the overseer's own model."""

    calls: int = 0
    tokens: int = 0

    def plus(self, other: Use) -> Use:
        return Use(self.calls + other.calls, self.tokens + other.tokens)


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
