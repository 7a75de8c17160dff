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

# What a cost of H^A holds; a stage that was done by an older version lacks some, and then there was none of it.
ASKED = (
    "tokens",
    "tokens_saved",
    "overseer_work",
    "overseer_work_saved",
    "overseer_unpriced",
)


def training_flops(metrics: Metrics) -> float:
    """FLOPs of a stage that counts `parameters`, `forward_tokens` and `train_tokens`."""
    tokens = FORWARD * metrics["forward_tokens"] + TRAINING_STEP * metrics["train_tokens"]
    return float(metrics["parameters"] * tokens)


def generation_cost(
    labels: Metrics, warm_start: Metrics | None, reward: Metrics, adversary: Metrics | None, ppo: Metrics
) -> dict[str, float | int]:
    """One generation's cost by factor, from the metrics of its stages.

    PPO's prompts that are attacks are the adversary's extra rollouts: their share of its tokens counts as robustness.
    So does what the agent says where it is compared with the one that PPO began with (`kept_tokens`). The agent's own
    answers that the reward model's pairs hold (`own_tokens`) count as reward learning.
    What H's own model used is given in tokens of the agent's model: as many as cost the same.
    """
    parameters = ppo["parameters"]
    share = ppo["attack_share"]
    ppo_flops = training_flops(ppo)
    learning = (
        training_flops(reward)
        + forward_flops(ppo["reward_parameters"], ppo["reward_tokens"])
        + forward_flops(parameters, reward.get("own_tokens", 0))
        + (training_flops(warm_start) if warm_start else 0.0)
        # What chose the questions: a learner and its reward models, trained and asked.
        + sum(training_flops(each) for each in labels.get("selection", {}).get("learning", ()))
    )
    searching = forward_flops(parameters, ppo.get("kept_tokens", 0))
    if adversary:
        searching += forward_flops(parameters, adversary["tokens"])
        searching += forward_flops(ppo["reward_parameters"], adversary.get("scored_tokens", 0))
        # A model of its own that writes attacks.
        searching += sum(source.get("flops", 0.0) for source in adversary.get("by_source", {}).values())
    asked, episodes = _asked(labels, reward, adversary, ppo)
    tokens, work = asked["tokens"], asked["overseer_work"]
    saved, work_saved = asked["tokens_saved"], asked["overseer_work_saved"]

    def each(total: float) -> float:
        return total / episodes if episodes else 0.0

    return {
        "plain_rl_flops": (1 - share) * ppo_flops,
        "reward_learning_flops": learning,
        "robustness_flops": searching + share * ppo_flops,
        "once_flops": learning + searching - forward_flops(ppo["reward_parameters"], ppo["reward_tokens"]),
        "amplified_episodes": episodes,
        "training_episodes": ppo["episodes"],
        "amplified_tokens_per_episode": each(tokens),
        "amplified_tokens_per_episode_without_memo": each(tokens + saved),
        "overseer_tokens_per_episode": each(work / parameters),
        "overseer_tokens_per_episode_without_memo": each((work + work_saved) / parameters),
        "unpriced_overseer_tokens": asked["overseer_unpriced"],
        "agent_tokens_per_episode": ppo["tokens_per_episode"],
        "flops": ppo_flops + learning + searching + forward_flops(parameters, tokens) + FORWARD * work,
    }


def forward_flops(parameters: int, tokens: float) -> float:
    """FLOPs of so many tokens' forward pass."""
    return float(FORWARD * parameters * tokens)


def _asked(labels: Metrics, *judging: Metrics | None) -> tuple[dict[str, int], int]:
    """What all stages together asked of H^A, and in how many episodes.

    A program's label is its judgement: that reward stage asks nothing.
    """
    costs, episodes = [labels["cost"]], labels["labels"] + labels["unanswered"]
    for stage in judging:
        if stage and "judge_cost" in stage:
            costs.append(stage["judge_cost"])
            episodes += stage["judged"]
    return {key: sum(cost.get(key, 0) for cost in costs) for key in ASKED}, episodes
