"""A batch in parts: on a device that holds few rows, or beside a second one, a lesson is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amplification.errors import StageError
from amplification.question import Answer
from distill.config import AdapterConfig, RewardConfig, WarmStartConfig
from distill.imitation import PART, AnswerTrainer, warm_start
from distill.in_parts import InParts
from distill.lessons import LessonSampler
from distill.members import PairTrainer
from distill.reward import make_pairs, train_reward
from tests.distill.training import FULL, LORA, TASKS, booleans, digits, labelled, silent

FITS = 5
BATCH = PART + 2  # more than one part, and the smallest goes through first


def holding(monkeypatch: pytest.MonkeyPatch, trainer: type[InParts], most: int) -> None:
    """A device without room for more than so many rows, which it finds out once they went through the model."""
    whole: Any = trainer.loss_of

    def loss_of(self: InParts, model: Any, rows: Sequence[Any]) -> torch.Tensor:
        loss: torch.Tensor = whole(self, model, rows)
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    monkeypatch.setattr(trainer, "loss_of", loss_of)


def taught(base: Path, out: Path, adapter: AdapterConfig = FULL) -> dict[str, torch.Tensor]:
    """The weights that a warm start leaves; of two groups, so that the losses decide which rows come."""
    labels = [*labelled(digits()), *labelled(booleans(1, 20), "boolean")]
    warm_start(base, None, labels, adapter, WarmStartConfig(steps=4, batch=BATCH, learning_rate=1e-3), out, 1, silent)
    return load_file(next(out.glob("*.safetensors")))


def rewarded(base: Path, out: Path, adapter: AdapterConfig = FULL) -> dict[str, torch.Tensor]:
    """The weights of a reward member."""
    settings = RewardConfig(members=1, steps=3, batch=BATCH, learning_rate=1e-3)
    pairs = make_pairs(TASKS, labelled(digits()), lambda texts: [Answer("7")] * len(texts), settings, 1)
    train_reward(base, None, pairs, adapter, settings, out, 1, silent)
    return load_file(next((out / "member-0").glob("*.safetensors")))


@pytest.mark.parametrize(("train", "trainer"), [(taught, AnswerTrainer), (rewarded, PairTrainer)])
def test_on_a_device_that_holds_few_rows_the_same_is_learned(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Any, trainer: type[InParts]
) -> None:
    learned = list[int]()
    tell = LessonSampler.learned

    def noted(self: LessonSampler, indices: Sequence[int], losses: Sequence[float]) -> None:
        learned.append(len(indices))
        tell(self, indices, losses)

    monkeypatch.setattr(LessonSampler, "learned", noted)
    plain = train(base, tmp_path / "plain")
    told = sum(learned)
    holding(monkeypatch, trainer, FITS)
    with pytest.warns(RuntimeWarning, match=r"out of memory with \d+ .*its batch stays the same"):
        few = train(base, tmp_path / "few")
    assert all(torch.allclose(few[name], tensor, atol=1e-4) for name, tensor in plain.items())
    assert sum(learned) == 2 * told  # what was done over again was learned from once


def test_a_device_without_room_for_one_row_is_told(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holding(monkeypatch, AnswerTrainer, 0)
    with (
        pytest.warns(RuntimeWarning, match="out of memory"),
        pytest.raises(StageError, match="out of memory with one row at once; take a smaller model"),
    ):
        taught(base, tmp_path)


@pytest.mark.parametrize("train", [taught, rewarded])
def test_a_second_gpu_changes_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Any) -> None:
    """The libraries' trainer asks how many there are, and would spread the model over them."""
    plain = train(base, tmp_path / "plain", LORA)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    beside = train(base, tmp_path / "beside", LORA)
    assert all(torch.equal(beside[name], tensor) for name, tensor in plain.items())
