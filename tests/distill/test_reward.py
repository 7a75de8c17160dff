"""The reward: pairs say what H^A says, members learn them, and their aggregate never claims more than their mean."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from amplification.errors import InputError, StageError
from amplification.question import Answer
from amplification.tasks.base import NONSENSE
from distill.base import train_base
from distill.calibration import CALIBRATION_FILE
from distill.config import BaseConfig, ModelConfig, RewardConfig
from distill.ensemble import RewardEnsemble
from distill.judgement import Judgement
from distill.reward import HELD_OUT, enough_labels, make_pairs, train_reward
from distill.weights import load_merged, load_tokenizer, padded, parameters, prompt_ids, scorer_from
from tests.distill.conftest import REWARD
from tests.distill.training import FULL, LINEAR, LORA, TASKS, WORDS, asker, digits, labelled, silent

MINIMUM = RewardConfig(aggregate="minimum")


def pairs_for(labels: list[dict[str, Any]], answer: Answer, count: int = 3, seed: int = 1) -> list[dict[str, str]]:
    settings = RewardConfig(pairs_per_label=count)
    return make_pairs(TASKS, labels, lambda texts: [answer] * len(texts), settings, seed)


def test_a_pair_puts_the_label_before_what_the_agent_got_wrong() -> None:
    labels = labelled(["sum of 3", "sum of 4"])
    pairs = pairs_for(labels, Answer("7"))
    assert [(p["question"], p["chosen"], p["rejected"]) for p in pairs if p["rejected"] == "7"] == [
        ("sum of 3", "3", "7"),
        ("sum of 4", "4", "7"),
    ]
    assert len(pairs) == 6
    assert all(p["chosen"] != p["rejected"] for p in pairs)
    assert all(p["rejected"] in (*map(str, range(10)), NONSENSE) for p in pairs)
    assert [p["part"] for p in pairs] == ["heldout"] * 3 + ["train"] * 3


@pytest.mark.parametrize("answer", [Answer("3"), Answer.failed("nothing"), Answer("")])
def test_a_right_or_missing_answer_is_not_rejected(answer: Answer) -> None:
    pairs = pairs_for(labelled(["sum of 3"]), answer)
    assert len(pairs) == 3
    assert not {"3", ""} & {p["rejected"] for p in pairs}


def test_a_question_that_makes_no_sense_has_nonsense_chosen() -> None:
    nonsense = {"question": "of sum", "answer": NONSENSE, "task": "", "level": 0, "source": "attack:x", "part": "train"}
    pairs = [p for p in pairs_for([*labelled(digits()), nonsense], Answer("5")) if p["question"] == "of sum"]
    assert {p["chosen"] for p in pairs} == {NONSENSE}
    assert pairs[0]["rejected"] == "5"
    assert {p["rejected"] for p in pairs} <= set(map(str, range(10)))


def test_pairs_depend_on_the_seed_alone() -> None:
    labels = labelled(digits())
    assert pairs_for(labels, Answer("7")) == pairs_for(labels, Answer("7"))
    assert pairs_for(labels, Answer("7")) != pairs_for(labels, Answer("7"), seed=2)


def test_held_out_pairs_are_ordered_like_the_labels(base: Path, reward: Path) -> None:
    ensemble = RewardEnsemble.load(base, reward)
    pairs = [p for p in make_pairs(TASKS, labelled(digits()), asker(base, None), REWARD, 9) if p["part"] == "heldout"]
    questions = [p["question"] for p in pairs]
    chosen = ensemble.rate(questions, [p["chosen"] for p in pairs])
    rejected = ensemble.rate(questions, [p["rejected"] for p in pairs])
    assert sum(c > r for c, r in zip(chosen, rejected, strict=True)) / len(pairs) > 0.8


@pytest.mark.parametrize("settings", [RewardConfig(), MINIMUM], ids=lambda s: s.aggregate)
def test_aggregate_is_never_above_the_mean(base: Path, reward: Path, settings: RewardConfig) -> None:
    ensemble = RewardEnsemble.load(base, reward, settings)
    texts = digits()
    scores = ensemble.scores(texts, ["5"] * len(texts))
    assert scores.shape == (2, len(texts))
    assert (ensemble.aggregate(scores) <= scores.mean(dim=0) + 1e-6).all()
    assert not torch.allclose(scores[0], scores[1], atol=1e-3)


def test_scores_are_centred_on_the_held_out_pairs(base: Path, reward: Path) -> None:
    pairs = make_pairs(TASKS, labelled(digits()), asker(base, None), REWARD, 1)
    heldout = [p for p in pairs if p["part"] == "heldout"]
    ensemble, questions = RewardEnsemble.load(base, reward), [p["question"] for p in heldout]
    chosen = ensemble.scores(questions, [p["chosen"] for p in heldout]).mean(dim=1)
    rejected = ensemble.scores(questions, [p["rejected"] for p in heldout]).mean(dim=1)
    assert chosen.tolist() == pytest.approx([1, 1], abs=1e-3)
    assert rejected.tolist() == pytest.approx([-1, -1], abs=1e-3)


def test_what_ppo_reads_is_what_the_scorer_says(base: Path, reward: Path) -> None:
    """TRL looks at left-padded prompts, at the score of the answer's end."""
    from trl.experimental.utils import get_reward

    ensemble, tokenizer = RewardEnsemble.load(base, reward), load_tokenizer(base)
    questions, answers = ["sum of 3", "total of 8 1"], ["3", "5"]
    rows = prompt_ids(tokenizer, questions)
    width = max(map(len, rows))
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor(
        [
            [pad] * (width - len(row)) + row + [tokenizer.convert_tokens_to_ids(answer), end, pad]
            for row, answer in zip(rows, answers, strict=True)
        ]
    )
    with torch.no_grad():
        _, rewards, _ = get_reward(ensemble, ids, pad, width)
    assert rewards.tolist() == pytest.approx(ensemble.rate(questions, answers), abs=1e-4)


def test_extra_layers_have_no_effect_at_first(base: Path, warm: Path) -> None:
    agent, ids = load_merged(base, warm).eval(), torch.arange(4, 24)[None]
    with torch.no_grad():
        wanted = agent.base_model(input_ids=ids).last_hidden_state
        for count in (0, 1, 2):
            scorer: Any = scorer_from(agent, 0, LINEAR, extra_layers=count).eval()
            assert len(scorer.base_model.layers) == len(agent.base_model.layers) + count
            assert torch.allclose(scorer.base_model(input_ids=ids).last_hidden_state, wanted, atol=1e-5)


@pytest.mark.parametrize("config", [LORA, FULL], ids=lambda c: c.method)
def test_members_can_be_trained_otherwise(base: Path, tmp_path: Path, config: Any) -> None:
    pairs = pairs_for(labelled(digits()), Answer("7"))
    settings = RewardConfig(members=1, steps=5, batch=64)
    metrics = train_reward(base, None, pairs, config, settings, tmp_path, 1, silent)
    assert metrics["train_tokens"] > 0
    ensemble = RewardEnsemble.load(base, tmp_path)
    scorer = next(ensemble.members.each())
    assert len(scorer.base_model.layers) == load_merged(base, None).config.num_hidden_layers + 1
    ids = padded(prompt_ids(ensemble.tokenizer, ["sum of 3"]), 0)
    assert torch.isfinite(ensemble.members(input_ids=ids).hidden_states[-1]).all()


def test_lora_members_share_one_backbone(base: Path, tmp_path: Path) -> None:
    """Each is what it is alone; on disk and in memory there is one backbone."""
    pairs = pairs_for(labelled(digits()), Answer("7"))
    settings = RewardConfig(members=2, steps=30, batch=32, learning_rate=4e-3)
    train_reward(base, None, pairs, LORA, settings, tmp_path / "both", 1, silent)
    train_reward(base, None, pairs, LORA, settings.model_copy(update={"members": 1}), tmp_path / "one", 1, silent)
    files = {str(file.relative_to(tmp_path / "both")) for file in (tmp_path / "both").rglob("*.safetensors")}
    adapters = {f"member-{member}/adapter_model.safetensors" for member in (0, 1)}
    assert files == {"backbone/model.safetensors", *adapters}
    both, alone = (RewardEnsemble.load(base, tmp_path / name) for name in ("both", "one"))
    texts = digits()
    scores, first = both.scores(texts, ["5"] * len(texts)), alone.scores(texts, ["5"] * len(texts))
    assert torch.allclose(scores[0], first[0], atol=1e-4)
    assert not torch.allclose(scores[0], scores[1], atol=1e-2)
    assert parameters(both) < 1.5 * parameters(alone)
    assert both.parameters_of_member() == alone.parameters_of_member() == parameters(alone)


def test_members_are_trained_where_a_model_computes_with_several_threads(base: Path, tmp_path: Path) -> None:
    """In a process of its own, as it would wait forever for threads that a fork has lost."""
    script = f"""
import torch
from pathlib import Path
from distill.config import RewardConfig
from distill.reward import train_reward
from tests.distill.test_reward import pairs_for
from tests.distill.training import LINEAR, digits, labelled, silent
from amplification.question import Answer
assert torch.get_num_threads() == 2
torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # OpenMP's threads start
settings = RewardConfig(members=2, steps=2, batch=32)
pairs = pairs_for(labelled(digits()), Answer("7"))
train_reward({str(base)!r}, None, pairs, LINEAR, settings, Path({str(tmp_path)!r}), 1, silent)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
    assert len(RewardEnsemble.load(base, tmp_path).centre) == 2


def test_what_is_missing_pickled_or_of_another_tokenizer_is_refused(base: Path, reward: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="member-0"):
        RewardEnsemble.load(base, tmp_path)
    pickled = shutil.copytree(reward, tmp_path / "pickled")
    (pickled / "member-1" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="pickled"):
        RewardEnsemble.load(base, pickled)
    alone = shutil.copytree(reward, tmp_path / "alone")
    shutil.rmtree(alone / "member-1")
    with pytest.raises(InputError, match="members"):
        RewardEnsemble.load(base, alone)
    (alone / CALIBRATION_FILE).write_text(json.dumps({"centre": [0.0]}))
    with pytest.raises(InputError, match=CALIBRATION_FILE):
        RewardEnsemble.load(base, alone)
    other = tmp_path / "other"
    shape = ModelConfig(width=64, heads=2, layers=2)
    train_base(TASKS, (*WORDS, "more"), shape, BaseConfig(steps=1, batch=4), other, 1, silent)
    with pytest.raises(InputError, match="another tokenizer"):
        RewardEnsemble.load(other, reward)
    small = shutil.copytree(reward, tmp_path / "small")
    scorer = AutoModelForSequenceClassification.from_pretrained(str(small / "member-0"))
    scorer.resize_token_embeddings(scorer.config.vocab_size - 2)
    scorer.save_pretrained(str(small / "member-0"))
    with pytest.raises(InputError, match=r"member-0: its vocabulary has fewer than the \d+ words"):
        RewardEnsemble.load(base, small)


def test_scores_that_are_no_numbers_are_not_ranked(base: Path, reward: Path) -> None:
    ensemble = RewardEnsemble.load(base, reward)
    ensemble.scale.zero_()
    with pytest.raises(StageError, match="no numbers"):
        ensemble.rate(["sum of 3"], ["3"])


def test_nothing_to_learn_from_or_to_measure_on_is_refused(base: Path, tmp_path: Path) -> None:
    pairs = pairs_for(labelled(digits()), Answer("7"))
    for part in ("train", "heldout"):
        with pytest.raises(InputError, match="no pair"):
            kept = [p for p in pairs if p["part"] == part]
            train_reward(base, None, kept, LINEAR, RewardConfig(), tmp_path, 1, silent)


def test_what_h_finds_acceptable_is_not_rejected() -> None:
    """H^A's judgements by episodes: an alternative that it accepts makes no pair, nor a label it does not stand by."""
    settings = RewardConfig(pairs_per_label=2)
    rows = labelled(digits())[:3]
    shown: list[tuple[str, Sequence[str]]] = []

    def judge(asked: Sequence[tuple[str, Sequence[str]]]) -> list[Judgement | None]:
        shown.extend(asked)
        good = [(True, True, False, False), (False, True, False, False), None]
        return [
            Judgement(question, tuple(texts), accepted, 0) if accepted else None
            for (question, texts), accepted in zip(asked, good, strict=True)
        ]

    pairs = make_pairs(TASKS, rows, lambda texts: [Answer("7")] * len(texts), settings, 1, judge)
    assert [texts[0] for _, texts in shown] == [row["answer"] for row in rows]
    assert {pair["question"] for pair in pairs} == {rows[0]["question"]}
    assert [pair["rejected"] for pair in pairs] == list(shown[0][1][2:])


def test_no_more_labels_are_asked_about_than_the_members_see() -> None:
    labels = [{"question": str(n), "part": "train" if n % 4 else "heldout"} for n in range(4_000)]
    settings = RewardConfig(steps=10, batch=64, pairs_per_label=2)
    kept = enough_labels(labels, settings, 1)
    assert [row["part"] for row in kept].count("train") == 320
    assert [row["part"] for row in kept].count("heldout") == HELD_OUT
    assert kept == [row for row in labels if row in kept]  # in their order
    assert kept != enough_labels(labels, settings, 2)
    assert enough_labels(labels[:100], settings, 1) == labels[:100]
