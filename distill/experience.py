"""What PPO's loop passes from step to step, and the settings of a trainer that TRL's configuration has no key for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from distill.precision import SINGLE, Precision
from distill.rollout import Rollout


@dataclass(frozen=True)
class Settings:
    """What TRL's PPOConfig has no key for.

    entropy_bonus: weight of the entropy in the loss. kl_target: nats an episode that the KL penalty's weight is moved
    towards, over about `kl_horizon` episodes. max_kl: the throttle; training ends before the KL from the reference
    passes it. part: prompts that go through the model together, halved where memory does not suffice. answers: to each
    prompt; with more than one they are compared with each other, and not with a critic.
    precision: what the models compute in. gradient_checkpointing: activations are recomputed rather than kept.
    """

    entropy_bonus: float = 0.0
    kl_target: float | None = None
    kl_horizon: int = 10_000
    max_kl: float | None = None
    part: int = 64
    answers: int = 1
    precision: Precision = SINGLE
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Experience:
    """A rollout with all that learning from it needs; each tensor is [n, R] but `scores` [n].

    With several answers to a prompt the critic learns nothing: its returns are its values. Where nothing needed the
    reference it was not asked: it is None, and kl is 0.
    """

    rollout: Rollout
    reference: torch.Tensor | None
    values: torch.Tensor
    scores: torch.Tensor
    kl: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


class Counted(NamedTuple):
    """Tokens through the policy in rollouts, those of prompts that are attacks, through the reference, and scored."""

    tokens: int
    attack_tokens: int
    reference_tokens: int
    scored_tokens: int
