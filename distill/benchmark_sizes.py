"""Sizes of model that PPO is measured with: how each is made, and how it practises."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from amplification.benchmarks import base
from distill.config import AdapterConfig, BaseConfig, ModelConfig, PPOSettings, RewardConfig


@dataclass(frozen=True)
class Size:
    """A model to measure with, how it and its reward model are made, and PPO. `labels`: questions a task."""

    model: ModelConfig
    base: BaseConfig
    reward: RewardConfig
    adapter: AdapterConfig
    ppo: PPOSettings
    labels: int = 500


SIZES: MappingProxyType[base.Size, Size] = MappingProxyType(
    {
        "embedded": Size(
            ModelConfig(),
            BaseConfig(steps=150, batch=64),
            RewardConfig(steps=150),
            AdapterConfig(method="linear"),
            PPOSettings(episodes=2_048, batch=64, learning_rate=1e-3, kl_coefficient=0.1, critic_warmup=2),
        ),
        # A Llama of 113M parameters; LoRA trains 14M more. A batch goes through a GPU in one part, as in TRL's loop.
        "100m": Size(
            ModelConfig(width=768, layers=12, heads=12),
            BaseConfig(steps=150, batch=64, learning_rate=5e-4),
            RewardConfig(steps=150, learning_rate=5e-4),
            AdapterConfig(method="lora", rank=64),
            PPOSettings(
                episodes=8_192,
                batch=256,
                minibatches=4,
                part=256,
                learning_rate=2e-4,
                kl_coefficient=0.1,
                critic_warmup=2,
            ),
        ),
    }
)
