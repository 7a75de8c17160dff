"""Summing: the sum of the listed digits, as one number. Level = how many digits are listed."""

from __future__ import annotations

import random
import re

from amplification.tasks.base import FACT
from amplification.tasks.halves import DIGITS, answers_or_next, digits, not_mine
from amplification.workspace import Action, GiveUp, Reply, Workspace

# What stands before the digits; nothing stands after them.
PHRASINGS = ("sum of", "add up", "total of", "add together", "what is the sum of")
_PATTERN = re.compile(rf"(?P<phrasing>{'|'.join(PHRASINGS)}) {DIGITS}")


class Summing:
    """`sum of 3 7 2 8` -> `20`."""

    name = "summing"
    levels: tuple[int, ...] = (1, 2, 4, 8)

    def sample(self, level: int, rng: random.Random) -> str:
        return " ".join([rng.choice(PHRASINGS), *(str(rng.randrange(10)) for _ in range(level))])

    def level_of(self, text: str) -> int | None:
        parsed = self._parse(text)
        return len(parsed[1]) if parsed else None

    def split_key(self, text: str) -> str:
        numbers = self._read(text)[1]
        if len(numbers) == 1:
            return FACT
        # At level 2 there are 100 facts, all needed: what is held out there is a wording of a fact.
        return str(numbers) if len(numbers) > 2 else " ".join(text.split())

    def valid_answers(self, text: str) -> tuple[str, ...]:
        return tuple(str(n) for n in range(9 * len(self._read(text)[1]) + 1))

    def act(self, workspace: Workspace) -> Action:
        parsed = self._parse(workspace.question.text)
        if parsed is None:
            return GiveUp(f"not a question of the {self.name} task")
        phrasing, numbers = parsed
        if len(numbers) == 1:
            return Reply(str(numbers[0]))
        middle = (len(numbers) + 1) // 2
        halves = [" ".join([phrasing, *map(str, part)]) for part in (numbers[:middle], numbers[middle:])]
        answers = answers_or_next(self, workspace, halves, len(numbers))
        return Reply(str(sum(map(int, answers)))) if isinstance(answers, list) else answers

    def truth(self, text: str) -> str:
        return str(sum(self._read(text)[1]))

    def words(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*" ".join(PHRASINGS).split(), *map(str, range(9 * self.levels[-1] + 1))]))

    def _parse(self, text: str) -> tuple[str, tuple[int, ...]] | None:
        match = _PATTERN.fullmatch(" ".join(text.split()))
        return (match["phrasing"], digits(match)) if match else None

    def _read(self, text: str) -> tuple[str, tuple[int, ...]]:
        parsed = self._parse(text)
        if parsed is None:
            raise not_mine(self, text)
        return parsed
