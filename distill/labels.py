"""Labels: the chosen few questions that H^A is asked, with its answers. Nothing else ever teaches the agent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from amplification.episode import Cost
from amplification.errors import InputError
from amplification.question import digest
from amplification.tasks.base import FACT, Task
from distill.config import LabelsConfig
from distill.curriculum import Chosen
from distill.judgement import Answers
from distill.progress import Progress

LABELS_FILE = "labels.parquet"


class Labeller(Protocol):
    """H^A asked for labels: a `Judge`, or several of them behind one."""

    def answer(self, texts: Sequence[str], progress: Progress | None = None) -> Answers:
        """Its answers in order, and what they cost."""
        ...


def make_labels(
    judge: Labeller,
    tasks: Mapping[str, Task],
    chosen: Iterable[Chosen],
    settings: LabelsConfig,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Ask H^A all chosen questions and write `labels.parquet`.

    Columns: question, answer (H^A's), task, level, source, part ("heldout" for the share that measures the reward
    model, else "train"; a fact is held out only where there is nothing else). Questions to which H^A came to no
    answer are left out and counted. Raises InputError if that is all of them.
    """
    chosen = list(chosen)
    answered = judge.answer([choice.question for choice in chosen], progress)
    rows = label_rows(chosen, answered.answers, parts_of(tasks, chosen, settings.heldout))
    write_labels(rows, len(chosen), out)
    return label_counts(rows, len(chosen), answered.cost)


def label_rows(chosen: Sequence[Chosen], answers: Sequence[str | None], parts: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each question that H^A answered."""
    return [
        {**asdict(choice), "answer": answer, "part": part}
        for choice, answer, part in zip(chosen, answers, parts, strict=True)
        if answer is not None
    ]


def label_counts(rows: Sequence[Mapping[str, Any]], asked: int, cost: Cost) -> dict[str, Any]:
    """What the stage tells of its labels."""
    return {
        "labels": len(rows),
        "unanswered": asked - len(rows),
        "attacks": sum(row["source"] != "task" for row in rows),
        "cost": asdict(cost),
    }


def write_labels(rows: Sequence[Mapping[str, Any]], asked: int, out: Path) -> None:
    """Write `labels.parquet`. Raises InputError if there is no answer to any of the `asked` questions."""
    from datasets import Dataset

    if not rows:
        problem = f"H^A came to no answer to any of the {asked} questions"
        remedy = "'amplify episodes --run' with this run shows why; give it more ('limits') or another 'overseer'"
        raise InputError("labels", problem, remedy)
    Dataset.from_list([dict(row) for row in rows]).to_parquet(out / LABELS_FILE)


def read_labels(folder: Path) -> list[dict[str, Any]]:
    """The rows that `make_labels` wrote."""
    from datasets import Dataset

    # keep_in_memory: no copy of the table in a cache outside the run folder
    return list(Dataset.from_parquet(str(folder / LABELS_FILE), keep_in_memory=True))


def newest_labels(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """The labels of several folders, oldest first; of a question that was asked again, the newest answer.

    How often that was another answer than before, `contradicted` says.
    """
    return list({str(row["question"]): row for folder in folders for row in read_labels(folder)}.values())


def contradicted(folders: Iterable[Path]) -> int:
    """How many questions the labels of these folders give more than one answer to, between folders or within one."""
    said: dict[str, set[str]] = {}
    for row in (row for folder in folders for row in read_labels(folder)):
        said.setdefault(str(row["question"]), set()).add(str(row["answer"]))
    return sum(len(answers) > 1 for answers in said.values())


def parts_of(tasks: Mapping[str, Task], chosen: Sequence[Chosen], heldout: float) -> list[str]:
    """The part of each question's label: a share `heldout` is held out, of the facts only where there is nothing else.

    Every later level rests on the facts: one that the agent is not taught is wrong in every label built upon it.
    """
    facts = [_is_fact(tasks, choice) for choice in chosen]
    shares = [0.0 if fact and not all(facts) else heldout for fact in facts]
    return [part_of(choice.question, share) for choice, share in zip(chosen, shares, strict=True)]


def _is_fact(tasks: Mapping[str, Task], choice: Chosen) -> bool:
    return choice.task in tasks and tasks[choice.task].split_key(choice.question) == FACT


def part_of(question: str, share: float) -> str:
    """The part of a label, a function of its question alone: `share` of all are held out."""
    return "heldout" if int(digest("part", question)[:8], 16) < share * 2**32 else "train"
