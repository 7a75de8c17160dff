"""Tree: several answers to one prompt as a prefix tree behind it, so that what they share goes through the model once.

A prompt with K answers costs its own tokens and those of the distinct beginnings of its answers, not K prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class Tree(NamedTuple):
    """The beginnings of a prompt's answers. Node i has `tokens[i]` and stands behind `parents[i]` (-1: the prompt).

    `states[k][r]` is what predicts token r of its k-th answer: 0 for the prompt's last token, i + 1 for node i.
    """

    tokens: list[int]
    parents: list[int]
    states: list[list[int]]


class Rows(NamedTuple):
    """Prompts with their trees behind them, as rows of a batch.

    ids [m, T], padded on the right; positions [m, S] of the states in a row. `extra` is what a model must be told
    besides: nothing where each tree is a chain, else position_ids [m, T] and attention_mask [m, 1, T, T], True where a
    token (row) sees another one (column).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    extra: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> Rows:
        """The same on a device."""
        extra = {name: tensor.to(device) for name, tensor in self.extra.items()}
        return Rows(self.ids.to(device), self.positions.to(device), extra)


class Answered(NamedTuple):
    """Answers by their prompts, each distinct prompt and answer once.

    owners[i] and places[i] are the prompt of the i-th answer, and which of its tree's answers it is. The trees hold
    whole answers: the last state of one is its last token.
    """

    prompts: list[tuple[int, ...]]
    trees: list[Tree]
    owners: list[int]
    places: list[int]

    def tokens(self) -> int:
        """Tokens that go through a model."""
        return sum(map(len, self.prompts)) + sum(len(tree.tokens) for tree in self.trees)

    def ends(self) -> list[int]:
        """The state of each answer's last token."""
        return [self.trees[o].states[p][-1] for o, p in zip(self.owners, self.places, strict=True)]


def tree_of(answers: Sequence[Sequence[int]], whole: bool = False) -> Tree:
    """The tree of all beginnings of some answers. The last token of an answer predicts nothing, so it is a node only
    where the answers are wanted `whole`."""
    tree = Tree([], [], [])
    places: dict[tuple[int, ...], int] = {}
    for answer in answers:
        states = [0]
        for end in range(1, len(answer) + int(whole)):
            begun = tuple(answer[:end])
            if begun not in places:
                places[begun] = len(tree.tokens)
                tree.tokens.append(answer[end - 1])
                tree.parents.append(states[-1] - 1)
            states.append(places[begun] + 1)
        tree.states.append(states)
    return tree


def answered(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Answered:
    """Answers, each with its prompt, put together by prompt."""
    places: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    pairs = [(tuple(prompt), tuple(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    for prompt, answer in pairs:
        known = places.setdefault(prompt, {})
        known.setdefault(answer, len(known))
    numbers = {prompt: number for number, prompt in enumerate(places)}
    trees = [tree_of(list(known), whole=True) for known in places.values()]
    return Answered(list(places), trees, [numbers[p] for p, _ in pairs], [places[p][a] for p, a in pairs])


def rows_of(prompts: Sequence[Sequence[int]], trees: Sequence[Tree], pad: int) -> Rows:
    """Prompts and their trees as a batch."""
    lengths = [len(prompt) + len(tree.tokens) for prompt, tree in zip(prompts, trees, strict=True)]
    ids = np.full((len(prompts), max(lengths)), pad)
    positions = np.zeros((len(prompts), 1 + max(len(tree.tokens) for tree in trees)), dtype=np.int64)
    for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        ids[row, : lengths[row]] = [*prompt, *tree.tokens]
        # Where a row has fewer states than others, its prompt's last token stands in.
        positions[row] = len(prompt) - 1
        positions[row, : 1 + len(tree.tokens)] += np.arange(1 + len(tree.tokens))
    plain = all(_is_chain(tree) for tree in trees)
    extra = {} if plain else _visibility(prompts, trees, max(lengths))
    return Rows(torch.from_numpy(ids), torch.from_numpy(positions), extra)


def states_of(trees: Sequence[Tree], places: torch.Tensor, longest: int) -> torch.Tensor:
    """The state [m, K, longest] that predicts each token of each answer; behind an answer's end, the prompt's.

    places [m, K]: which of its tree's answers each of a prompt's K answers is.
    """
    states = np.zeros((len(trees), max(len(tree.states) for tree in trees), longest), dtype=np.int64)
    for row, tree in enumerate(trees):
        for answer, along in enumerate(tree.states):
            states[row, answer, : len(along)] = along
    return torch.from_numpy(states)[torch.arange(len(trees))[:, None], places]


def _is_chain(tree: Tree) -> bool:
    return tree.parents == list(range(-1, len(tree.tokens) - 1))


def _visibility(prompts: Sequence[Sequence[int]], trees: Sequence[Tree], width: int) -> dict[str, torch.Tensor]:
    """A node sees the prompt, the nodes that it stands behind, and itself; its position is how deep it stands."""
    sees = np.tile(np.tri(width, dtype=bool), (len(prompts), 1, 1))
    places = np.tile(np.arange(width), (len(prompts), 1))
    for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        begin = len(prompt)
        sees[row, begin:, begin:] = np.eye(width - begin, dtype=bool)
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                sees[row, begin + node] |= sees[row, begin + parent]
            places[row, begin + node] = places[row, begin + parent] + 1 if parent >= 0 else begin
    return {"attention_mask": torch.from_numpy(sees).unsqueeze(1), "position_ids": torch.from_numpy(places)}
