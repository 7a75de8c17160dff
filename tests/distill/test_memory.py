"""Out of memory: fewer rows go through the model at once, and what is learned stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.actor_critic import ActorCritic
from distill.config import PPOSettings
from distill.memory import OutOfMemory, Part
from distill.ppo import train_ppo
from distill.weights import load_tokenizer, prompt_ids
from tests.distill.training import LINEAR, digits, silent

FITS = 8
SETTINGS = PPOSettings(episodes=64, batch=32, critic_warmup=0, learning_rate=1e-3)


def test_the_rows_are_halved_until_they_fit_and_it_is_said() -> None:
    part, tried = Part(64, alone=True), list[int]()

    def work() -> int:
        tried.append(part.prompts)
        if part.prompts > FITS:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return part.prompts

    with pytest.warns(RuntimeWarning, match=r"out of memory with \d+ prompts.*its batch stays the same"):
        assert part.fitting(work) == FITS
    assert tried == [64, 32, 16, 8]
    assert part.fitting(work) == FITS  # it is remembered
    assert len(tried) == 5


@pytest.mark.parametrize(("rows", "alone"), [(1, True), (64, False)])
def test_where_nothing_can_be_halved_training_ends_with_a_remedy(rows: int, alone: bool) -> None:
    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory, match=r"set distill\.ppo\.part to"):
        Part(rows, alone).fitting(work)


@pytest.mark.filterwarnings("ignore:out of memory:RuntimeWarning")
def test_training_in_smaller_parts_learns_the_same(
    base: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds the tokens of `FITS` prompts, against one that was told so."""
    told = SETTINGS.model_copy(update={"part": FITS})
    train_ppo(base, None, reward, digits(), LINEAR, told, tmp_path / "told", 1, silent)
    whole, longest = ActorCritic.forward, max(map(len, prompt_ids(load_tokenizer(base), digits())))

    def small(self: ActorCritic, ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if ids.numel() > FITS * (longest + 1):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, ids, *rest, **more)

    monkeypatch.setattr(ActorCritic, "forward", small)
    found = train_ppo(base, None, reward, digits(), LINEAR, SETTINGS, tmp_path / "found", 1, silent)
    assert found["part"] == FITS
    assert found["episodes"] == SETTINGS.episodes
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("found", "told"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
