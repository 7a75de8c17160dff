"""Results: what the stages of a generation measured, as the evaluator's report reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.ledger import forward_flops, generation_cost

Metrics = Mapping[str, Any]

# What a mean is over, where adding up would mean nothing.
MEANS = {
    "amplified_tokens_per_episode": "amplified_episodes",
    "amplified_tokens_per_episode_without_memo": "amplified_episodes",
    "overseer_tokens_per_episode": "amplified_episodes",
    "overseer_tokens_per_episode_without_memo": "amplified_episodes",
    "agent_tokens_per_episode": "training_episodes",
}


def generation_result(
    n: int, seconds: float, evaluation: Metrics, turns: Sequence[Mapping[str, Metrics]]
) -> dict[str, Any]:
    """One generation's results. `turns`: each turn's metrics by stage, one turn or, in the collapsed scheme, a level's
    rounds, of which the last tells how far training came."""
    last = turns[-1]
    asked = [metrics["labels"]["cost"] for metrics in turns]
    calls = {"overseer": "overseer_steps", "agent": "calls", "memo_hits": "memo_hits"}
    return {
        "n": n,
        "seconds": seconds,
        "ladder": evaluation["ladder"],
        "robustness": evaluation["robustness"],
        "calls": {name: sum(cost[key] for cost in asked) for name, key in calls.items()},
        "costs": added([_cost(metrics) for metrics in turns]),
        "reward_model": last["reward"],
        "adversary": last.get("adversary", {}),
        "ppo": last["agent"],
        "warm_start": last.get("warm_start", {}),
    }


def added(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The cost of several turns as that of one generation: sums, and means over the episodes that they are per."""
    total: dict[str, float] = {}
    for key in costs[0]:
        if key in MEANS:
            count = sum(cost[MEANS[key]] for cost in costs)
            total[key] = sum(cost[key] * cost[MEANS[key]] for cost in costs) / count if count else 0.0
        else:
            total[key] = sum(cost[key] for cost in costs)
    return total


def _cost(metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """One turn's cost by factor. What a throttle or the copy's agreement with H^A took to measure is robustness."""
    agent = metrics["agent"]
    cost: dict[str, float] = dict(
        generation_cost(
            metrics["labels"], metrics.get("warm_start"), metrics["reward"], metrics.get("adversary"), agent
        )
    )
    tokens = agent.get("throttle", {}).get("tokens", 0) + metrics.get("copy", {}).get("tokens", 0)
    measuring = forward_flops(agent["parameters"], tokens)
    return cost | {key: cost[key] + measuring for key in ("robustness_flops", "once_flops", "flops")}
