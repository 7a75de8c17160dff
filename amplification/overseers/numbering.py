"""Numbering: texts with a workspace's pointers in them, and the same texts as messages hold them.

A message numbers its pointers by itself; a workspace numbers all that it can refer to. Where a workspace has pointers,
`$1` in a text stands for one and `$$` for a dollar sign; where it has none, `$` is an ordinary character.
"""

from __future__ import annotations

import re
import unicodedata

from amplification.messages import Cut, Piece
from amplification.question import with_pointers
from amplification.workspace import Workspace

_DOLLAR = re.compile(r"\$\$|\$([1-9][0-9]{0,5})")
_CUT = re.compile(r"\$\$|\$([1-9][0-9]{0,5})(?:\[([0-9]{1,15}):([0-9]{0,15})\])?")


class NotationError(ValueError):
    """What was written is no action. The text is one line that tells whoever wrote it what to write instead."""


def outward(text: str, pointers: tuple[str, ...], workspace: Workspace) -> str:
    """A message's text with its pointers in the workspace's numbering. Raises ValueError for one not given there."""
    if not workspace.pointers:
        return text
    parts: list[str] = []
    # Pointers leave the text first, so that they are not mistaken for dollar signs.
    marked = with_pointers(text.replace("\0", ""), len(pointers), lambda n: f"\0{n}\0")
    for place, part in enumerate(marked.split("\0")):
        inside = place % 2 == 1
        parts.append(f"${workspace.number(pointers[int(part) - 1])}" if inside else part.replace("$", "$$"))
    return "".join(parts)


def inward(text: str, workspace: Workspace) -> tuple[str, tuple[str, ...]]:
    """A text in the workspace's numbering as a message's text and its pointers.

    Raises NotationError for a pointer that the workspace does not have.
    """
    if not workspace.pointers:
        return text, ()
    pointers: list[str] = []
    literal: list[int] = []
    parts: list[str] = []
    end = 0
    for match in _DOLLAR.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        if match[1] is None:
            parts.append("$")
            literal += [int(number[0]) for number in [re.match("[1-9][0-9]{0,5}", text[end:])] if number]
            continue
        digest = pointer_of(match[0], workspace)
        if digest not in pointers:
            pointers.append(digest)
        parts.append(f"${pointers.index(digest) + 1}")
    if any(number <= len(pointers) for number in literal):
        raise NotationError("a text with pointers cannot also hold a sum such as $$1; write it without the dollar sign")
    return "".join([*parts, text[end:]]), tuple(pointers)


def pieces_from(text: str, workspace: Workspace) -> tuple[Piece, ...]:
    """The pieces of a new message: texts, and `$1` or `$1[0:500]` for what is cut out. Raises NotationError."""
    if not workspace.pointers:
        return (text,)
    pieces: list[Piece] = []
    words, end = "", 0
    for match in _CUT.finditer(text):
        words += text[end : match.start()]
        end = match.end()
        if match[1] is None:
            words += "$"
            continue
        stop = int(match[3]) if match[3] else None
        if words:
            pieces.append(words)
        words = ""
        pieces.append(Cut(pointer_of(f"${match[1]}", workspace), int(match[2] or 0), stop))
    return (*pieces, words + text[end:]) if words or end < len(text) else tuple(pieces)


def pieces_text(pieces: tuple[Piece, ...], workspace: Workspace) -> str:
    """The text that `pieces_from` reads as these pieces."""
    parts = []
    for place, piece in enumerate(pieces):
        if isinstance(piece, str):
            parts.append(outward(piece, (), workspace))
            continue
        number, after = workspace.number(piece.pointer), pieces[place + 1 : place + 2]
        # Written out where what follows could be read as a part of it.
        follows = bool(after) and isinstance(after[0], str) and after[0][:1] in "[0123456789"
        cut = piece.start or piece.stop is not None or follows
        parts.append(f"${number}[{piece.start}:{'' if piece.stop is None else piece.stop}]" if cut else f"${number}")
    return "".join(parts)


def pointer_of(written: str, workspace: Workspace) -> str:
    """The digest that `$1` stands for. Raises NotationError if the workspace has no such pointer."""
    match = _DOLLAR.fullmatch(written)
    number = int(match[1]) if match and match[1] else 0
    if not 1 <= number <= len(workspace.pointers):
        count = len(workspace.pointers)
        there = "there are no pointers here" if not count else f"the pointers here are $1 to ${count}"
        there = "the only pointer here is $1" if count == 1 else there
        raise NotationError(
            f"'{shortened(written)}' is not a pointer of this workspace; {there}, and $$ is a dollar sign"
        )
    return workspace.pointers[number - 1].digest


def plain(text: str) -> str:
    """A text as it may stand behind a label: further lines indented, no control characters."""
    lines = ["".join(c for c in line if unicodedata.category(c) not in ("Cc", "Cs")) for line in _lines(text)]
    return "\n  ".join(lines)


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text.replace("\t", " "))


def shortened(text: str, most_chars: int = 40) -> str:
    """The beginning of a text, on one line, to name it in a message."""
    line = " ".join(plain(text[: 10 * most_chars]).split())
    return line if len(line) <= most_chars else f"{line[:most_chars]}..."
