"""What an adversary found: failures that H^A confirmed, an archive that keeps them diverse, and their file."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from distill.candidate import Candidate

FOUND_FILE = "found.parquet"

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class Found:
    """A failure that H^A confirmed. `answer` is H^A's; `fooled`: the reward model preferred the agent's answer.

    `family`: what made the question; `source`: the adversary that proposed it.
    """

    question: str
    answer: str
    agent_answer: str
    family: str
    task: str
    kind: str
    fooled: bool
    promise: float
    source: str = "mutation"

    @property
    def cell(self) -> tuple[str, str, str]:
        return self.family, self.task, self.kind


class Archive:
    """Failures by cell (what made it, task, kind of failure); a full cell keeps its most promising ones."""

    def __init__(self, cap: int) -> None:
        self.cap, self.cells = cap, dict[tuple[str, str, str], list[Found]]()

    def add(self, found: Found) -> None:
        cell = self.cells.setdefault(found.cell, [])
        cell.append(found)
        cell.sort(key=lambda kept: (-kept.promise, kept.question))
        del cell[self.cap :]

    def all(self) -> list[Found]:
        return in_turn(self.cells)

    def draw(self, rng: random.Random) -> Candidate | None:
        """A parent from a cell drawn at random, so that a crowded cell is no likelier than another."""
        if not self.cells:
            return None
        found = rng.choice(rng.choice(list(self.cells.values())))
        return Candidate(found.question, found.task, found.family)


def in_turn(cells: Mapping[K, Sequence[V]]) -> list[V]:
    """Everything in the cells: the first of each, then the second of each, and so on."""
    longest = max(map(len, cells.values()), default=0)
    return [cell[place] for place in range(longest) for cell in cells.values() if place < len(cell)]


def capped(found: Iterable[Found], others: int, share: float) -> list[Found]:
    """The most that can be mixed with `others` other rows while being at most `share` of the whole; cells in turn."""
    most = int(others * share / (1.0 - share) + 1e-9) if share < 1.0 else None
    cells: dict[tuple[str, str, str], list[Found]] = {}
    for each in found:
        cells.setdefault(each.cell, []).append(each)
    return in_turn(cells)[:most]


def write_found(found: Sequence[Found], path: Path) -> None:
    """One Parquet row a failure, with the fields of `Found` as columns; the columns are there without rows, too."""
    from datasets import Dataset, Features, Value

    kinds = {"fooled": "bool", "promise": "float64"}
    names = list(Found.__dataclass_fields__)
    features = Features({name: Value(kinds.get(name, "string")) for name in names})
    rows = [asdict(each) for each in found]
    Dataset.from_dict({name: [row[name] for row in rows] for name in names}, features=features).to_parquet(str(path))


def read_found(path: Path) -> list[Found]:
    """The failures in a file that `write_found` wrote."""
    from pyarrow.parquet import read_table

    return [Found(**row) for row in read_table(path).to_pylist()]


def questions_of(found: Sequence[Found]) -> list[str]:
    """Their questions, last those that come first: whoever wants fewer takes the end, where the newest are, and should
    get some of each cell of those."""
    return [each.question for each in reversed(found)]
