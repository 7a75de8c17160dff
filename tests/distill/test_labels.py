"""Which labels are held out from training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from amplification.episode import Cost
from amplification.errors import InputError
from amplification.tasks import task
from amplification.tasks.base import NONSENSE, questions
from distill.config import LabelsConfig
from distill.curriculum import Chosen
from distill.judgement import Answers
from distill.labels import contradicted, make_labels, newest_labels, read_labels, write_labels
from tests.distill.training import TASKS, silent

HALF = LabelsConfig(heldout=0.5)


class Scripted:
    """A judge that knows the truth, and gives no answer to the questions it was told not to."""

    def __init__(self, unanswered: Sequence[str] = ()) -> None:
        self.unanswered = unanswered

    def answer(self, texts: Sequence[str], progress: Any = None) -> Answers:
        said = [None if text in self.unanswered else TASKS["summing"].truth(text) for text in texts]
        return Answers(tuple(said), Cost())


def chosen(level: int, count: int) -> list[Chosen]:
    texts = islice(questions(task("summing"), level, "train", 0), count)
    return [Chosen(text, "summing", level, "task") for text in texts]


def held_out(rows: Sequence[dict[str, Any]], level: int) -> int:
    return sum(row["part"] == "heldout" for row in rows if row["level"] == level)


def labels(judge: Any, asked: Sequence[Chosen], out: Path) -> list[dict[str, Any]]:
    make_labels(judge, TASKS, asked, HALF, out, silent)
    return read_labels(out)


def test_facts_are_taught_and_other_labels_are_held_out_in_part(tmp_path: Path) -> None:
    rows = labels(Scripted(), [*chosen(1, 40), *chosen(2, 40)], tmp_path)
    assert len(rows) == 80
    assert held_out(rows, 1) == 0
    assert 0 < held_out(rows, 2) < 40


def test_facts_are_held_out_where_there_is_nothing_else(tmp_path: Path) -> None:
    assert 0 < held_out(labels(Scripted(), chosen(1, 40), tmp_path), 1) < 40


def test_no_answer_at_all_is_told(tmp_path: Path) -> None:
    asked = chosen(2, 3)
    with pytest.raises(InputError, match="no answer to any of the 3 questions"):
        labels(Scripted([each.question for each in asked]), asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_unanswered_questions_have_no_label(tmp_path: Path) -> None:
    asked = chosen(2, 3)
    rows = labels(Scripted([asked[1].question]), asked, tmp_path)
    assert [row["question"] for row in rows] == [asked[0].question, asked[2].question]
    assert NONSENSE not in {row["answer"] for row in rows}


def test_answers_that_changed_are_counted_and_the_newest_stays(tmp_path: Path) -> None:
    said = [[("a", "1"), ("b", "2"), ("c", "3")], [("a", "1"), ("b", "9")], [("b", "2"), ("d", "4"), ("d", "5")]]
    folders = [tmp_path / str(place) for place in range(len(said))]
    for folder, answers in zip(folders, said, strict=True):
        folder.mkdir()
        write_labels([{"question": q, "answer": answer} for q, answer in answers], len(answers), folder)
    assert contradicted(folders[:1]) == 0
    assert contradicted(folders) == 2  # b between folders, d within one
    kept = {row["question"]: row["answer"] for row in newest_labels(folders)}
    assert kept == {"a": "1", "b": "2", "c": "3", "d": "5"}
