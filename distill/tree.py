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


class Packed(NamedTuple):
    """Prompts with their trees behind them, as rows of a batch.

    ids [m, T], padded on the right; positions [m, S] of the states in a row; where [m, K, R]: which state predicts
    each token of each answer. `extra` is what a model must be told besides: nothing where each tree is a chain, else
    position_ids [m, T] and attention_mask [m, 1, T, T], True where a token (row) sees another one (column).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    where: torch.Tensor
    extra: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        extra = {name: tensor.to(device) for name, tensor in self.extra.items()}
        return Packed(self.ids.to(device), self.positions.to(device), self.where.to(device), extra)

    def of_answers(self, states: torch.Tensor) -> torch.Tensor:
        """What each state has [m, S] as what each answer's tokens have [m K, R]."""
        return states.gather(1, self.where.flatten(1)).view(-1, self.where.shape[2])


def tree_of(answers: Sequence[Sequence[int]]) -> Tree:
    """The tree of all beginnings of some answers; an answer's last token predicts nothing, so it is no node."""
    tree = Tree([], [], [])
    places: dict[tuple[int, ...], int] = {}
    for answer in answers:
        states = [0]
        for end in range(1, len(answer)):
            begun = tuple(answer[:end])
            if begun not in places:
                places[begun] = len(tree.tokens)
                tree.tokens.append(answer[end - 1])
                tree.parents.append(states[-1] - 1)
            states.append(places[begun] + 1)
        tree.states.append(states)
    return tree


def pack(
    prompts: Sequence[Sequence[int]], trees: Sequence[Tree], places: torch.Tensor, longest: int, pad: int
) -> Packed:
    """Prompts and their trees as a batch. places [m, K]: which of its tree's answers each of a prompt's answers is.

    `longest`: R; behind an answer's end the prompt's last token stands in.
    """
    lengths = [len(prompt) + len(tree.tokens) for prompt, tree in zip(prompts, trees, strict=True)]
    width, most = max(lengths), max(len(tree.states) for tree in trees)
    ids = np.full((len(prompts), width), pad)
    positions = np.zeros((len(prompts), 1 + max(len(tree.tokens) for tree in trees)), dtype=np.int64)
    states = np.zeros((len(prompts), most, longest), dtype=np.int64)
    for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        ids[row, : lengths[row]] = [*prompt, *tree.tokens]
        positions[row] = len(prompt) - 1
        positions[row, : 1 + len(tree.tokens)] += np.arange(1 + len(tree.tokens))
        for answer, along in enumerate(tree.states):
            states[row, answer, : len(along)] = along
    plain = all(_is_chain(tree) for tree in trees)
    extra = {} if plain else _visibility(prompts, trees, width)
    where = torch.from_numpy(states)[torch.arange(len(prompts))[:, None], places]
    return Packed(torch.from_numpy(ids), torch.from_numpy(positions), where, extra)


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
