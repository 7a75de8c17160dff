"""Ledger: what everything cost, by factor, from what the stages counted.

Unit: FLOPs, 2 x parameters x tokens for a forward pass and 6 x for a training step (forward, and twice that for the
backward pass), as in Kaplan et al., "Scaling Laws for Neural Language Models" (arXiv 2001.08361, 2020), section 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORWARD = 2
TRAINING_STEP = 6

Metrics = Mapping[str, Any]


def training_flops(metrics: Metrics) -> float:
    """FLOPs of a stage that counts `parameters`, `forward_tokens` and `train_tokens`."""
    tokens = FORWARD * metrics["forward_tokens"] + TRAINING_STEP * metrics["train_tokens"]
    return float(metrics["parameters"] * tokens)


def generation_cost(
    labels: Metrics, warm_start: Metrics | None, reward: Metrics, adversary: Metrics | None, ppo: Metrics
) -> dict[str, float | int]:
    """One generation's cost by factor.

    PPO's prompts that are attacks are the adversary's extra rollouts: their share of PPO counts as robustness.
    """
    parameters = ppo["parameters"]
    share = ppo["attacks"] / ppo["prompts"] if ppo["prompts"] else 0.0
    ppo_flops = training_flops(ppo)
    reward_forward = float(FORWARD * ppo["reward_parameters"] * ppo["reward_tokens"])
    learning = training_flops(reward) + reward_forward + (training_flops(warm_start) if warm_start else 0.0)
    searching = float(FORWARD * parameters * adversary["tokens"]) if adversary else 0.0
    for source in (adversary or {}).get("by_source", {}).values():  # a model of its own that writes attacks
        searching += source.get("flops", 0.0)
    cost, episodes = labels["cost"], labels["labels"] + labels["unanswered"]
    for judging in (reward, adversary, ppo):
        if judging and "judge_cost" in judging:  # a program's label is its judgement: that reward stage asks nothing
            cost = {key: cost[key] + judging["judge_cost"][key] for key in cost}
            episodes += judging["judged"]
    asking = float(FORWARD * parameters * cost["tokens"])
    robustness = searching + share * ppo_flops
    return {
        "plain_rl_flops": (1 - share) * ppo_flops,
        "reward_learning_flops": learning,
        "robustness_flops": robustness,
        "amplified_episodes": episodes,
        "training_episodes": ppo["episodes"],
        "amplified_tokens_per_episode": cost["tokens"] / episodes,
        "amplified_tokens_per_episode_without_memo": (cost["tokens"] + cost["tokens_saved"]) / episodes,
        "agent_tokens_per_episode": ppo["tokens_per_episode"],
        "flops": ppo_flops + learning + searching + asking,
    }
