"""Permutation powering: where k steps of a permutation of 0..3 lead, the permutation given as facts. Level = k."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import NamedTuple

from amplification.tasks.halves import answers_or_next, not_mine
from amplification.workspace import Action, GiveUp, Reply, Workspace

POINTS = range(4)
_FACT = re.compile(r"([0-3])>([0-3])")
_PHRASINGS = ("apply {facts} to {start} for {steps} steps", "given {facts} take {steps} steps from {start}")
_SLOT = {
    "facts": r"(?P<facts>[0-3]>[0-3](?: [0-3]>[0-3]){3})",
    "start": r"(?P<start>[0-3])",
    "steps": "(?P<steps>[1-9][0-9]{0,3})",
}
_PATTERNS = tuple(re.compile(phrasing.format(**_SLOT)) for phrasing in _PHRASINGS)


class Parsed(NamedTuple):
    phrasing: str
    facts: str
    image: Mapping[int, int]
    start: int
    steps: int

    def reworded(self, start: int, steps: int) -> str:
        """The same facts, from another point and for another number of steps."""
        return self.phrasing.format(facts=self.facts, start=start, steps=steps)


class Permutation:
    """`apply 0>2 1>0 2>3 3>1 to 1 for 4 steps` -> `1`. Facts stand in any order; four of them, a bijection."""

    name = "permutation"
    levels: tuple[int, ...] = (1, 2, 4, 8)

    def sample(self, level: int, rng: random.Random) -> str:
        facts = [f"{a}>{b}" for a, b in zip(POINTS, rng.sample(POINTS, len(POINTS)), strict=True)]
        rng.shuffle(facts)
        return rng.choice(_PHRASINGS).format(facts=" ".join(facts), start=rng.choice(POINTS), steps=level)

    def level_of(self, text: str) -> int | None:
        parsed = self._parse(text)
        return parsed.steps if parsed else None

    def split_key(self, text: str) -> str:
        parsed = self._read(text)
        # The order of the facts belongs to the problem: without it there would be 96 problems a level, too few.
        return f"{parsed.facts} from {parsed.start} by {parsed.steps}"

    def valid_answers(self, text: str) -> tuple[str, ...]:
        self._read(text)
        return tuple(map(str, POINTS))

    def act(self, workspace: Workspace) -> Action:
        parsed = self._parse(workspace.question.text)
        if parsed is None:
            return GiveUp(f"not a question of the {self.name} task")
        if parsed.steps == 1:
            return Reply(str(parsed.image[parsed.start]))
        first = (parsed.steps + 1) // 2
        halfway = answers_or_next(self, workspace, [parsed.reworded(parsed.start, first)], parsed.steps)
        if not isinstance(halfway, list):
            return halfway
        rest = parsed.reworded(int(halfway[0]), parsed.steps - first)
        end = answers_or_next(self, workspace, [rest], parsed.steps)
        return Reply(end[0]) if isinstance(end, list) else end

    def truth(self, text: str) -> str:
        parsed = self._read(text)
        point = parsed.start
        for _ in range(parsed.steps):
            point = parsed.image[point]
        return str(point)

    def words(self) -> tuple[str, ...]:
        fixed = " ".join(_PHRASINGS).format(facts="", start="", steps="").split()
        facts = [f"{a}>{b}" for a in POINTS for b in POINTS]
        return tuple(dict.fromkeys([*fixed, *facts, *map(str, range(self.levels[-1] + 1))]))

    def _parse(self, text: str) -> Parsed | None:
        spaced = " ".join(text.split())
        for phrasing, pattern in zip(_PHRASINGS, _PATTERNS, strict=True):
            if match := pattern.fullmatch(spaced):
                image = {int(a): int(b) for a, b in _FACT.findall(match["facts"])}
                # Four facts with four distinct sources and four distinct targets: complete and consistent.
                if len(image) == len(set(image.values())) == len(POINTS):
                    return Parsed(phrasing, match["facts"], image, int(match["start"]), int(match["steps"]))
        return None

    def _read(self, text: str) -> Parsed:
        parsed = self._parse(text)
        if parsed is None:
            raise not_mine(self, text)
        return parsed
