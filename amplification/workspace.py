"""Workspace: all that the overseer sees at one step, and the actions it can take there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from amplification.messages import Piece
from amplification.question import MAX_ANSWER_CHARS, Answer, Question


class SubQuestion(NamedTuple):
    """A question the overseer asks. `recurse=True` sends it to a fresh copy of H^A instead of to A."""

    question: Question
    recurse: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask one or several sub-questions at once. They may point to what the workspace has pointers to."""

    subs: tuple[SubQuestion, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """Show a part of what a pointer stands for, from character `start` on."""

    pointer: str
    start: int = 0


@dataclass(frozen=True, slots=True)
class Make:
    """Make new messages, each from pieces, and get pointers to them. Nobody reads what is in the pieces."""

    messages: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the workspace's question."""

    text: str
    pointers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End without an answer, with a reason."""

    reason: str


Action = Ask | Look | Make | Reply | GiveUp


class Exchange(NamedTuple):
    """One sub-question with its answer, as it stands in a workspace."""

    question: Question
    answer: Answer

    @property
    def clipped(self) -> bool:
        """Whether the answer is longer than what is shown of it (the workspace then has a pointer to it)."""
        return len(self.answer.text) > MAX_ANSWER_CHARS

    def characters(self) -> int:
        return len(self.question.text) + len(self.answer.shown())


@dataclass(frozen=True, slots=True)
class Seen:
    """What was to be seen of a message when the overseer looked."""

    pointer: str
    start: int
    text: str

    def characters(self) -> int:
        return len(self.text)


@dataclass(frozen=True, slots=True)
class Made:
    """New messages, in the order in which they were made."""

    pointers: tuple[str, ...]

    def characters(self) -> int:
        return 0  # pointers are counted where they are listed


Event = Exchange | Seen | Made


class Pointer(NamedTuple):
    """A message that the workspace can refer to, and its length in characters."""

    digest: str
    size: int


class Left(NamedTuple):
    """The budget left, each rounded down to a power of ten, so that showing it does not spoil the memo."""

    calls: int = 0
    tokens: int = 0
    depth: int = 0
    seconds: int = 0


# What a pointer takes to list: its number and its size.
POINTER_CHARS = 16


class Workspace(NamedTuple):
    """The question, what has happened since (in order), what can be pointed to, and the budget left.

    `pointers[i]` is shown as `$i+1`: the question's own come first, then each new one as it appears: made messages,
    what an answer points to, and answers too long to be shown whole.
    """

    question: Question
    events: tuple[Event, ...] = ()
    pointers: tuple[Pointer, ...] = ()
    left: Left = Left()

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """What was asked and answered, in order."""
        return tuple([event for event in self.events if isinstance(event, Exchange)])

    def characters(self) -> int:
        """Length of everything shown; the bound on it is `Limits.workspace_chars`."""
        shown = len(self.question.text) + POINTER_CHARS * len(self.pointers)
        for event in self.events:
            shown += event.characters()
        return shown

    def knows(self, pointer: str) -> bool:
        """Whether the overseer was given this pointer."""
        return any(pointer == known.digest for known in self.pointers)

    def number(self, pointer: str) -> int:
        """The number under which a pointer is shown. Raises ValueError for one that was not given."""
        return [known.digest for known in self.pointers].index(pointer) + 1
