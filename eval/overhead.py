"""What distillation and amplification cost beyond plain RL: the source's factors F1 to F4.

Source: P. Christiano, "Benign model-free RL" (2017), section on cost. Unit: FLOPs, or tokens where only a ratio of
the same model's tokens is needed. A ratio without a denominator (no PPO episode, say) is None, never a number, and so
is what rests on the tokens of a model whose size nobody told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class GenerationCost(BaseModel):
    """What the ledger wrote about one generation.

    plain_rl_flops: PPO as it would be with a free reward (rollouts; policy, critic and reference model);
    reward_learning_flops: labels' training, reward-model forwards in PPO, warm start; robustness_flops: the adversary
    and its extra rollouts; once_flops: the part of these two that does not grow with the training episodes;
    amplified_episodes: episodes of H^A asked for labels; training_episodes: episodes A was trained on; tokens per
    episode: prompt and completion tokens through the agent's model, and of H's own model as many of the agent's as cost
    the same; unpriced_overseer_tokens: those of models whose size nobody told, which are in no other number; flops: all
    of it together.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)  # the ledger may note more than the factors need

    plain_rl_flops: float = Field(ge=0)
    reward_learning_flops: float = Field(ge=0)
    robustness_flops: float = Field(ge=0)
    once_flops: float | None = Field(default=None, ge=0)
    amplified_episodes: int = Field(ge=0)
    training_episodes: int = Field(ge=0)
    amplified_tokens_per_episode: float = Field(ge=0)
    amplified_tokens_per_episode_without_memo: float = Field(ge=0)
    overseer_tokens_per_episode: float = Field(default=0.0, ge=0)
    overseer_tokens_per_episode_without_memo: float = Field(default=0.0, ge=0)
    unpriced_overseer_tokens: int = Field(default=0, ge=0)
    agent_tokens_per_episode: float = Field(ge=0)
    flops: float = Field(ge=0)


@dataclass(frozen=True)
class Factors:
    """F1: reward learning and robustness over plain RL; F2: amplified over training episodes; F3: cost of an
    amplified over that of an agent's episode; total: F1 + F2 x F3. All are shares (0.2 is 20%), except F3.
    """

    f1: float | None
    f2: float | None
    f3: float | None
    f3_without_memo: float | None
    total: float | None
    total_without_memo: float | None


@dataclass(frozen=True)
class Overhead:
    """One entry a generation, the factors of the run as a whole, and F4: cost of all generations over the last's."""

    generations: tuple[Factors, ...]
    run: Factors
    f4: float | None


def overhead(costs: Sequence[GenerationCost | Mapping[str, float]]) -> Overhead:
    """F1 to F4 and the totals. The run's own factors are taken over sums, so a long generation weighs more.

    The run's F3 weighs each generation's episodes, so that F2 x F3 is the amplified episodes' tokens over the
    training episodes' tokens, for the run as for a generation. Raises pydantic's ValidationError on a missing or
    negative entry.
    """
    read = [GenerationCost.model_validate(cost) for cost in costs]
    f4 = None if _unpriced(read) else _ratio(sum(cost.flops for cost in read), read[-1].flops if read else 0.0)
    return Overhead(tuple(_factors([cost]) for cost in read), _factors(read), f4)


def _factors(costs: Sequence[GenerationCost]) -> Factors:
    extra = sum(cost.reward_learning_flops + cost.robustness_flops for cost in costs)
    f1 = _ratio(extra, sum(cost.plain_rl_flops for cost in costs))
    asked, trained = sum(cost.amplified_episodes for cost in costs), sum(cost.training_episodes for cost in costs)
    f2 = _ratio(asked, trained)
    agent = _ratio(sum(cost.training_episodes * cost.agent_tokens_per_episode for cost in costs), trained)
    f3 = f3_without_memo = None
    if not _unpriced(costs):
        with_memo = _ratio(sum(c.amplified_episodes * _amplified(c) for c in costs), asked)
        without_memo = _ratio(sum(c.amplified_episodes * _amplified_without_memo(c) for c in costs), asked)
        f3, f3_without_memo = _ratio(with_memo or 0.0, agent or 0.0), _ratio(without_memo or 0.0, agent or 0.0)
    return Factors(f1, f2, f3, f3_without_memo, _total(f1, f2, f3), _total(f1, f2, f3_without_memo))


def _unpriced(costs: Sequence[GenerationCost]) -> bool:
    return any(cost.unpriced_overseer_tokens for cost in costs)


def _amplified(cost: GenerationCost) -> float:
    """Tokens of one amplified episode, those of H's own model as many of the agent's as cost the same."""
    return cost.amplified_tokens_per_episode + cost.overseer_tokens_per_episode


def _amplified_without_memo(cost: GenerationCost) -> float:
    return cost.amplified_tokens_per_episode_without_memo + cost.overseer_tokens_per_episode_without_memo


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def _total(f1: float | None, f2: float | None, f3: float | None) -> float | None:
    return None if f1 is None or f2 is None or f3 is None else f1 + f2 * f3
