"""Desk: a node's workspace as it fills up, step by step. What is on it decides what H may refer to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amplification.messages import Content, Cut, Messages
from amplification.question import MAX_ANSWER_CHARS, Answer, Question, is_unicode
from amplification.workspace import (
    Action,
    Ask,
    Event,
    Exchange,
    GiveUp,
    Left,
    Look,
    Made,
    Make,
    Pointer,
    Reply,
    Seen,
    Workspace,
)

# How much of a message one look shows.
LOOK_CHARS = 1_000

NO_UNICODE = "the overseer wrote half a character (a lone surrogate), which no model and no file can take"


class Desk:
    """What H has been given and what it has done, as the workspace of its next step."""

    def __init__(self, question: Question, messages: Messages) -> None:
        self.question, self.messages = question, messages
        self._events: list[Event] = []
        self._sizes: dict[str, int] = {}
        self._give(question.pointers)

    def workspace(self, left: Left) -> Workspace:
        """All that H sees now."""
        pointers = tuple(Pointer(digest, size) for digest, size in self._sizes.items()) if self._sizes else ()
        return Workspace(self.question, tuple(self._events), pointers, left)

    def refusal(self, action: Action, most_chars: int) -> str | None:
        """Why H cannot do this, None if it can: it asks nothing, refers to what it was not given, or says too much."""
        match action:
            case Ask(subs):
                if not subs:
                    return "the overseer asked nothing"
                for sub in subs:
                    if not is_unicode(sub.question.text):
                        return NO_UNICODE
                return self._stranger([pointer for sub in subs for pointer in sub.question.pointers])
            case Look(pointer, start):
                return self._stranger([pointer]) or ("the overseer looked before the beginning" if start < 0 else None)
            case Make(messages):
                cuts = [piece.pointer for pieces in messages for piece in pieces if isinstance(piece, Cut)]
                if not messages or not all(messages):
                    return "the overseer made a message of nothing"
                texts = [piece for pieces in messages for piece in pieces if isinstance(piece, str)]
                return self._stranger(cuts) or (None if all(map(is_unicode, texts)) else NO_UNICODE)
            case Reply(text, pointers):
                return self._stranger(pointers) or _unsayable(text, most_chars)
            case GiveUp(reason):
                return _unsayable(reason, most_chars)
        return "the overseer did nothing that can be done"

    def exchanged(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Sub-questions have been answered."""
        for question, answer in zip(questions, answers, strict=True):
            self._events.append(Exchange(question, answer))
            if answer.pointers:
                self._give(answer.pointers)
            if len(answer.text) > MAX_ANSWER_CHARS:
                self._give([self.messages.add(answer)])

    def looked(self, look: Look) -> None:
        """H has looked at a message."""
        text = self.messages[look.pointer].text[look.start : look.start + LOOK_CHARS]
        self._events.append(Seen(look.pointer, look.start, text))

    def made(self, contents: Sequence[Content]) -> None:
        """H has made messages."""
        pointers = tuple(self.messages.add(content) for content in contents)
        self._events.append(Made(pointers))
        self._give(pointers)

    def _give(self, pointers: Iterable[str]) -> None:
        for pointer in pointers:
            self._sizes.setdefault(pointer, self.messages[pointer].size)

    def _stranger(self, pointers: Iterable[str]) -> str | None:
        for pointer in pointers:
            if pointer not in self._sizes:
                return "the overseer referred to something that it was not given"
        return None


def _unsayable(text: str, most_chars: int) -> str | None:
    if len(text) > most_chars:
        return f"the reply has {len(text)} characters, more than a workspace holds"
    return None if is_unicode(text) else NO_UNICODE
