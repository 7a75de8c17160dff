"""Questions about a text of any length behind `$1`. H never reads it: it cuts it up by size and asks A about pieces.

A word is a run of letters, digits and underscores; a number is a word of at most 18 digits. Cuts fall at white space
(`messages.Cut`), so a word is whole in exactly one piece, unless there is no white space for `SEARCH_CHARS` characters.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from amplification.messages import Cut
from amplification.question import Question
from amplification.workspace import Action, Ask, Exchange, GiveUp, Made, Make, Reply, SubQuestion, Workspace

NOTHING = "(none)"  # which is no word, so no text can hold it as one

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"[0-9]{1,18}")

# A piece that A cannot say anything usable about is cut up further, down to this size.
NO_ANSWER = "there was no usable answer"
LEAST_CHARS = 64


class Kind(NamedTuple):
    """One kind of question: how it is asked, answered, checked for form, and combined from its pieces' answers."""

    pattern: re.Pattern[str]
    truth: Callable[[str, str], str]  # of a word ("" where none is asked about) and a text
    valid: Callable[[str, int, str], bool]  # of an answer, the text's size and the word
    combined: Callable[[Sequence[str], Sequence[int]], str]  # of the pieces' answers and sizes, in order


def _count(word: str, text: str) -> str:
    return str(_WORD.findall(text).count(word))


def _first(word: str, text: str) -> str:
    return next((str(match.start()) for match in _WORD.finditer(text) if match[0] == word), NOTHING)


def _largest(word: str, text: str) -> str:
    numbers = [int(found) for found in _WORD.findall(text) if _NUMBER.fullmatch(found)]
    return str(max(numbers)) if numbers else NOTHING


def _longest(word: str, text: str) -> str:
    return max(_WORD.findall(text), key=len, default=NOTHING)  # of equals the first


def _first_of(answers: Sequence[str], sizes: Sequence[int]) -> str:
    before = 0
    for answer, size in zip(answers, sizes, strict=True):
        if answer != NOTHING:
            return str(before + int(answer))
        before += size
    return NOTHING


def _fits(answer: str, most: int) -> bool:
    return _NUMBER.fullmatch(answer) is not None and int(answer) <= most


KINDS = (
    Kind(
        re.compile(r"how often does (?P<word>\w+) occur in \$1"),
        _count,
        lambda answer, size, word: _fits(answer, (size + 1) // (len(word) + 1)),
        lambda answers, _: str(sum(map(int, answers))),
    ),
    Kind(
        re.compile(r"at which character does (?P<word>\w+) first occur in \$1"),
        _first,
        lambda answer, size, word: answer == NOTHING or _fits(answer, size - len(word)),
        _first_of,
    ),
    Kind(
        re.compile(r"which number in \$1 is the largest"),
        _largest,
        lambda answer, *_: answer == NOTHING or _NUMBER.fullmatch(answer) is not None,
        lambda answers, _: str(max((int(a) for a in answers if a != NOTHING), default=NOTHING)),
    ),
    Kind(
        re.compile(r"which word in \$1 is the longest"),
        _longest,
        lambda answer, size, _: answer == NOTHING or (_WORD.fullmatch(answer) is not None and len(answer) <= size),
        lambda answers, _: max((a for a in answers if a != NOTHING), key=len, default=NOTHING),
    ),
)


class Parsed(NamedTuple):
    kind: Kind
    word: str


class LongText:
    """`how often does apple occur in $1` -> `17`. `at which character does apple first occur in $1` counts from 0 over
    the whole text. `which number in $1 is the largest`, `which word in $1 is the longest`: `(none)` if there is none.
    """

    name = "long_text"

    def __init__(self, piece_chars: int = 1_000, pieces: int = 8) -> None:
        """A is asked about at most `piece_chars` characters; a longer text is cut into at most `pieces` at a time."""
        self.piece_chars, self.pieces = piece_chars, pieces

    def understands(self, question: Question) -> bool:
        """Whether it is a question of this task, with the text that it is about."""
        return len(question.pointers) == 1 and _parse(question.text) is not None

    def truth(self, question: str, text: str) -> str:
        """The right answer, for scoring alone. Raises ValueError on a question that is not of this task."""
        parsed = _parse(question)
        if parsed is None:
            raise ValueError(f"not a question of the {self.name} task: {question[:80]!r}")
        return parsed.kind.truth(parsed.word, text)

    def act(self, workspace: Workspace) -> Action:
        """The program overseer's next step; it goes by the sizes that the workspace shows."""
        parsed = _parse(workspace.question.text)
        if parsed is None or not workspace.question.pointers:
            return GiveUp(f"not a question of the {self.name} task")
        made = next((event for event in workspace.events if isinstance(event, Made)), None)
        if made is not None:
            return self._combine(parsed, workspace, made)
        size = workspace.pointers[0].size
        if size <= self.piece_chars:
            if not workspace.events:
                return Ask((SubQuestion(workspace.question),))
            answer = workspace.exchanges[-1].answer
            if answer.ok and parsed.kind.valid(answer.text, size, parsed.word):
                return Reply(answer.text)
            if size <= LEAST_CHARS:
                return GiveUp(f"{NO_ANSWER} about a piece of {size} characters: {answer.shown()[:80]}")
        return self._cut(workspace.pointers[0].digest, size)

    def _cut(self, pointer: str, size: int) -> Make:
        number = max(2, min(self.pieces, -(-size // self.piece_chars)))
        bounds = [size * n // number for n in range(number)] + [size]
        return Make(tuple((Cut(pointer, bounds[n], bounds[n + 1]),) for n in range(number)))

    def _combine(self, parsed: Parsed, workspace: Workspace, made: Made) -> Action:
        sizes = dict(workspace.pointers)
        pieces = [pointer for pointer in made.pointers if sizes[pointer]]  # a long word can leave a piece empty
        if len(pieces) == 1:
            return GiveUp("the text has no place to cut it")
        last = {exchange.question.pointers[0]: exchange for exchange in workspace.exchanges[self._before(workspace) :]}
        if not last:
            return Ask(tuple(self._sub(workspace, pointer, sizes[pointer] > self.piece_chars) for pointer in pieces))
        bad = [p for p in dict.fromkeys(pieces) if not self._usable(parsed, last[p], sizes[p])]
        if bad and len(workspace.exchanges) == self._before(workspace) + len(pieces):
            again = [pointer for pointer in bad if LEAST_CHARS < sizes[pointer] <= self.piece_chars]
            if len(again) == len(bad):
                return Ask(tuple(self._sub(workspace, pointer, True) for pointer in again))
        if bad:
            answer = last[bad[0]].answer
            if (answer.failure or "").startswith(NO_ANSWER):  # from below: passed on as it is
                return GiveUp(answer.failure or "")
            return GiveUp(f"{NO_ANSWER} about a piece of {sizes[bad[0]]} characters: {answer.shown()[:80]}")
        answers = [last[pointer].answer.text for pointer in pieces]
        return Reply(parsed.kind.combined(answers, [sizes[pointer] for pointer in pieces]))

    @staticmethod
    def _before(workspace: Workspace) -> int:
        """How many answers there were before the text was cut up."""
        return int(bool(workspace.events) and isinstance(workspace.events[0], Exchange))

    @staticmethod
    def _usable(parsed: Parsed, exchange: Exchange, size: int) -> bool:
        return exchange.answer.ok and parsed.kind.valid(exchange.answer.text, size, parsed.word)

    @staticmethod
    def _sub(workspace: Workspace, pointer: str, recurse: bool) -> SubQuestion:
        return SubQuestion(Question(workspace.question.text, (pointer,)), recurse)


def _parse(question: str) -> Parsed | None:
    spaced = " ".join(question.split())
    for kind in KINDS:
        if match := kind.pattern.fullmatch(spaced):
            return Parsed(kind, match.groupdict().get("word", ""))
    return None


def answer_in_place(prompt: str) -> str:
    """The right answer to one of these questions with its text written out in place of `$1`: what A is asked.

    Raises ValueError for anything else. With `ProgramSampler` this is an A that makes no mistakes.
    """
    for kind in KINDS:
        before, after = kind.pattern.pattern.split(r"\$1")
        match = re.fullmatch(f"{before}(?P<text>.*){after}", prompt, re.DOTALL)
        if match:
            return kind.truth(match.groupdict().get("word", ""), match["text"])
    raise ValueError("not a question about a text")


def made_up(characters: int, seed: int, words: Sequence[str] = ("apple", "pear", "quince")) -> str:
    """A text of exactly so many characters: made-up words, `words` and numbers, in lines of a dozen or so."""
    rng = random.Random(f"long text {seed}")
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    parts: list[str] = []
    length = 0
    while length < characters:
        draw = rng.random()
        if draw < 0.02:
            word = rng.choice(words)
        elif draw < 0.07:
            word = str(rng.randrange(10 ** rng.randint(1, 9)))
        else:
            word = "".join(rng.choices(syllables, k=rng.randint(1, 4)))
        parts.append(word + rng.choice("\n           "))
        length += len(parts[-1])
    return "".join(parts)[:characters]
