"""References: `$1` for an attachment and `$a1` for an earlier answer, in a question as a person types it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from amplification.asking.session import Attachment, Turn
from amplification.errors import InputError
from amplification.question import Question
from amplification.terminal import printable

MAX_QUESTION_CHARS = 2_000

REFERENCE = re.compile(r"\$(a?[1-9][0-9]{0,5})\b")


class References:
    """What can be pointed to in a session."""

    def __init__(self, attachments: Sequence[Attachment] = (), turns: Sequence[Turn] = ()) -> None:
        self._known = {str(attachment.number): attachment.digest for attachment in attachments}
        self._known |= {f"a{turn.number}": turn.answer for turn in turns if turn.answer is not None}
        self._names = {attachment.digest: attachment.file for attachment in attachments}
        self._names |= {turn.answer: f"answer a{turn.number}" for turn in turns if turn.answer is not None}

    def question(self, typed: str) -> Question:
        """The question that was typed, its references as pointers. `$5` stays a price where nothing has that number.

        Raises InputError for an empty or overlong question, and a reference that cannot be what was meant.
        """
        text = printable(typed)
        if not text:
            raise InputError("the question", "it is empty", "ask something, for example 'sum of 3 7'")
        if len(text) > MAX_QUESTION_CHARS:
            problem = f"it has {len(text)} characters, and may have {MAX_QUESTION_CHARS}"
            raise InputError("the question", problem, "shorten it, or attach its long part as a file in a session")
        pointers: list[str] = []
        unknown: list[str] = []

        def pointed(match: re.Match[str]) -> str:
            digest = self._known.get(match[1])
            if digest is None:
                unknown.append(match[1])
                return match[0]
            if digest not in pointers:
                pointers.append(digest)
            return f"${pointers.index(digest) + 1}"

        written = REFERENCE.sub(pointed, text)
        for name in unknown:
            if name.startswith("a"):
                raise InputError(f"${name}", "there is no such answer", "/list shows the answers there are")
            if int(name) <= len(pointers):
                raise InputError(f"${name}", "nothing is attached under this number", "/list shows what is attached")
        return Question(written, tuple(pointers))

    def name(self, pointer: str) -> str:
        """What a person calls the message that a pointer stands for; "" if it has no name."""
        return self._names.get(pointer, "")
