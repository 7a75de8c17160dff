"""Rollout: answers that the policy gives to a batch of prompts, token by token, with their log-probabilities.

Rows are taken in parts of similar length and padded on the right, where a causal model does not look: no row waits for
the longest of its batch, and attention needs no mask. Logits are computed where an answer stands and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distill.weights import padded


@dataclass(frozen=True)
class Rollout:
    """Episodes of one update: n rows, R answer tokens at most.

    answers [n, R] are padded behind their end; mask [n, R] is True on answer tokens, the end included; logprobs [n, R]
    are those they were drawn with (at the sampling temperature) and values [n, R] the critic's, both 0 where masked;
    ended [n]: the answer has an end; version: updates that the policy which drew them had had; drift: how far a
    serving engine's log-probabilities were from the trainer's, in nats.
    """

    prompts: Sequence[Sequence[int]]
    answers: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor
    values: torch.Tensor
    ended: torch.Tensor
    version: int = 0
    drift: float = 0.0

    def rows(self) -> list[list[int]]:
        """Token ids of each prompt with its answer, without padding."""
        kept = [answer[keep].tolist() for answer, keep in zip(self.answers, self.mask, strict=True)]
        return [[*prompt, *answer] for prompt, answer in zip(self.prompts, kept, strict=True)]

    def tokens(self) -> int:
        """Tokens of all prompts and answers."""
        return sum(map(len, self.prompts)) + int(self.mask.sum())


def parts(lengths: Sequence[int], size: int, among: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Places of rows of similar length, at most `size` together; `among`: of these places only."""
    order = sorted(range(len(lengths)) if among is None else among, key=lambda place: (lengths[place], place))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def gumbel(rows: int, vocabulary: int, seed: int) -> torch.Tensor:
    """Noise [rows, vocabulary] that makes the largest noisy logit a draw (E. J. Gumbel, 1954)."""
    stream = torch.Generator().manual_seed(seed)
    return -torch.empty(rows, vocabulary).exponential_(generator=stream).log()


def kept_positions(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct positions, for a model's `logits_to_keep`, and where among them each of `positions` [n, R] is."""
    columns, where = torch.unique(positions, return_inverse=True)
    return columns, where


def gathered(logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """[n, columns, vocabulary] at `where` [n, R] -> [n, R, vocabulary], in single precision."""
    return logits[torch.arange(len(logits), device=logits.device)[:, None], where].float()


def at_positions(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits [n, R, vocabulary] of `model` for `ids` [n, T] at `positions` [n, R]. No mask: padding is on the right."""
    columns, where = kept_positions(positions)
    return gathered(model(input_ids=ids, use_cache=False, logits_to_keep=columns).logits, where)


def answer_positions(prompts: Sequence[Sequence[int]], answers: int) -> torch.Tensor:
    """Positions [n, R] that predict the answer's tokens: the prompt's last token and those after it."""
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    return last[:, None] + torch.arange(answers)


def chosen(logits: torch.Tensor, answers: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [n, R] of `answers` and entropies [n, R] in nats, of the distribution at `temperature`."""
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(-1, answers.unsqueeze(-1)).squeeze(-1), entropy


@torch.no_grad()
def roll_out(
    model: Any,
    prompts: Sequence[Sequence[int]],
    noise: Sequence[torch.Tensor],
    temperature: float,
    end: int,
    pad: int,
    size: int,
) -> Rollout:
    """Draw an answer to each prompt from transformers' own forward pass, with a cache of keys and values.

    model: an `ActorCritic`, whose values of the states that the answers are drawn in come with them.
    noise: Gumbel noise [n, vocabulary] for each answer token, R in all. Every draw depends on its row's noise alone,
    so neither the parts nor the number of processes that share a batch change what is drawn.
    """
    n, longest = len(prompts), len(noise)
    answers = torch.full((n, longest), pad)
    mask = torch.zeros(n, longest, dtype=torch.bool)
    logprobs, values = torch.zeros(n, longest), torch.zeros(n, longest)
    for part in parts([len(prompt) for prompt in prompts], size):
        drawn = _draw(model, [prompts[i] for i in part], [each[part] for each in noise], temperature, end, pad)
        answers[part], mask[part], logprobs[part], values[part] = drawn
    ended = ((answers == end) & mask).any(dim=1)
    return Rollout(prompts, answers, mask, logprobs, values, ended)


def _draw(
    model: Any,
    prompts: Sequence[Sequence[int]],
    noise: Sequence[torch.Tensor],
    temperature: float,
    end: int,
    pad: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Answers, mask, log-probabilities and values [n, R] of one part."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = padded(prompts, pad).to(device)
    seen = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(device)
    logits, states, *kept = model(ids, (lengths - 1)[:, None].to(device), use_cache=len(noise) > 1)
    running = torch.ones(len(prompts), dtype=torch.bool)
    drawn: list[tuple[torch.Tensor, ...]] = []
    for step, each in enumerate(noise):
        scaled = torch.log_softmax(logits[:, 0].float().cpu() / temperature, dim=-1)
        token = torch.where(running, (scaled + each).argmax(dim=-1), pad)
        logprob = scaled.gather(-1, token[:, None]).squeeze(-1)
        value = states[:, 0].cpu()
        drawn.append((token, running, torch.where(running, logprob, 0.0), torch.where(running, value, 0.0)))
        running = running & (token != end)
        if step + 1 == len(noise):
            break
        # The padding between a prompt and its answer must not be looked at from behind it.
        seen = torch.cat([seen, torch.ones(len(prompts), 1, dtype=seen.dtype, device=device)], dim=1)
        logits, states, *kept = model(
            token[:, None].to(device),
            torch.zeros(len(prompts), 1, dtype=torch.long, device=device),
            past_key_values=kept[0],
            attention_mask=seen,
            position_ids=(lengths + step)[:, None].to(device),
            use_cache=True,
        )
    answers, masks, logprobs, values = (torch.stack(each, dim=1) for each in zip(*drawn, strict=True))
    return answers, masks, logprobs, values
