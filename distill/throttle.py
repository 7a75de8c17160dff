"""Throttle: a bound on how far one round takes the agent from the one before it, whatever trained it in between.

PPO's own throttle (distill.ppo.max_kl) ends a training before it goes too far; this one bounds the whole round, its
warm start included. An agent beyond the bound is put back on the straight line to the agent before, as far along as
the bound allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from distill.averaging import move
from distill.config import AdapterConfig
from distill.optimizer import trainable
from distill.rollout import at_states, ends_of, parts
from distill.utilisation import device
from distill.weights import load_policy, load_tokenizer, padded, prompt_ids, quiet, save_policy

# Halvings of the interval in which the share lies: to about a hundredth of the way.
HALVINGS = 6
PART = 64


class Throttled(NamedTuple):
    """Nats an episode before and after, the share of the way that was kept, and tokens that measuring it took."""

    kl_wanted: float
    kl: float
    share: float
    tokens: int


@torch.no_grad()
def divergence(
    model: Any, reference: Any, prompts: Sequence[Sequence[int]], end: int, pad: int, most: int
) -> tuple[float, int]:
    """Mean KL(model | reference) in nats an episode, and the tokens that went through the two.

    Exact at each token, along the model's likeliest answers of at most `most` tokens, their end included.
    """
    total, tokens = 0.0, 0
    for part in parts([len(prompt) for prompt in prompts], PART):
        rows = [list(prompts[place]) for place in part]
        running = torch.ones(len(rows), dtype=torch.bool)
        for _ in range(most):
            ids = padded(rows, pad)
            ends = ends_of(ids, torch.tensor([len(row) for row in rows]))
            mine, theirs = (
                torch.log_softmax(at_states(one, ids.to(one.device), ends.to(one.device)), dim=-1).cpu()
                for one in (model, reference)
            )
            apart = (mine.exp() * (mine - theirs)).sum(dim=-1)
            total += float(apart[running].sum())
            tokens += 2 * sum(map(len, rows))
            said = mine.argmax(dim=-1)
            running &= said != end
            rows = [[*row, int(token)] for row, token in zip(rows, said, strict=True)]
    return total / len(prompts), tokens


def bound_step(
    base: Path,
    before: Path | None,
    after: Path,
    questions: Sequence[str],
    most_kl: float,
    settings: AdapterConfig,
    answer_tokens: int,
) -> Throttled:
    """Rewrite the agent in `after` so that it is at most `most_kl` nats an episode from `before` on `questions`.

    An agent within the bound is left as it is. The KL is that of the published agent on exactly these questions.
    """
    with quiet():
        tokenizer = load_tokenizer(base)
        prompts = prompt_ids(tokenizer, questions)
        reference, wanted = (
            load_policy(base, agent, settings, seed=0).eval().to(device()) for agent in (before, after)
        )
        model: Any = load_policy(base, after, settings, seed=0).eval().to(device())
        used = 0

        def apart() -> float:
            nonlocal used
            end, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
            found, tokens = divergence(model, reference, prompts, end, pad, answer_tokens + 1)
            used += tokens
            return found

        def go(share: float) -> float:
            for mine, start in zip(trainable(model), trainable(reference), strict=True):
                mine.data.copy_(start.data)
            move(model, trainable(wanted), share)
            return apart()

        found = apart()
        if found <= most_kl:
            return Throttled(found, found, 1.0, used)
        low, high, kl = 0.0, 1.0, 0.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            there = go(middle)
            low, high, kl = (middle, high, there) if there <= most_kl else (low, middle, kl)
        go(low)
        save_policy(model, base, settings, after)
    return Throttled(found, kl, low, used)
