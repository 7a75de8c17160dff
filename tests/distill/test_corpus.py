"""The corpus adversary: how a file is read, and what of it may be asked."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from amplification.errors import InputError
from amplification.serving.config import ServingConfig
from amplification.tasks import TASKS
from amplification.tasks.base import questions
from distill.adversaries import check_sources
from distill.config import (
    AdversaryConfig,
)
from distill.corpus import CorpusAdversary, Line, read_corpus
from tests.distill.attacking import (
    UP_TO,
    corpus,
    nonsense,
    past,
)


def test_a_corpus_is_asked_once_and_never_what_is_held_out(tmp_path: Path) -> None:
    summing = TASKS["summing"]
    known = next(questions(summing, summing.levels[UP_TO], "train", 1))
    held_out = next(questions(summing, summing.levels[UP_TO], "held_out", 1))
    larger = next(questions(summing, summing.levels[UP_TO + 1], "train", 1))
    good = [*nonsense(8), known]
    bad = [*nonsense(5, "held_out"), held_out, larger, "blue " * 80, "is \x1b[31m red"]
    file = corpus(tmp_path / "corpus.txt", [*good, *bad, "", f"  {good[0]}  "])
    adversary = CorpusAdversary(file, TASKS, UP_TO)
    shared, rng = past(), random.Random(1)
    rounds = [adversary.propose(5, shared, rng) for _ in range(3)]
    asked = [candidate.text for made in rounds for candidate in made]
    assert sorted(asked) == sorted(good)
    assert [len(made) for made in rounds] == [5, 4, 0]
    assert adversary.metrics() == {"questions": 9, "left_out": len(bad) + 1}
    assert {candidate.task for made in rounds for candidate in made if candidate.text == known} == {"summing"}


def test_json_lines_name_families(tmp_path: Path) -> None:
    first, second, *_ = nonsense(2)
    rows = [json.dumps({"question": first, "family": "fruit"}), "", json.dumps({"question": second})]
    file = corpus(tmp_path / "corpus.jsonl", rows)
    assert read_corpus(file) == [Line(first, "fruit"), Line(second)]
    made = CorpusAdversary(file, TASKS, UP_TO).propose(9, past(), random.Random(1))
    assert {candidate.made_by for candidate in made} == {"corpus:fruit", "corpus"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "there is no such file"),
        ("empty.txt", b" \n", "the file is empty"),
        ("latin.txt", b"caf\xe9", "no UTF-8 text"),
        ("a.jsonl", b'{"question": "a"}\n{"question": ', "line 2: this is not JSON"),
        ("b.jsonl", b'\n["a"]', "line 2: this is no object with a text 'question'"),
        ("c.jsonl", b'{"question": 3}', "line 1: this is no object with a text 'question'"),
        ("d.jsonl", b'{"question": "a", "familly": "b"}', "line 1: there is no key 'familly'; the keys are"),
        ("e.jsonl", b'{"question": "a", "family": 3}', "line 1: 'family' is no text"),
        ("f.jsonl", b"[" * 100_000, "line 1: this is not JSON"),
    ],
)
def test_a_bad_corpus_is_told_by_file_and_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        check_sources(AdversaryConfig(kinds=("corpus",), corpus=path), ServingConfig())
    assert str(path) in str(refused.value)


def test_a_corpus_of_which_nothing_may_be_asked_is_refused(tmp_path: Path) -> None:
    file = corpus(tmp_path / "corpus.txt", nonsense(4, "held_out"))
    with pytest.raises(InputError, match="none of its 4 questions may be asked"):
        CorpusAdversary(file, TASKS, UP_TO)
