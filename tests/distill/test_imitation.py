"""Warm start: what was labelled is learned, what was not is kept, and an adapter is carried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from amplification.errors import InputError, StageError
from amplification.tasks.base import NONSENSE
from distill.config import AdapterConfig, WarmStartConfig
from distill.imitation import Collator, padded_part, tokenised, training_part, warm_start
from distill.weights import load_merged, load_policy, load_tokenizer, save_policy
from tests.distill.training import FULL, LINEAR, LORA, TASKS, booleans, digits, greedy, labelled, silent, spread

QUICK = WarmStartConfig(steps=4, batch=16, learning_rate=4e-3)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(4, 24)[None]).logits  # type: ignore[no-any-return]


def test_labels_are_learned_and_held_out_wordings_follow(base: Path, warm: Path) -> None:
    texts = digits()
    answers = greedy(base, warm, texts)
    right = [answer == TASKS["summing"].truth(text) for answer, text in zip(answers, texts, strict=True)]
    assert sum(right) / len(right) > 0.9


def test_another_task_keeps_its_answers(base: Path, warm: Path) -> None:
    for probabilities in spread(base, warm, booleans(2, 20)):
        assert sum(probabilities[word] for word in ("True", "False", NONSENSE)) > 0.8


@pytest.mark.parametrize("config", [LINEAR, LORA, FULL], ids=lambda c: c.method)
def test_an_agent_carried_on_is_at_first_the_same(base: Path, tmp_path: Path, config: AdapterConfig) -> None:
    fresh = load_policy(base, None, config, 1)
    assert torch.allclose(logits(fresh), logits(load_merged(base, None)), atol=1e-5)
    warm_start(base, None, labelled(digits()), config, QUICK, tmp_path / "parent", 1, silent)
    parent = load_merged(base, tmp_path / "parent")
    assert not torch.allclose(logits(parent), logits(load_merged(base, None)), atol=1e-2)
    child = load_policy(base, tmp_path / "parent", config, 2)
    assert torch.allclose(logits(child), logits(parent), atol=1e-4)
    assert any(parameter.requires_grad for parameter in child.parameters())
    save_policy(child, base, config, tmp_path / "child")
    assert torch.allclose(logits(load_merged(base, tmp_path / "child")), logits(parent), atol=1e-4)


@pytest.mark.parametrize("steps", [2, 8])
def test_a_lesson_that_diverges_is_told_and_writes_nothing(base: Path, tmp_path: Path, steps: int) -> None:
    """By its loss in its middle, by its weights at its end."""
    wild = QUICK.model_copy(update={"steps": steps, "learning_rate": 1e38})
    with pytest.raises(StageError, match=r"diverged.*lower distill\.warm_start\.learning_rate"):
        warm_start(base, None, labelled(digits()), FULL, wild, tmp_path / "out", 1, silent)
    assert not (tmp_path / "out").exists()


def test_equal_seeds_give_equal_files(base: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        warm_start(base, None, labelled(digits()), LINEAR, QUICK, tmp_path / name, seed, silent)
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b != c
    assert set(a) == {"adapter_config.json", "adapter_model.safetensors"}


def test_held_out_labels_are_not_trained_on() -> None:
    labels = labelled(digits(), heldout=2)
    taught = training_part(labels)
    assert taught == [label for label in labels if label["part"] == "train"] != labels
    with pytest.raises(InputError, match="training part"):
        training_part([label | {"part": "heldout"} for label in labels])


def test_loss_is_on_the_answer_and_its_end(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    (row,) = tokenised(tokenizer, [label("sum of 3", "3")])
    wanted = [token for token in row["labels"] if token != -100]
    assert tokenizer.convert_ids_to_tokens(wanted) == ["3", "<eos>"]
    assert row["labels"][-2:] == row["input_ids"][-2:] == wanted


def test_padding_is_on_the_right_and_not_counted() -> None:
    collator = Collator()
    long, short = (
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "row": 0},
        {"input_ids": [8], "labels": [8], "row": 1},
    )
    (part,) = collator([long, short])["batch"].parts(2)
    assert [row["row"] for row in part] == [1, 0]
    ids, labels = padded_part(part, 0)
    assert ids.tolist() == [[8, 0, 0], [5, 6, 7]]
    assert labels.tolist() == [[8, -100, -100], [-100, 6, 7]]
    assert collator.tokens == 4


def test_an_agent_of_another_kind_is_refused(base: Path, warm: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method"):
        load_policy(base, warm, FULL, 1)
    with pytest.raises(InputError, match="rank"):
        load_policy(base, warm, LORA, 1)
    with pytest.raises(InputError, match="no such folder"):
        load_policy(base, tmp_path / "nothing", LINEAR, 1)


def label(question: str, answer: str, name: str = "summing") -> dict[str, Any]:
    return {"question": question, "answer": answer, "task": name, "level": 1, "source": "task", "part": "train"}
