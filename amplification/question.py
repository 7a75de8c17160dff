"""Question and Answer: immutable, content-addressed messages, and the other messages that they point to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

MAX_ANSWER_CHARS = 2_000

POINTER = re.compile(r"\$([1-9][0-9]{0,5})")


def digest(*parts: str) -> str:
    """A 32-hex-digit name for `parts`; parts are length-prefixed, so ("ab", "c") and ("a", "bc") differ."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        h.update(len(data).to_bytes(8, "big"))
        h.update(data)
    return h.hexdigest()


class _Named:
    """Where a message keeps its digest once it was asked for: of most messages in a large tree it never is."""

    __slots__ = ("_digest",)
    _digest: str


@dataclass(frozen=True, slots=True)
class Message(_Named):
    """A text, in which `$1` stands for the message whose digest is `pointers[0]`.

    A number beyond the pointers stands for itself, so a price of `$5` in a text without pointers is a price.
    """

    kind: ClassVar[str] = "message"

    text: str
    pointers: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        try:
            return self._digest
        except AttributeError:
            object.__setattr__(self, "_digest", digest(*self._parts()))
            return self._digest

    def _parts(self) -> tuple[str, ...]:
        return (self.kind, self.text, *self.pointers)

    @property
    def size(self) -> int:
        """Length in characters, what it points to not counted."""
        return len(self.text)


@dataclass(frozen=True, slots=True)
class Question(Message):
    """What is asked."""

    kind: ClassVar[str] = "question"


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """What came back: a text, or a failure with its reason. A failure is a value, never an exception."""

    kind: ClassVar[str] = "answer"

    failure: str | None = None

    @classmethod
    def failed(cls, reason: str) -> Answer:
        return cls(text="", failure=reason)

    @property
    def ok(self) -> bool:
        return self.failure is None

    def _parts(self) -> tuple[str, ...]:
        failure = "" if self.failure is None else f"failure {self.failure}"
        return (self.kind, self.text, failure, *self.pointers)

    def shown(self) -> str:
        """The answer as a workspace shows it: failures are visible and cannot be taken for an answer."""
        return self.text[:MAX_ANSWER_CHARS] if self.ok else f"[no answer: {self.failure}]"[:MAX_ANSWER_CHARS]


def is_unicode(text: str) -> bool:
    """Whether a text can be written down: half a character (a lone surrogate), as JSON may hold one, cannot."""
    if text.isascii():  # at once, and most texts are
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def with_pointers(text: str, count: int, write: Callable[[int], str]) -> str:
    """`text` with each of its `count` pointers as `write` puts it; numbers beyond the pointers are left alone."""
    if count == 0 or "$" not in text:
        return text
    return POINTER.sub(lambda m: write(int(m[1])) if int(m[1]) <= count else m[0], text)
