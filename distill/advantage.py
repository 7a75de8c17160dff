"""What PPO computes between sampling and learning: rewards, advantages, clipped losses, the weight of the KL penalty.

Sources: Schulman et al., "High-dimensional continuous control using generalized advantage estimation" (arXiv
1506.02438, 2015) and "Proximal policy optimization algorithms" (arXiv 1707.06347, 2017); Ziegler et al., "Fine-tuning
language models from human preferences" (arXiv 1909.08593, 2019) for the KL penalty and its controller. Conventions are
TRL's, except that an episode's score is given at its last token and never behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

# How much the controller moves the KL coefficient at most, as a share for each horizon of episodes.
MOST_CHANGE = 0.2

# Adds up a tensor over all processes.
Total = Callable[[torch.Tensor], torch.Tensor]


def kl_of(logprobs: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """Estimates [n, R] of the KL divergence from the reference at each token, in nats.

    k1: log-ratio, unbiased. k3: unbiased with less variance, never negative.
    Source: J. Schulman, "Approximating KL divergence" (2020).
    """
    ratio = reference - logprobs
    return -ratio if estimator == "k1" else ratio.exp() - 1 - ratio


def rewards_of(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, coefficient: float) -> torch.Tensor:
    """Rewards [n, R]: the KL penalty at each token, and each episode's score [n] at its last one."""
    rewards = torch.where(mask, -coefficient * kl, 0.0)
    last = mask.sum(dim=1) - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def advantages_of(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> torch.Tensor:
    """Generalized advantage estimates [n, R]; values [n, R] count as 0 behind an episode's last token."""
    values = torch.where(mask, values, 0.0)
    advantage, after = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    found = []
    for step in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, step] + gamma * after - values[:, step]
        advantage = torch.where(mask[:, step], delta + gamma * lam * advantage, 0.0)
        after = values[:, step]
        found.append(advantage)
    return torch.stack(found[::-1], dim=1)


def among_answers(earned: torch.Tensor, good: torch.Tensor, each: int) -> torch.Tensor:
    """Advantages [m K] of K = `each` answers to each of m prompts, without a critic.

    What an answer earned [m K] less the mean of its prompt's answers, over the share of them that are `good` [m K]
    (at least 1 / K). The mean as a baseline is that of RLOO (Ahmadian et al., arXiv 2402.14740, 2024) and GRPO (Shao
    et al., arXiv 2402.03300, 2024). The divisor makes the expected step that of log p instead of p, with p the chance
    of a good answer and rewards of 1 and -1: grad log p = grad p / p. So a prompt of which one answer in many is good
    teaches as much as under supervision, and a prompt without good answers hardly anything; with GRPO's divisor, the
    standard deviation, or without one, levels that are rarely answered well were not learned (docs/log.md).
    """
    earned = earned.view(-1, each)
    share = good.view(-1, each).float().mean(1, keepdim=True).clamp(min=1 / each)
    return ((earned - earned.mean(1, keepdim=True)) / share).flatten()


def whitened(values: torch.Tensor, mask: torch.Tensor, total: Total) -> torch.Tensor:
    """Values with mean 0 and variance 1 over the masked-in places of all processes; 0 elsewhere."""
    count = total(mask.sum().float())
    mean = total((values * mask).sum()) / count
    variance = total(((values - mean).square() * mask).sum()) / (count - 1).clamp(min=1)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + 1e-8), 0.0)


def policy_losses(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """Clipped surrogate loss [n, R] of the probability ratios new/old."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def value_losses(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error [n, R], of the prediction or of the one clipped near the old one, whichever is larger."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


class KLController:
    """The weight of the KL penalty: fixed, or moved so that the KL comes to `target` nats an episode."""

    def __init__(self, coefficient: float, target: float | None, horizon: int) -> None:
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def observe(self, kl: float, episodes: int) -> None:
        """After so many episodes with this mean KL."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -MOST_CHANGE), MOST_CHANGE)
            self.coefficient *= 1 + error * episodes / self.horizon


class Throttle:
    """A hard bound on the KL from the reference: weights that went beyond it are put back to the last ones within."""

    def __init__(self, most: float | None) -> None:
        self.most = most  # nats an episode; None: no bound
        self.within: list[torch.Tensor] = []  # the last weights that were found to be; training begins with such

    @torch.no_grad()
    def begin(self, trained: Sequence[torch.Tensor]) -> None:
        """These weights are the reference's, unless the training carries on and there are others that are within."""
        if self.most is not None and not self.within:
            self.within = [parameter.clone() for parameter in trained]

    @torch.no_grad()
    def passed(self, kl: float, trained: Sequence[torch.Tensor]) -> bool:
        """Whether weights with this mean KL are beyond the bound; those that are not are remembered."""
        if self.most is None:
            return False
        if kl <= self.most:
            self.within = [parameter.clone() for parameter in trained]
            return False
        for parameter, kept in zip(trained, self.within, strict=True):
            parameter.copy_(kept)
        return True
