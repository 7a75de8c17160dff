"""Scoring on the held-out questions of the embedded tasks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from amplification.errors import StageError
from amplification.question import Answer
from amplification.tasks import TASKS, task_of
from amplification.tasks.base import split_of
from eval.ladder import accuracy, chance_ladder, held_out, measure_ladder

COUNTING, BOOLEAN = TASKS["counting"], TASKS["boolean"]


def knows_all(texts: Sequence[str]) -> list[Answer]:
    found = [(task_of(text), text) for text in texts]
    return [Answer(task.truth(text)) for task, text in found if task is not None]


def says_true(texts: Sequence[str]) -> list[Answer]:
    return [Answer("True") for _ in texts]


def test_accuracy_counts_right_answers_alone() -> None:
    texts = held_out(COUNTING, 4, 3, seed=0)
    right = [COUNTING.truth(text) for text in texts]
    given = [Answer(f" {right[0]} "), Answer.failed("cut off"), Answer("no number")]
    assert accuracy(lambda _: given, COUNTING, 4, texts) == {"correct": 1, "questions": 3}


def test_a_failure_is_wrong_even_if_its_text_is_right() -> None:
    texts = held_out(BOOLEAN, 4, 1, seed=0)
    failed = Answer(BOOLEAN.truth(texts[0]), failure="out of calls")
    assert accuracy(lambda _: [failed], BOOLEAN, 4, texts)["correct"] == 0


def test_questions_of_another_level_or_missing_answers_are_refused() -> None:
    texts = held_out(BOOLEAN, 4, 5, seed=0)
    with pytest.raises(ValueError, match="not a question of boolean, level 2"):
        accuracy(says_true, BOOLEAN, 2, texts)
    with pytest.raises(StageError, match="5 questions were asked and 4 answered"):
        accuracy(lambda asked: says_true(asked[1:]), BOOLEAN, 4, texts)


def test_ladder_asks_every_answerer_the_same_held_out_questions_at_once() -> None:
    asked: list[list[str]] = []

    def remembers(texts: Sequence[str]) -> list[Answer]:
        asked.append(list(texts))
        return knows_all(texts)

    ladder = measure_ladder([COUNTING, BOOLEAN], {"first": remembers, "second": remembers, "third": says_true}, 30, 7)
    assert len(asked) == 2
    assert asked[0] == asked[1]
    assert all(split_of(task, text) == "held_out" for text in asked[0] if (task := task_of(text)) is not None)
    assert list(ladder) == ["counting", "boolean"]
    assert sum(cell["questions"] for levels in ladder.values() for cell in levels.values()) == len(asked[0])
    for levels in ladder.values():
        assert all(cell["first"] == cell["second"] == 1.0 for cell in levels.values())
    assert ladder["counting"]["8"]["third"] == 0.0
    # Sentences with many an `or` are true more often than not, and not always.
    assert 0.5 < ladder["boolean"]["8"]["third"] < 1.0


def test_ladder_stops_at_the_highest_level_asked_for_and_small_levels_have_fewer_questions() -> None:
    ladder = measure_ladder([BOOLEAN], {"agent": says_true}, 100_000, 0, highest=0)
    assert list(ladder["boolean"]) == [str(BOOLEAN.levels[0])]
    assert 0 < ladder["boolean"]["1"]["questions"] < 100_000


def test_chance_is_a_guess_among_valid_answers() -> None:
    assert all(cell["chance"] == 0.5 for cell in chance_ladder([BOOLEAN], 20, 0)["boolean"].values())
    counting = chance_ladder([COUNTING], 20, 0)["counting"]
    assert {level: cell["chance"] for level, cell in counting.items()} == {
        # Level 1 is all facts, so it has no held-out questions and is left out.
        str(level): pytest.approx(1 / (level + 1))
        for level in COUNTING.levels[1:]
    }
