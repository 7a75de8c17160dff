"""Counting: how many of the listed digits have a property. Level = how many digits are listed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from amplification.tasks.base import FACT
from amplification.tasks.halves import DIGITS, answers_or_next, digits, not_mine
from amplification.workspace import Action, GiveUp, Reply, Workspace

PROPERTIES: dict[str, Callable[[int], bool]] = {
    "even": lambda number: number % 2 == 0,
    "odd": lambda number: number % 2 == 1,
    "small": lambda number: number < 5,
    "large": lambda number: number >= 5,
}

PHRASINGS = (
    "how many of {digits} are {prop}",
    "count the {prop} numbers in {digits}",
    "number of {prop} digits among {digits}",
    "of {digits} how many are {prop}",
    "tell how many {prop} digits are in {digits}",
)
_PATTERNS = tuple(re.compile(p.format(digits=DIGITS, prop=f"(?P<prop>{'|'.join(PROPERTIES)})")) for p in PHRASINGS)


class Parsed(NamedTuple):
    phrasing: str
    prop: str
    numbers: tuple[int, ...]

    def reworded(self, numbers: tuple[int, ...]) -> str:
        """The same question about other digits."""
        return self.phrasing.format(prop=self.prop, digits=" ".join(map(str, numbers)))


class Counting:
    """`how many of 3 7 2 8 are even` -> `2`. Properties: even, odd, small (below 5), large (5 and above)."""

    name = "counting"
    levels: tuple[int, ...] = (1, 2, 4, 8)

    def sample(self, level: int, rng: random.Random) -> str:
        numbers = tuple(rng.randrange(10) for _ in range(level))
        return Parsed(rng.choice(PHRASINGS), rng.choice(list(PROPERTIES)), numbers).reworded(numbers)

    def level_of(self, text: str) -> int | None:
        parsed = self._parse(text)
        return len(parsed.numbers) if parsed else None

    def split_key(self, text: str) -> str:
        parsed = self._read(text)
        return f"{parsed.prop} {parsed.numbers}" if len(parsed.numbers) > 1 else FACT

    def valid_answers(self, text: str) -> tuple[str, ...]:
        return tuple(str(n) for n in range(len(self._read(text).numbers) + 1))

    def act(self, workspace: Workspace) -> Action:
        parsed = self._parse(workspace.question.text)
        if parsed is None:
            return GiveUp(f"not a question of the {self.name} task")
        numbers = parsed.numbers
        if len(numbers) == 1:
            return Reply(str(int(PROPERTIES[parsed.prop](numbers[0]))))
        middle = (len(numbers) + 1) // 2
        halves = [parsed.reworded(numbers[:middle]), parsed.reworded(numbers[middle:])]
        answers = answers_or_next(self, workspace, halves, len(numbers))
        return Reply(str(sum(map(int, answers)))) if isinstance(answers, list) else answers

    def truth(self, text: str) -> str:
        parsed = self._read(text)
        return str(sum(PROPERTIES[parsed.prop](number) for number in parsed.numbers))

    def words(self) -> tuple[str, ...]:
        fixed = " ".join(PHRASINGS).format(digits="", prop="").split()
        return tuple(dict.fromkeys([*fixed, *PROPERTIES, *map(str, range(10))]))

    def wordings(self, text: str) -> tuple[str, ...]:
        """The same question in every wording there is. Raises ValueError on a question that is not of this task."""
        parsed = self._read(text)
        return tuple(parsed._replace(phrasing=phrasing).reworded(parsed.numbers) for phrasing in PHRASINGS)

    def _parse(self, text: str) -> Parsed | None:
        spaced = " ".join(text.split())
        for phrasing, pattern in zip(PHRASINGS, _PATTERNS, strict=True):
            if match := pattern.fullmatch(spaced):
                return Parsed(phrasing, match["prop"], digits(match))
        return None

    def _read(self, text: str) -> Parsed:
        parsed = self._parse(text)
        if parsed is None:
            raise not_mine(self, text)
        return parsed
