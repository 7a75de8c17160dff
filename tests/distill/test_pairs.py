"""Every form of judgement becomes training signal; labels that teach nothing are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from amplification.errors import InputError
from amplification.question import Answer
from distill.config import RewardConfig
from distill.ensemble import RewardEnsemble
from distill.judgement import Judgement
from distill.pairs import pairs_of, require_two_sides, settled
from distill.reward import make_pairs, train_reward
from tests.distill.conftest import REWARD
from tests.distill.training import LINEAR, TASKS, digits, labelled, silent


def pair(question: str, chosen: str | None, rejected: str, part: str = "train") -> dict[str, Any]:
    return {"question": question, "chosen": chosen, "rejected": rejected, "part": part}


def orders(judgement: Judgement, most: int = 9) -> list[tuple[str | None, str]]:
    return [(row["chosen"], row["rejected"]) for row in pairs_of(judgement, "train", most)]


def test_an_order_puts_the_best_over_what_is_not_acceptable() -> None:
    assert orders(Judgement("q", ("a", "b", "c"), (True, True, False), 1)) == [("b", "c")]
    assert orders(Judgement("q", ("a", "b", "c"), (False, True, False))) == [("b", "a"), ("b", "c")]
    # What is called best and not acceptable is not put above what is acceptable.
    assert orders(Judgement("q", ("a", "b"), (True, False), 1)) == [("a", "b")]
    assert orders(Judgement("q", ("a", "b", "c"), (True, False, False), 0), most=1) == [("a", "b")]


def test_scores_give_a_pair_for_each_difference_with_its_margin() -> None:
    rows = pairs_of(
        Judgement("q", ("a", "b", "c", "d"), (False, True, False, False), 1, (2.0, 9.0, 5.0, 5.1)), "train", 9
    )
    found = {(row["chosen"], row["rejected"]): row["margin"] for row in rows}
    assert found == pytest.approx(
        {("b", "a"): 1.0, ("b", "c"): 4 / 7, ("b", "d"): 3.9 / 7, ("c", "a"): 3 / 7, ("d", "a"): 3.1 / 7}
    )
    assert {row["chosen"]: row["accepted"] for row in rows} == {"b": True, "c": False, "d": False}


def test_none_acceptable_bounds_every_candidate() -> None:
    assert orders(Judgement("q", ("a", "b"), (False, False))) == [(None, "a"), (None, "b")]
    scored = pairs_of(Judgement("q", ("a", "b"), (False, False), None, (1.0, 0.0)), "train", 9)
    assert [(row["chosen"], row["rejected"]) for row in scored] == [("a", "b"), (None, "a"), (None, "b")]
    assert scored[0]["accepted"] is False


def test_contradicting_pairs_cancel_out_and_the_majority_stays() -> None:
    rows = [pair("q", "a", "b"), pair("q", "b", "a"), pair("q", "a", "b"), pair("p", "b", "a"), pair("q", "a", "c")]
    kept, contradictory = settled(rows)
    assert contradictory == 2
    assert [(row["question"], row["chosen"], row["rejected"]) for row in kept] == [
        ("q", "a", "b"),
        ("p", "b", "a"),
        ("q", "a", "c"),
    ]
    with pytest.raises(InputError, match="4 of 5 pairs contradict"):
        settled([*rows[:2], *rows[:2], rows[3]])


def test_labels_that_differ_on_one_question_agree_on_the_rest() -> None:
    """Two answers of H^A to one question: no order between them, both above what neither said."""
    rows = [row | {"answer": said} for row in labelled(["sum of 3"]) for said in ("3", "4")]
    settings = RewardConfig(pairs_per_label=3)
    pairs = make_pairs(TASKS, rows, lambda texts: [Answer("7")] * len(texts), settings, 1)
    kept, contradictory = settled(pairs)
    assert contradictory == 2
    assert {(row["chosen"], row["rejected"]) for row in kept} >= {("3", "7"), ("4", "7")}
    assert not {(row["chosen"], row["rejected"]) for row in kept} & {("3", "4"), ("4", "3")}


def test_one_kind_of_answer_alone_is_refused() -> None:
    with pytest.raises(InputError, match="no answer acceptable"):
        require_two_sides([pair("q", None, "a"), pair("p", None, "b")])
    with pytest.raises(InputError, match="same acceptable answer, 'a'"):
        require_two_sides([pair("q", "a", "b"), pair("p", "a", "c")])
    require_two_sides([pair("q", "a", "b"), pair("p", "b", "a")])


def test_bounds_and_margins_are_learned(base: Path, tmp_path: Path) -> None:
    """An answer that is only known to be unacceptable comes to lie below those that are acceptable."""
    texts = digits()
    rows = [
        {"question": text, "chosen": TASKS["summing"].truth(text), "rejected": other, "margin": 1.0, "part": part}
        for place, text in enumerate(texts)
        for other in ("0", "4", "8")
        if other != TASKS["summing"].truth(text)
        for part in [("heldout" if place % 5 == 0 else "train")]
    ]
    never = [pair(text, None, "maybe") for text in texts[: len(texts) // 2]]
    settings = REWARD.model_copy(update={"members": 1})
    metrics = train_reward(base, None, [*rows, *never], LINEAR, settings, tmp_path, 1, silent)
    assert metrics["bounds"] == len(never)
    assert metrics["contradictory_pairs"] == 0
    ensemble, others = RewardEnsemble.load(base, tmp_path), texts[len(texts) // 2 :]
    right = ensemble.scores(others, [TASKS["summing"].truth(text) for text in others])
    assert float((right > ensemble.scores(others, ["maybe"] * len(others))).float().mean()) > 0.9


def test_probabilities_mean_what_they_say(base: Path, reward: Path) -> None:
    ensemble, texts = RewardEnsemble.load(base, reward), digits()
    right = [TASKS["summing"].truth(text) for text in texts]
    wrong = [str((int(answer) + 3) % 10) for answer in right]
    forward, back = ensemble.preferences(texts, right, wrong), ensemble.preferences(texts, wrong, right)
    assert torch.allclose(forward + back, torch.ones(len(texts)), atol=1e-4)
    assert float(forward.mean()) > 0.7
