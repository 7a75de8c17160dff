"""Labels in rounds: H^A is asked a random first part, and what it said chooses the next questions.

What measures must be a fair sample: the held-out labels are all of the first round, drawn at random. What was chosen
and what was answered are files, written before and after H^A is asked, so that a stage that was killed goes on with
the same questions and asks nothing twice.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from amplification.episode import Cost
from amplification.tasks.base import Task
from distill.config import LabelsConfig
from distill.curriculum import Chosen
from distill.imitation import lesson_of
from distill.judgement import Answers
from distill.labels import Labeller, label_counts, label_rows, parts_of, write_labels
from distill.progress import Progress
from distill.selection import pick
from distill.stage import write_atomically

Row = dict[str, Any]


class Valuer(Protocol):
    """What says which questions are worth asking: `Learners`."""

    def values(
        self, number: int, rows: Sequence[Mapping[str, Any]], questions: Sequence[str]
    ) -> tuple[list[float], list[dict[str, Any]]]:
        """Values of `questions`, not below 0, given the labels `rows` of the rounds before `number`, and their cost."""
        ...


class AtRandom:
    """A valuer to which all questions are worth the same."""

    def values(
        self, number: int, rows: Sequence[Mapping[str, Any]], questions: Sequence[str]
    ) -> tuple[list[float], list[dict[str, Any]]]:
        """Learns nothing, at no cost."""
        return [1.0] * len(questions), []


class Rounds:
    """The rounds of one labels stage. `pool`: distinct candidates, of which `count` are asked. `state`: their files."""

    def __init__(
        self, tasks: Mapping[str, Task], pool: Sequence[Chosen], count: int, settings: LabelsConfig, state: Path
    ) -> None:
        self.pool, self.state, self.rounds = pool, state, settings.selection.rounds
        self.parts = parts_of(tasks, pool, settings.heldout)
        self.groups = [lesson_of(asdict(choice)) for choice in pool]
        heldout, count = self.parts.count("heldout"), min(count, len(pool))
        self.measuring = round(count * heldout / max(1, len(pool)))
        self.teaching = count - self.measuring
        self.asked: list[int] = []
        self.rows: list[Row] = []
        self.cost = Cost()
        self.learning: list[dict[str, Any]] = []
        state.mkdir(parents=True, exist_ok=True)

    def choose(self, number: int, valuer: Valuer, seed: int) -> list[int]:
        """Places of the round's questions in the pool."""
        file = self.state / f"chosen-{number}.json"
        if not file.exists():
            chosen = self._chosen(number, valuer, random.Random(f"{seed}/round/{number}"))
            write_atomically(file, json.dumps(chosen))
        record = json.loads(file.read_text(encoding="utf-8"))
        self.learning += record["learning"]
        return [int(place) for place in record["places"]]

    def _chosen(self, number: int, valuer: Valuer, rng: random.Random) -> dict[str, Any]:
        count = self.teaching * (number + 1) // self.rounds - self.teaching * number // self.rounds
        known = set(self.asked)
        left = [place for place, part in enumerate(self.parts) if part == "train" and place not in known]
        if number == 0:
            measuring = [place for place, part in enumerate(self.parts) if part == "heldout"]
            places = [*rng.sample(measuring, self.measuring), *rng.sample(left, min(count, len(left)))]
            return {"places": places, "learning": []}
        questions = [self.pool[place].question for place in left]
        values, learning = valuer.values(number, self.rows, questions) if left else ([], [])
        picked = pick(values, [self.groups[place] for place in left], count, rng)
        return {"places": [left[at] for at in picked], "learning": learning}

    def ask(self, number: int, places: Sequence[int], judge: Labeller, progress: Progress) -> None:
        """H^A's answers to the round's questions become rows."""
        file, before, total = self.state / f"asked-{number}.json", len(self.asked), self.teaching + self.measuring
        chosen = [self.pool[place] for place in places]
        if not file.exists():
            questions = [choice.question for choice in chosen]
            answered: Answers = judge.answer(questions, lambda done, _: progress(before + done, total))
            write_atomically(file, json.dumps({"answers": answered.answers, "cost": asdict(answered.cost)}))
        record = json.loads(file.read_text(encoding="utf-8"))
        self.rows += label_rows(chosen, record["answers"], [self.parts[place] for place in places])
        self.cost.add(Cost(**record["cost"]))
        self.asked += places

    def chosen_by_group(self) -> dict[str, int]:
        """How many questions of each group were asked in all rounds but the first, which is random."""
        first = self.measuring + self.teaching // self.rounds
        return dict(Counter(self.groups[place] for place in self.asked[first:]))


def select_labels(
    judge: Labeller,
    tasks: Mapping[str, Task],
    pool: Sequence[Chosen],
    count: int,
    valuer: Valuer,
    settings: LabelsConfig,
    out: Path,
    state: Path,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Ask H^A about `count` of the pool's questions and write `labels.parquet` as `make_labels` does.

    Its metrics, and `selection`: what was asked of each group in all rounds after the first, and the cost of choosing.
    """
    rounds = Rounds(tasks, pool, count, settings, state)
    for number in range(rounds.rounds):
        rounds.ask(number, rounds.choose(number, valuer, seed), judge, progress)
    write_labels(rounds.rows, count, out)
    told = {
        "by": settings.selection.by,
        "candidates": len(pool),
        "chosen": rounds.chosen_by_group(),
        "learning": rounds.learning,
    }
    return {**label_counts(rounds.rows, len(rounds.asked), rounds.cost), "selection": told}
