"""Rollout: answers that the policy gives to a batch of prompts, token by token, with their log-probabilities.

Rows are taken in parts of similar length and padded on the right, where a causal model does not look: no row waits for
the longest of its batch, and attention needs no mask. Logits are computed where an answer stands and nowhere else, and
what several answers to one prompt begin with goes through the model once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from distill.tree import Rows, Tree, rows_of, states_of, tree_of
from distill.weights import padded


class Distinct(NamedTuple):
    """Distinct answers, those to one prompt together: d of them.

    owners: the prompt of each; texts: token ids, without padding; which [m K]: which of all of them each answer is;
    places [m, K]: the same, counted from its prompt's first.
    """

    owners: list[int]
    texts: list[list[int]]
    which: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True)
class Rollout:
    """Episodes of one update: m prompts with K answers each, n = m K rows, R answer tokens at most.

    The answers to prompt i are rows i K to (i + 1) K. answers [n, R] are padded behind their end; mask [n, R] is True
    on answer tokens, the end included; logprobs [n, R] are those they were drawn with (at the sampling temperature) and
    values [n, R] the critic's, both 0 where masked; ended [n]: the answer has an end; version: updates that the policy
    which drew them had had; drift: how far a serving engine's log-probabilities were from the trainer's, in nats.
    """

    prompts: Sequence[Sequence[int]]
    answers: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor
    values: torch.Tensor
    ended: torch.Tensor
    version: int = 0
    drift: float = 0.0

    @property
    def each(self) -> int:
        """K, answers to a prompt."""
        return len(self.answers) // len(self.prompts)

    @cached_property
    def distinct(self) -> Distinct:
        """The answers without repetitions."""
        owners = torch.arange(len(self.prompts)).repeat_interleave(self.each)
        keyed = torch.cat([owners[:, None], self.mask.sum(1)[:, None], self.answers], dim=1)
        rows, index = torch.unique(keyed, dim=0, return_inverse=True)
        begins = torch.searchsorted(rows[:, 0].contiguous(), torch.arange(len(self.prompts)))
        texts = [row[2 : 2 + row[1]] for row in rows.tolist()]
        return Distinct(rows[:, 0].tolist(), texts, index, index.view(len(self.prompts), -1) - begins[:, None])

    @cached_property
    def trees(self) -> list[Tree]:
        """The tree of each prompt's distinct answers."""
        owned: list[list[list[int]]] = [[] for _ in self.prompts]
        for owner, text in zip(self.distinct.owners, self.distinct.texts, strict=True):
            owned[owner].append(text)
        return [tree_of(texts) for texts in owned]

    def rows_of(self, prompts: Sequence[int]) -> torch.Tensor:
        """The rows of the answers to some prompts, [len(prompts) K]."""
        return (torch.tensor(prompts, dtype=torch.long)[:, None] * self.each + torch.arange(self.each)).flatten()

    def batch(self, prompts: Sequence[int], pad: int) -> tuple[Rows, torch.Tensor]:
        """Some prompts with their answers, and the state [m, K, R] that predicts each token of each answer."""
        trees, places = [self.trees[i] for i in prompts], self.distinct.places[list(prompts)]
        rows = rows_of([self.prompts[i] for i in prompts], trees, pad)
        return rows, states_of(trees, places, self.answers.shape[1])

    def tokens(self, among: Sequence[int] | None = None) -> int:
        """Tokens that go through a model where all prompts, or some of them, do with their answers."""
        places = range(len(self.prompts)) if among is None else among
        return sum(len(self.prompts[place]) + len(self.trees[place].tokens) for place in places)


def parts(lengths: Sequence[int], size: int, among: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Places of rows of similar length, at most `size` together; `among`: of these places only."""
    order = sorted(range(len(lengths)) if among is None else among, key=lambda place: (lengths[place], place))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def uniform(rows: int, steps: int, seed: int) -> torch.Tensor:
    """Numbers [rows, steps] drawn evenly from [0, 1)."""
    return torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kept_positions(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct positions, for a model's `logits_to_keep`, and where among them each of `positions` [n, R] is."""
    columns, where = torch.unique(positions, return_inverse=True)
    return columns, where


def gathered(logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """[n, columns, vocabulary] at `where` [n, R] -> [n, R, vocabulary], in single precision."""
    return logits[torch.arange(len(logits), device=logits.device)[:, None], where].float()


def at_positions(model: Any, ids: torch.Tensor, positions: torch.Tensor, **extra: torch.Tensor) -> torch.Tensor:
    """Logits [n, R, vocabulary] of `model` for `ids` [n, T] at `positions` [n, R]; `extra` as in `distill.tree`."""
    columns, where = kept_positions(positions)
    return gathered(model(input_ids=ids, use_cache=False, logits_to_keep=columns, **extra).logits, where)


class Chosen(NamedTuple):
    """Of answers: log-probabilities and entropies in nats at each token, both [m K, R]."""

    logprobs: torch.Tensor
    entropy: torch.Tensor


def chosen(logits: torch.Tensor, states: torch.Tensor, answers: torch.Tensor, temperature: float) -> Chosen:
    """Of `answers` [m K, R], from the logits [m, S, vocabulary] of the `states` [m, K, R] that predict them."""
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    rows = torch.arange(len(logits), device=logits.device)[:, None, None]
    found = logprobs[rows, states, answers.view(states.shape)], entropy[rows, states]
    return Chosen(*(each.reshape(answers.shape) for each in found))


@torch.no_grad()
def roll_out(
    model: Any,
    prompts: Sequence[Sequence[int]],
    draws: torch.Tensor,
    temperature: float,
    end: int,
    pad: int,
    size: int,
    together: bool = False,
) -> Rollout:
    """Draw answers to each prompt from transformers' own forward pass, with a cache of keys and values.

    model: an `ActorCritic`, whose values of the states that the answers are drawn in come with them.
    draws: even draws [n, R] from [0, 1), K rows for each prompt. Every answer depends on its row's numbers alone, so
    neither the parts nor the number of processes that share a batch change what is drawn. A temperature of 0 takes the
    likeliest token whatever is drawn. together: other processes go through the model with this one, so every part takes
    all R steps.
    """
    each, longest = len(draws) // len(prompts), draws.shape[1]
    answers = torch.full(draws.shape, pad)
    mask = torch.zeros(draws.shape, dtype=torch.bool)
    logprobs, values = torch.zeros(draws.shape), torch.zeros(draws.shape)
    rows = torch.arange(len(draws)).view(len(prompts), each)
    for part in parts([len(prompt) for prompt in prompts], size):
        places = rows[part].flatten()
        stem = _Stem(model, [prompts[i] for i in part], pad, cached=longest > 1)
        found = _drawn(stem, draws[places], temperature, end, pad, together)
        answers[places], mask[places], logprobs[places], values[places] = found
    ended = ((answers == end) & mask).any(dim=1)
    return Rollout(prompts, answers, mask, logprobs, values, ended)


class _Stem:
    """What answers have begun with so far, at first the prompts alone: a row for each distinct beginning."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int, cached: bool) -> None:
        self.model, self.device = model, next(model.parameters()).device
        self.lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = padded(prompts, pad).to(self.device)
        self.seen = (torch.arange(ids.shape[1]) < self.lengths[:, None]).long()
        logits, values, *kept = model(ids, (self.lengths - 1)[:, None].to(self.device), use_cache=cached)
        self.logits, self.values, self.kept = logits[:, 0].float().cpu(), values[:, 0].cpu(), kept

    def grow(self, parents: torch.Tensor, tokens: torch.Tensor) -> None:
        """Beginnings that are one token longer: `tokens` [s] behind the present ones `parents` [s]."""
        cache = self.kept[0]
        if not torch.equal(parents, torch.arange(len(self.lengths))):
            cache.batch_select_indices(parents.to(self.device))
        # The padding between a prompt and its answer must not be looked at from behind it.
        self.seen = torch.cat([self.seen[parents], torch.ones(len(parents), 1, dtype=torch.long)], dim=1)
        positions, self.lengths = self.lengths[parents], self.lengths[parents] + 1
        logits, values, *self.kept = self.model(
            tokens[:, None].to(self.device),
            torch.zeros(len(tokens), 1, dtype=torch.long, device=self.device),
            past_key_values=cache,
            attention_mask=self.seen.to(self.device),
            position_ids=positions[:, None].to(self.device),
            use_cache=True,
        )
        self.logits, self.values = logits[:, 0].float().cpu(), values[:, 0].cpu()


def _drawn(
    stem: _Stem, draws: torch.Tensor, temperature: float, end: int, pad: int, together: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Answers, mask, log-probabilities and values [n, R] of one part."""
    rows, longest = draws.shape
    state = torch.arange(len(stem.lengths)).repeat_interleave(rows // len(stem.lengths))
    running = torch.ones(rows, dtype=torch.bool)
    answers, mask = torch.full(draws.shape, pad), torch.zeros(draws.shape, dtype=torch.bool)
    logprobs, values = torch.zeros(draws.shape), torch.zeros(draws.shape)
    for step in range(longest):
        scaled = torch.log_softmax(stem.logits / (temperature or 1.0), dim=-1)
        token = _tokens(scaled, state, draws[:, step]) if temperature else scaled.argmax(dim=-1)[state]
        answers[:, step], mask[:, step] = torch.where(running, token, pad), running
        logprobs[:, step] = torch.where(running, scaled[state, token], 0.0)
        values[:, step] = torch.where(running, stem.values[state], 0.0)
        running = running & (token != end)
        if step + 1 == longest or not (together or running.any()):
            break
        vocabulary = scaled.shape[1]
        # Processes that gather weights for each other have to come here as often, if only with one row for nothing.
        begun = (state * vocabulary + token)[running] if running.any() else torch.zeros(1, dtype=torch.long)
        distinct, place = torch.unique(begun, return_inverse=True)
        stem.grow(distinct // vocabulary, distinct % vocabulary)
        state = torch.zeros(rows, dtype=torch.long)
        if running.any():
            state[running] = place
    return answers, mask, logprobs, values


def _tokens(logprobs: torch.Tensor, state: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The token that each draw [n] falls on in its state's [n] distribution [s, vocabulary] (inverse transform)."""
    summed = logprobs.double().exp().cumsum(dim=-1)
    order = torch.argsort(state, stable=True)
    counts = torch.bincount(state, minlength=len(summed))
    column = torch.arange(len(state)) - (counts.cumsum(0) - counts)[state[order]]
    level = torch.zeros(len(summed), int(counts.max()), dtype=torch.float64)
    level[state[order], column] = draws[order] * summed[state[order], -1]
    found = torch.searchsorted(summed, level, right=True).clamp(max=summed.shape[1] - 1)
    tokens = torch.empty_like(state)
    tokens[order] = found[state[order], column]
    return tokens
