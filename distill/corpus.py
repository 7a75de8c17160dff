"""The corpus adversary: tries the questions of a file, in an order drawn by the seed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from amplification.asking.files import text_of
from amplification.errors import InputError
from amplification.tasks.base import Task
from distill.candidate import Candidate, admitted, cleaned, nearest
from distill.search import Past

JSON_LINES = ".jsonl"
KEYS = ("question", "family")


class Line(NamedTuple):
    """A question of the file, and the family that it says it is of."""

    question: str
    family: str = ""


def read_corpus(path: Path) -> list[Line]:
    """The questions of a file: one a line or, in a file named *.jsonl, an object a line with `question` and, if it has
    one, `family`. Empty lines are passed over. Raises InputError for anything else."""
    lines = text_of(path).split("\n")
    read = _json_line if path.suffix == JSON_LINES else _plain_line
    return [read(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def _plain_line(where: str, line: str) -> Line:
    return Line(line)


def _json_line(where: str, line: str) -> Line:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(where, f"this is not JSON ({error})", "give one object a line") from None
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise InputError(where, "this is no object with a text 'question'", "give one object a line")
    if unknown := [key for key in row if key not in KEYS]:
        raise InputError(where, f"there is no key '{unknown[0]}'", f"the keys are {' and '.join(KEYS)}")
    if not isinstance(row.get("family", ""), str):
        raise InputError(where, "'family' is no text", "name it, or leave it out")
    return Line(row["question"], row.get("family", ""))


class CorpusAdversary:
    """Each question of the file once; those that may not be asked (held out, too long, too large) are left out."""

    name = "corpus"

    def __init__(self, path: Path, tasks: Mapping[str, Task], up_to: int) -> None:
        """Raises InputError if the file cannot be read or none of its questions may be asked."""
        lines = read_corpus(path)
        self.candidates = list(
            dict.fromkeys(made for line in lines if (made := _candidate(line, tasks, up_to)) is not None)
        )
        self.left_out = len(lines) - len(self.candidates)
        if not self.candidates:
            problem = f"none of its {len(lines)} questions may be asked: they are held out, too long or too large"
            raise InputError(path, problem, "add others, or leave 'corpus' out of 'distill.adversary.kinds'")

    def propose(self, count: int, past: Past, rng: random.Random) -> list[Candidate]:
        """Questions that nobody has proposed yet, drawn at random."""
        waiting = [candidate for candidate in self.candidates if candidate.text not in past.seen]
        drawn = rng.sample(waiting, min(count, len(waiting)))
        return [candidate for candidate in drawn if past.is_new(candidate.text)]

    def metrics(self) -> dict[str, Any]:
        """How many of the file's questions may be asked, and how many others (or repeated ones) there are."""
        return {"questions": len(self.candidates), "left_out": self.left_out}


def _candidate(line: Line, tasks: Mapping[str, Task], up_to: int) -> Candidate | None:
    text = cleaned(line.question)
    if text is None:
        return None
    made_by = f"{CorpusAdversary.name}:{line.family}" if line.family else CorpusAdversary.name
    return admitted(Candidate(text, nearest(tasks, text), made_by), tasks, up_to)
