"""Workspace: all that the overseer sees at one step, and the actions it can take there."""

from __future__ import annotations

from dataclasses import dataclass

from amplification.question import Answer, Question


@dataclass(frozen=True)
class SubQuestion:
    """A question the overseer asks. `recurse=True` sends it to a fresh copy of H^A instead of to A."""

    question: Question
    recurse: bool = False


@dataclass(frozen=True)
class Ask:
    """Ask one or several sub-questions at once."""

    subs: tuple[SubQuestion, ...]


@dataclass(frozen=True)
class Look:
    """Show what a pointer stands for."""

    pointer: str


@dataclass(frozen=True)
class Reply:
    """Answer the workspace's question."""

    text: str
    pointers: tuple[str, ...] = ()


@dataclass(frozen=True)
class GiveUp:
    """End without an answer, with a reason."""

    reason: str


Action = Ask | Look | Reply | GiveUp


@dataclass(frozen=True)
class Exchange:
    """One sub-question with its answer, as it stands in a workspace."""

    question: Question
    answer: Answer


@dataclass(frozen=True)
class Workspace:
    """The question, what has been asked and answered so far (in order), and the budget left.

    `calls_left` and `depth_left` are rounded down to a power of ten, so that they do not spoil the memo.
    """

    question: Question
    exchanges: tuple[Exchange, ...] = ()
    calls_left: int = 0
    depth_left: int = 0

    def characters(self) -> int:
        """Length of everything shown; the bound on it is `Limits.workspace_chars`."""
        shown = sum(len(e.question.text) + len(e.answer.shown()) for e in self.exchanges)
        return len(self.question.text) + shown
