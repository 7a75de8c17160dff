"""Tree: several answers to one prompt as a prefix tree behind it, so that what they share goes through the model once.

A prompt with K answers costs its own tokens and those of the distinct beginnings of its answers, not K prompts. Short
prompts share a row of the batch, so that little of it is padding, and none sees another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

# Tokens that a row has room for, or for one prompt. Attention goes over the whole row, so a wide one is no gain either.
ROOM = 64


class Tree(NamedTuple):
    """The beginnings of a prompt's answers. Node i has `tokens[i]` and stands behind `parents[i]` (-1: the prompt).

    `states[k][r]` is what predicts token r of its k-th answer: 0 for the prompt's last token, i + 1 for node i.
    """

    tokens: list[int]
    parents: list[int]
    states: list[list[int]]


class Rows(NamedTuple):
    """Prompts with their trees behind them, several in a row of a batch where there is room.

    ids [r, T]; states [S]: where the states of all prompts stand, those of one together, as places in ids.flatten().
    `extra` is what a model must be told besides: position_ids [r, T], how deep a token stands behind its own prompt's
    beginning, and attention_mask [r, 1, T, T], True where a token (row) sees another one (column).
    """

    ids: torch.Tensor
    states: torch.Tensor
    extra: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> Rows:
        """The same on a device."""
        extra = {name: tensor.to(device) for name, tensor in self.extra.items()}
        return Rows(self.ids.to(device), self.states.to(device), extra)


class Answered(NamedTuple):
    """Answers by their prompts, each distinct prompt and answer once.

    owners[i] and places[i] are the prompt of the i-th answer, and which of its tree's answers it is. The trees hold
    whole answers.
    """

    prompts: list[tuple[int, ...]]
    trees: list[Tree]
    owners: list[int]
    places: list[int]

    def tokens(self) -> int:
        """Tokens that go through a model."""
        return sum(map(len, self.prompts)) + sum(len(tree.tokens) for tree in self.trees)


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
    places = _packed(lengths, max(ROOM, *lengths))
    count = 1 + max(row for row, _ in places)
    width = max(begin + length for (_, begin), length in zip(places, lengths, strict=True))
    ids, depth = np.full((count, width), pad), np.zeros((count, width), dtype=np.int64)
    before = np.tri(width, dtype=bool)
    # Padding sees itself: attention to nothing at all is no number.
    sees = np.tile(np.eye(width, dtype=bool), (count, 1, 1))
    states: list[int] = []
    for prompt, tree, length, (row, begin) in zip(prompts, trees, lengths, places, strict=True):
        nodes, end = begin + len(prompt), begin + length
        ids[row, begin:end] = [*prompt, *tree.tokens]
        depth[row, begin:nodes] = np.arange(len(prompt))
        sees[row, begin:nodes, begin:nodes] = before[: len(prompt), : len(prompt)]
        sees[row, nodes:end, begin:nodes] = True
        depth[row, nodes:end] = len(prompt)
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                sees[row, nodes + node] |= sees[row, nodes + parent]
                depth[row, nodes + node] = depth[row, nodes + parent] + 1
        states.extend(range(row * width + nodes - 1, row * width + end))
    extra = {"attention_mask": torch.from_numpy(sees).unsqueeze(1), "position_ids": torch.from_numpy(depth)}
    return Rows(torch.from_numpy(ids), torch.tensor(states), extra)


def states_of(trees: Sequence[Tree], places: torch.Tensor, longest: int) -> torch.Tensor:
    """Which of all prompts' states predicts each token of each answer, [m, K, longest]; behind its end, the prompt's.

    places [m, K]: which of its tree's answers each of a prompt's K answers is.
    """
    states = np.zeros((len(trees), max(len(tree.states) for tree in trees), longest), dtype=np.int64)
    first = 0
    for row, tree in enumerate(trees):
        states[row] = first
        for answer, along in enumerate(tree.states):
            states[row, answer, : len(along)] += along
        first += 1 + len(tree.tokens)
    return torch.from_numpy(states)[torch.arange(len(trees))[:, None], places]


def ends_of(trees: Sequence[Tree]) -> list[list[int]]:
    """Which of all prompts' states each of a tree's whole answers ends in, tree by tree."""
    ends, first = list[list[int]](), 0
    for tree in trees:
        ends.append([first + states[-1] for states in tree.states])
        first += 1 + len(tree.tokens)
    return ends


def _packed(lengths: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Row and first column of each piece of these lengths, in rows of about `width`.

    The longest first, each to the row that is emptiest: so each row gets some of every length, and as their answers
    branch out as much in one as in another, rows stay even while answers grow.
    """
    used = [0] * -(-sum(lengths) // width)
    places = [(0, 0)] * len(lengths)
    for piece in sorted(range(len(lengths)), key=lambda piece: -lengths[piece]):
        row = min(range(len(used)), key=used.__getitem__)
        places[piece] = (row, used[row])
        used[row] += lengths[piece]
    return places
