"""The same tests at two sizes: small wherever they run, and 113 million parameters where there is a GPU.

What needs a GPU is marked `gpu` and skipped without one; with AMPLIFY_NEEDS_GPU=1 (`make test-gpu`) its absence is a
failure, so that a machine whose GPU is not seen does not pass.
"""

from __future__ import annotations

import os

import pytest
import torch

from distill.benchmark import Bench
from distill.benchmark_sizes import SIZES, Size
from distill.config import AdapterConfig, BaseConfig, ModelConfig, PPOSettings, RewardConfig

SMALL = Size(
    ModelConfig(width=64, heads=2, layers=2),
    BaseConfig(steps=60, batch=32, learning_rate=4e-3),
    RewardConfig(steps=30, batch=32, pairs_per_label=4, learning_rate=6e-3),
    AdapterConfig(method="lora", rank=8, alpha=16),
    PPOSettings(
        episodes=768, batch=64, minibatches=2, part=64, learning_rate=3e-3, kl_coefficient=0.02, critic_warmup=1
    ),
    labels=50,
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if os.environ.get("AMPLIFY_NEEDS_GPU") == "1":
            pytest.fail("no GPU is seen here")
        pytest.skip("no GPU")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(
    scope="session", params=["small", pytest.param("100m", marks=pytest.mark.gpu)], ids=lambda name: str(name)
)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A base and a reward model to practise on, PPO in bfloat16."""
    size = SMALL if request.param == "small" else SIZES["100m"]
    return Bench(tmp_path_factory.mktemp(request.param), size).with_ppo(precision="bfloat16")
