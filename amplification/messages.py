"""Messages: what pointers stand for. Large texts are cut into excerpts without being copied or read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from amplification.question import Message, digest, with_pointers

# How far a cut moves to the right in search of white space, so that it falls between two words.
SEARCH_CHARS = 200

_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class Excerpt:
    """A part of a message, as a message of its own: what was between two cuts. Holds no text itself.

    Its digest is that of a message with the same text, so it does not matter how a text was cut out.
    """

    source: Message
    start: int
    stop: int

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.stop]

    @property
    def pointers(self) -> tuple[str, ...]:
        return self.source.pointers

    @property
    def size(self) -> int:
        return self.stop - self.start

    @cached_property
    def digest(self) -> str:
        return digest(Message.kind, self.text, *self.pointers)


Content = Message | Excerpt


@dataclass(frozen=True)
class Cut:
    """A piece of what a pointer stands for, from character `start` to `stop` (None: to its end).

    Both cuts move right to the next white space, if there is any near, so words stay whole; and since equal numbers
    move to equal places, pieces that adjoin neither overlap nor leave anything out.
    """

    pointer: str
    start: int = 0
    stop: int | None = None


Piece = Cut | str


class TooLong(Exception):
    """A message would be longer than it may. Raised inside meta-execution, which turns it into a failed answer."""


class Messages:
    """The messages that pointers of one tree may stand for, by digest. Grows only by what it is given."""

    def __init__(self, known: Iterable[Content] = ()) -> None:
        self._known: dict[str, Content] = {message.digest: message for message in known}

    def __getitem__(self, pointer: str) -> Content:
        return self._known[pointer]

    def __contains__(self, pointer: str) -> bool:
        return pointer in self._known

    @property
    def all(self) -> Mapping[str, Content]:
        return MappingProxyType(self._known)

    def add(self, message: Content) -> str:
        """Make a message known; returns the pointer to it."""
        return self._known.setdefault(message.digest, message).digest

    def made(self, pieces: Sequence[Piece], most_chars: int) -> Content:
        """A message from pieces, one after the other. Raises TooLong for one of more than `most_chars` characters.

        One piece alone stays an excerpt, whatever its length: it takes no memory. In a text among the pieces, `$` is
        an ordinary character.
        """
        cuts = [piece if isinstance(piece, str) else self._excerpt(piece) for piece in pieces]
        if len(cuts) == 1 and not isinstance(cuts[0], str):
            return cuts[0]
        if sum(len(cut) if isinstance(cut, str) else cut.size for cut in cuts) > most_chars:
            raise TooLong("the new message is too long")
        pointers: list[str] = []
        texts = []
        for cut in cuts:
            if isinstance(cut, str):
                texts.append(cut)
                continue
            before = len(pointers)
            pointers += cut.pointers
            texts.append(with_pointers(cut.text, len(cut.pointers), lambda n, before=before: f"${n + before}"))  # type: ignore[misc]
        return Message("".join(texts), tuple(pointers))

    def expanded(self, message: Content, most_chars: int) -> str:
        """The text with each pointer replaced by what it stands for, and so on inwards.

        Raises TooLong for more than `most_chars` characters. Messages cannot be in a circle: a digest covers all that
        lies behind it.
        """
        if message.size > most_chars:
            raise TooLong(f"with what it points to it has more than {most_chars} characters")
        left = most_chars - message.size

        def inner(number: int) -> str:
            nonlocal left
            text = self.expanded(self[message.pointers[number - 1]], left)
            left -= len(text)
            return text

        return with_pointers(message.text, len(message.pointers), inner)

    def _excerpt(self, cut: Cut) -> Excerpt:
        content = self[cut.pointer]
        start, stop = _moved(content, cut.start), _moved(content, content.size if cut.stop is None else cut.stop)
        stop = max(start, stop)
        if isinstance(content, Excerpt):
            return Excerpt(content.source, content.start + start, content.start + stop)
        return Excerpt(content, start, stop)


def _moved(content: Content, at: int) -> int:
    """The place of a cut: between words, inside the content."""
    if at <= 0 or at >= content.size:
        return min(max(at, 0), content.size)
    begin = content.start if isinstance(content, Excerpt) else 0
    text = content.source.text if isinstance(content, Excerpt) else content.text
    end = min(begin + at + SEARCH_CHARS, begin + content.size)
    found = _SPACE.search(text, begin + at, end)
    if found:
        return found.start() - begin
    return content.size if end == begin + content.size else at
