"""The base knows the form of questions and answers, and nothing else."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from amplification.errors import InputError, StageError
from amplification.serving.checkpoint import base_folder
from amplification.tasks import TASKS as ALL_TASKS
from amplification.tasks import task_of
from amplification.tasks.base import NONSENSE, split_of
from distill.base import form_examples, make_model, make_tokenizer, train_base
from distill.config import BaseConfig, ModelConfig
from distill.weights import answer_ids, load_tokenizer, prompt_ids
from tests.distill.training import TASKS, WORDS, booleans, silent, spread


@pytest.mark.parametrize("level", [1, 4])
def test_spread_is_even_over_answers_of_the_right_form(base: Path, level: int) -> None:
    for probabilities in spread(base, None, booleans(level, 8)):
        of_form = [probabilities[word] for word in ("True", "False", NONSENSE)]
        assert sum(of_form) > 0.95
        assert -sum(p * math.log(p) for p in of_form) > 0.95 * math.log(3)


def test_no_fact_is_known(base: Path) -> None:
    texts = booleans(2, 40)
    right = [p[TASKS["boolean"].truth(text)] for text, p in zip(texts, spread(base, None, texts), strict=True)]
    assert sum(right) / len(right) == pytest.approx(1 / 3, abs=0.05)


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_base(TASKS, WORDS, ModelConfig(width=64, heads=2), BaseConfig(steps=2), tmp_path / name, seed, silent)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_a_word_is_a_token_and_special_tokens_are_separate() -> None:
    tokenizer = make_tokenizer([":", "sum", "of", "0>2", "("])
    assert tokenizer.convert_ids_to_tokens(tokenizer("sum of  0>2 (:")["input_ids"]) == [
        "<bos>",
        "sum",
        "of",
        "0>2",
        "<unk>",
    ]
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 4


def test_tokenizer_is_the_same_from_disk(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    (prompt,) = prompt_ids(tokenizer, ["sum of 3"])
    assert tokenizer.convert_ids_to_tokens(prompt) == ["<bos>", "sum", "of", "3", ":"]
    (answer,) = answer_ids(tokenizer, ["12"])
    assert tokenizer.convert_ids_to_tokens(answer) == ["12", "<eos>"]
    assert tokenizer.decode(prompt, skip_special_tokens=True) == "sum of 3 :"


def test_heads_that_no_server_takes_are_refused() -> None:
    with pytest.raises(InputError, match="heads"):
        make_model(ModelConfig(width=96, heads=4), make_tokenizer(["a"]), 1)


def test_a_base_that_diverges_is_told(tmp_path: Path) -> None:
    wild = BaseConfig(steps=4, batch=8, learning_rate=1e30)
    with pytest.raises(StageError, match=r"diverged.*lower base\.learning_rate"):
        train_base(TASKS, WORDS, ModelConfig(width=32, layers=1, heads=1), wild, tmp_path / "base", 1, silent)
    assert not (tmp_path / "base").exists()


def test_a_local_model_is_referred_to(base: Path, tmp_path: Path) -> None:
    metrics = train_base(TASKS, WORDS, ModelConfig(pretrained=str(base)), BaseConfig(), tmp_path / "base", 1, silent)
    assert metrics["parameters"] > 0
    assert base_folder(str(tmp_path / "base")) == base
    assert spread(tmp_path / "base", None, ["True is"]) == spread(base, None, ["True is"])


def test_a_model_that_pads_with_its_end_is_copied_with_a_padding_token(base: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    tokenizer = load_tokenizer(base)
    from distill.weights import load_base

    load_base(base).save_pretrained(str(theirs))
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(str(theirs))
    train_base(TASKS, WORDS, ModelConfig(pretrained=str(theirs)), BaseConfig(), tmp_path / "base", 1, silent)
    ours = load_tokenizer(tmp_path / "base")
    assert ours.pad_token_id != ours.eos_token_id


@pytest.mark.parametrize("name", ["no/such/model", "pickled"])
def test_what_cannot_be_loaded_is_refused(name: str, tmp_path: Path) -> None:
    where = name
    if name == "pickled":
        where = str(tmp_path)
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError):
        train_base(TASKS, WORDS, ModelConfig(pretrained=where), BaseConfig(), tmp_path / "base", 1, silent)


def test_no_held_out_question_is_among_the_forms() -> None:
    for text, _ in form_examples(list(ALL_TASKS.values()), 4_000, random.Random(0)):
        task = task_of(text)
        assert task is None or split_of(task, text) == "train", text
