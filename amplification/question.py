"""Question and Answer: immutable, content-addressed messages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

MAX_ANSWER_CHARS = 2_000


def digest(*parts: str) -> str:
    """A 32-hex-digit name for `parts`; parts are length-prefixed, so ("ab", "c") and ("a", "bc") differ."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        h.update(len(data).to_bytes(8, "big"))
        h.update(data)
    return h.hexdigest()


@dataclass(frozen=True)
class Question:
    """What is asked: text, in which `$1` stands for the message whose digest is `pointers[0]`."""

    text: str
    pointers: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        return digest("question", self.text, *self.pointers)


@dataclass(frozen=True)
class Answer:
    """What came back: a text, or a failure with its reason. A failure is a value, never an exception."""

    text: str
    pointers: tuple[str, ...] = ()
    failure: str | None = None

    @classmethod
    def failed(cls, reason: str) -> Answer:
        return cls(text="", failure=reason)

    @property
    def ok(self) -> bool:
        return self.failure is None

    @cached_property
    def digest(self) -> str:
        return digest("answer", self.text, self.failure or "", *self.pointers)

    def shown(self) -> str:
        """The answer as a workspace shows it: failures are visible and cannot be taken for an answer."""
        return self.text[:MAX_ANSWER_CHARS] if self.ok else f"[no answer: {self.failure}]"
