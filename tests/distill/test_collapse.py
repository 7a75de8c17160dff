"""A policy that has no entropy left and answers badly: training ends, with weights that still had some."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill import collapse
from distill.collapse import UPDATES, Collapse
from distill.config import PPOSettings
from distill.ppo import train_ppo
from tests.distill.training import FULL, digits, silent

GOOD = {"entropy": 0.5, "objective/scores": -1.0}
DULL = {"entropy": 0.001, "objective/scores": -1.0}
SURE = {"entropy": 0.001, "objective/scores": 0.9}


def test_only_a_dull_policy_that_answers_badly_for_long_has_collapsed() -> None:
    watch = Collapse()
    assert not watch.begun([])
    assert not watch.complete([DULL] * (UPDATES - 1))
    assert watch.complete([GOOD, *[DULL] * UPDATES])
    assert not watch.complete([*[DULL] * (UPDATES - 1), GOOD])
    assert not watch.complete([SURE] * UPDATES)  # it has learned what there was to learn
    assert watch.begun([GOOD, DULL]) and not watch.begun([DULL, GOOD])


def test_the_weights_go_back_to_the_last_good_ones() -> None:
    watch, weight = Collapse(), torch.nn.Parameter(torch.ones(3))
    watch.remember([weight])
    with torch.no_grad():
        weight.zero_()
    watch.go_back([weight])
    assert weight.tolist() == [1, 1, 1]


def test_training_ends_and_what_collapsed_is_not_kept(
    base: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bounds that every update is within, the last good weights are those that training began with."""
    monkeypatch.setattr(collapse, "NO_ENTROPY", 1e9)
    monkeypatch.setattr(collapse, "BAD_SCORE", 1e9)
    settings = PPOSettings(episodes=2_048, batch=32, critic_warmup=0, learning_rate=1e-3, checkpoint_seconds=0)
    state = tmp_path / "state"
    told = train_ppo(base, None, reward, digits(), FULL, settings, tmp_path / "out", 1, silent, state)
    assert told["collapsed"]
    assert told["episodes"] == UPDATES * settings.batch < settings.episodes
    assert not list(state.glob("update-*"))
    kept, begun = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", base))
    assert all(torch.equal(kept[name], tensor) for name, tensor in begun.items())
