"""A person as the overseer: shown one workspace at a time, and asked what to do there."""

from __future__ import annotations

import asyncio
from typing import Protocol

from amplification.overseer import Decision, Overseer
from amplification.overseers.decisions import Decisions
from amplification.overseers.notation import NotationError, parse_action, workspace_text
from amplification.workspace import Action, Ask, Make, Reply, Workspace

NAME = "human"

HELP = (
    "ask QUESTION, recurse QUESTION (both may be several lines), look $1 [FROM], make TEXT (several lines), "
    "reply TEXT, give up REASON; an empty line ends several"
)


class Person(Protocol):
    """Whoever sits at the terminal."""

    def show(self, text: str) -> None:
        """Show a text; what it holds cannot be trusted."""
        ...

    async def line(self, prompt: str) -> str:
        """The next line they type. Raises EOFError when they have left."""
        ...


class HumanOverseer(Overseer):
    """H as a person. Workspaces of one episode queue up; what was decided once is not asked again.

    Raises EOFError when the person leaves, which ends the episode; decisions made before are kept.
    """

    def __init__(self, person: Person, decisions: Decisions, most_chars: int, name: str = NAME) -> None:
        """`most_chars`: characters that a reply may have."""
        self.person, self.decisions, self.most_chars, self.name = person, decisions, most_chars, name
        self._turn = asyncio.Lock()

    async def act(self, workspace: Workspace) -> Decision:
        known = self.decisions.get(workspace)
        if known is None:
            async with self._turn:
                known = self.decisions.get(workspace)  # an equal workspace may have been before us in the queue
                if known is None:
                    known = await self._decide(workspace)
                    self.decisions.put(workspace, known)
        return Decision(known)

    async def _decide(self, workspace: Workspace) -> Action:
        self.person.show(workspace_text(workspace))
        kept: list[str] = []
        while True:
            line = await self.person.line("... " if kept else "H> ")
            if not line.strip():
                if kept:
                    return parse_action("\n".join(kept), workspace)
                self.person.show(HELP)
                continue
            try:
                action = parse_action("\n".join([*kept, line]), workspace)
                self._check(action)
            except NotationError as error:
                # Of several lines, only the one with the mistake is to be typed again.
                self.person.show(str(error))
                continue
            if not isinstance(action, Ask | Make) or line.lstrip().startswith("{"):
                return action
            kept.append(line)

    def _check(self, action: Action) -> None:
        if isinstance(action, Reply) and len(action.text) > self.most_chars:
            raise NotationError(f"the reply has {len(action.text)} characters; at most {self.most_chars} are taken")
