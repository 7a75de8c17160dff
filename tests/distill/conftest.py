"""Small models, trained once for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.config import BaseConfig, ModelConfig, RewardConfig, WarmStartConfig
from tests.distill.training import LINEAR, TASKS, WORDS, asker, digits, labelled, silent

SHAPE = ModelConfig(width=64, heads=2, layers=2)
REWARD = RewardConfig(members=2, pairs_per_label=6, steps=120, batch=32, learning_rate=4e-3)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # these models are too small to share out


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that knows the form of summing and boolean questions."""
    from distill.base import train_base

    folder = tmp_path_factory.mktemp("run") / "base"
    train_base(TASKS, WORDS, SHAPE, BaseConfig(steps=150, batch=48, learning_rate=3e-3), folder, 1, silent)
    return folder


@pytest.fixture(scope="session")
def warm(base: Path) -> Path:
    """An agent that has been taught which digit is listed."""
    from distill.imitation import warm_start

    folder = base.parent / "warm"
    settings = WarmStartConfig(steps=150, batch=16, learning_rate=2e-3)
    warm_start(base, None, labelled(digits()), LINEAR, settings, folder, 1, silent)
    return folder


@pytest.fixture(scope="session")
def reward(base: Path, warm: Path) -> Path:
    """A reward ensemble over the agent's answers to what digit is listed."""
    from distill.reward import make_pairs, train_reward

    folder = base.parent / "reward"
    pairs = make_pairs(TASKS, labelled(digits()), asker(base, None), REWARD, 1)
    train_reward(base, warm, pairs, LINEAR, REWARD, folder, 1, silent)
    return folder
