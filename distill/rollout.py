"""Rollout: answers that the policy gives to a batch of prompts, token by token, with their log-probabilities.

Prompts share the rows of a batch (`distill.tree`), so that none waits for the longest. Logits are computed where an
answer stands and nowhere else, and what several answers to one prompt begin with goes through the model once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from distill.tree import Rows, Tree, rows_of, states_of, tree_of

# Each prompt's answer that the policy is shown, as token ids with the end, or None.
Shown = Sequence[Sequence[int] | None]
# In place of a token that is shown: one that is drawn.
DRAWN = -1


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
    values [n, R] the critic's, both 0 where masked; ended [n]: the answer has an end; own [n]: the policy drew it, and
    it was not shown; version: updates that the policy which drew them had had; drift: how far a serving engine's
    log-probabilities were from the trainer's, in nats.
    """

    prompts: Sequence[Sequence[int]]
    answers: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor
    values: torch.Tensor
    ended: torch.Tensor
    own: torch.Tensor
    version: int = 0
    drift: float = 0.0

    @property
    def each(self) -> int:
        """K, answers to a prompt."""
        return len(self.answers) // len(self.prompts)

    @property
    def drawn(self) -> torch.Tensor:
        """[n, R], True on tokens that the policy drew."""
        return self.mask & self.own[:, None]

    @cached_property
    def distinct(self) -> Distinct:
        """The answers without repetitions."""
        owners = torch.arange(len(self.prompts)).repeat_interleave(self.each)
        # Numbers for what is alike so far, token by token: numbers are sorted faster than rows. 0 is no token.
        index, tokens = owners, torch.where(self.mask, self.answers + 1, 0)
        for column in tokens.T:
            index = torch.unique(index * (int(tokens.max()) + 1) + column, return_inverse=True)[1]
        some = torch.empty(int(index.max()) + 1, dtype=torch.long)
        some[index] = torch.arange(len(index))
        begins = torch.searchsorted(owners[some], torch.arange(len(self.prompts)))
        lengths = self.mask[some].sum(1).tolist()
        texts = [row[:length] for row, length in zip(self.answers[some].tolist(), lengths, strict=True)]
        return Distinct(owners[some].tolist(), texts, index, index.view(len(self.prompts), -1) - begins[:, None])

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
        """Some prompts with their answers, and which state predicts each token of each answer, [m, K, R]."""
        key = tuple(prompts)
        if key not in self._batches:  # the policy often sees the same ones as the reference
            trees, places = [self.trees[i] for i in prompts], self.distinct.places[list(prompts)]
            rows = rows_of([self.prompts[i] for i in prompts], trees, pad)
            self._batches[key] = rows, states_of(trees, places, self.answers.shape[1])
        return self._batches[key]

    @cached_property
    def _batches(self) -> dict[tuple[int, ...], tuple[Rows, torch.Tensor]]:
        return {}

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


def ends_of(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Where the last tokens of rows of these `lengths` [n] stand, as places in ids.flatten()."""
    return torch.arange(len(ids)) * ids.shape[1] + lengths - 1


def kept_columns(states: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns of rows of `width` that `states` [S] stand in, for a model's `logits_to_keep`, and the states' places
    in what is left of the rows."""
    columns, where = torch.unique(states % width, return_inverse=True)
    return columns, states // width * len(columns) + where


def at_states(model: Any, ids: torch.Tensor, states: torch.Tensor, **extra: torch.Tensor) -> torch.Tensor:
    """Logits [S, vocabulary] of `model` for `ids` [r, T] at `states` [S], in single precision, as in `distill.tree`."""
    columns, where = kept_columns(states, ids.shape[1])
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=columns, **extra).logits
    return logits.flatten(0, 1)[where].float()  # type: ignore[no-any-return]


class Chosen(NamedTuple):
    """Of answers: log-probabilities and entropies in nats at each token, both [m K, R]."""

    logprobs: torch.Tensor
    entropy: torch.Tensor


def chosen(logits: torch.Tensor, states: torch.Tensor, answers: torch.Tensor, temperature: float) -> Chosen:
    """Of `answers` [m K, R], from logits [S, vocabulary] of all states, of which `states` [m, K, R] predict them."""
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    found = logprobs[states, answers.view(states.shape)], entropy[states]
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
    shown: Shown | None = None,
) -> Rollout:
    """Draw answers to each prompt from transformers' own forward pass, with a cache of keys and values.

    model: an `ActorCritic`, whose values of the states that the answers are drawn in come with them.
    draws: even draws [n, R] from [0, 1), K rows for each prompt. Every answer depends on its row's numbers alone, so
    neither the parts nor the number of processes that share a batch change what is drawn. A temperature of 0 takes the
    likeliest token whatever is drawn. together: other processes go through the model with this one, so every part takes
    all R steps. shown: what is the first answer to a prompt whatever is drawn; its log-probabilities are the policy's.
    """
    each, longest = len(draws) // len(prompts), draws.shape[1]
    answers = torch.full(draws.shape, pad)
    mask = torch.zeros(draws.shape, dtype=torch.bool)
    logprobs, values = torch.zeros(draws.shape), torch.zeros(draws.shape)
    rows = torch.arange(len(draws)).view(len(prompts), each)
    given = shown_tokens(shown or [None] * len(prompts), each, longest)
    for part in parts([len(prompt) for prompt in prompts], size):
        places = rows[part].flatten()
        stem = _Stem(model, [prompts[i] for i in part], pad, cached=longest > 1)
        found = _drawn(stem, draws[places], given[places], temperature, end, pad, together)
        answers[places], mask[places], logprobs[places], values[places] = found
    ended = ((answers == end) & mask).any(dim=1)
    return Rollout(prompts, answers, mask, logprobs, values, ended, given[:, 0] == DRAWN)


def shown_tokens(shown: Shown, each: int, longest: int) -> torch.Tensor:
    """Token ids [n, longest] of what is shown, the first of the `each` answers to its prompt, and `DRAWN` elsewhere.

    An answer of more tokens than are explored is not shown.
    """
    given = torch.full((len(shown) * each, longest), DRAWN)
    for row, answer in zip(range(0, len(given), each), shown, strict=True):
        if answer is not None and len(answer) <= longest:
            given[row, : len(answer)] = torch.tensor(answer)
    return given


class _Stem:
    """What answers have begun with so far, at first the prompts alone: a state for each distinct beginning.

    All of a prompt's states are tokens of one row of a batch, which gets longer as answers do.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int, cached: bool) -> None:
        self.model, self.pad, self.device = model, pad, next(model.parameters()).device
        ids, states, extra = rows_of(prompts, [Tree([], [], [[0]])] * len(prompts), pad)
        self.count, (self.row, column) = len(ids), (states // ids.shape[1], states % ids.shape[1])
        self.depth = extra["position_ids"][self.row, column]
        self.sees = extra["attention_mask"][self.row, 0, column]
        self._through(ids, states, use_cache=cached, **extra)

    def grow(self, parents: torch.Tensor, tokens: torch.Tensor) -> None:
        """Beginnings that are one token longer: `tokens` [s] behind the present ones `parents` [s]."""
        self.row, self.depth, sees = self.row[parents], self.depth[parents] + 1, self.sees[parents]
        column = _numbered(self.row, self.count)
        width, seen = 1 + int(column.max()), sees.shape[1]
        ids, depth = torch.full((self.count, width), self.pad), torch.zeros(self.count, width, dtype=torch.long)
        ids[self.row, column], depth[self.row, column] = tokens, self.depth
        mask = torch.zeros(self.count, width, seen + width, dtype=torch.bool)
        mask[self.row, column, :seen] = sees
        mask[:, :, seen:] = torch.eye(width, dtype=torch.bool)
        self.sees = mask[self.row, column]
        extra = {"attention_mask": mask[:, None], "position_ids": depth}
        self._through(ids, self.row * width + column, past_key_values=self.kept[0], use_cache=True, **extra)

    def _through(self, ids: torch.Tensor, states: torch.Tensor, **extra: Any) -> None:
        """`states` of more tokens `ids`, which become the present ones."""
        there = {name: each.to(self.device) if isinstance(each, torch.Tensor) else each for name, each in extra.items()}
        logits, values, *self.kept = self.model(ids.to(self.device), states.to(self.device), **there)
        self.logits, self.values = logits.float().cpu(), values.cpu()


def _drawn(
    stem: _Stem, draws: torch.Tensor, given: torch.Tensor, temperature: float, end: int, pad: int, together: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Answers, mask, log-probabilities and values [n, R] of one part."""
    rows, longest = draws.shape
    state = torch.arange(len(stem.row)).repeat_interleave(rows // len(stem.row))
    running = torch.ones(rows, dtype=torch.bool)
    answers, mask = torch.full(draws.shape, pad), torch.zeros(draws.shape, dtype=torch.bool)
    logprobs, values = torch.zeros(draws.shape), torch.zeros(draws.shape)
    for step in range(longest):
        scaled = torch.log_softmax(stem.logits / (temperature or 1.0), dim=-1)
        token = _tokens(scaled, state, draws[:, step]) if temperature else scaled.argmax(dim=-1)[state]
        token = torch.where(given[:, step] == DRAWN, token, given[:, step])
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
    column = _numbered(state, len(summed))
    level = torch.zeros(len(summed), 1 + int(column.max()), dtype=torch.float64)
    level[state, column] = draws * summed[state, -1]
    found = torch.searchsorted(summed, level, right=True).clamp(max=summed.shape[1] - 1)
    return found[state, column]


def _numbered(group: torch.Tensor, groups: int) -> torch.Tensor:
    """The number [n] that each has among those of its `group` [n], in order."""
    order, counts = torch.argsort(group, stable=True), torch.bincount(group, minlength=groups)
    numbers = torch.empty_like(group)
    numbers[order] = torch.arange(len(group)) - (counts.cumsum(0) - counts)[group[order]]
    return numbers
