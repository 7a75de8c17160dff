"""Sequences of words in which every ordered pair of them stands once, side by side: group testing of pairs.

A question that holds a piece of `size` words tries `size - 1` pairs at once, so that all pairs of n words take about
n * n / (size - 1) questions instead of n * n.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def every_pair(words: Sequence[str], rng: random.Random) -> list[str]:
    """A cyclic walk, drawn at random, in which each ordered pair of `words` (a word with itself, too) is adjacent once.

    len(words)**2 + 1 words, or none for no words. It is an Eulerian circuit of the complete directed graph, by
    Hierholzer's algorithm (1873).
    """
    if not words:
        return []
    distinct = list(dict.fromkeys(words))
    ways = {word: rng.sample(distinct, len(distinct)) for word in distinct}
    walk, circuit = [distinct[0]], list[str]()
    while walk:
        if ways[walk[-1]]:
            walk.append(ways[walk[-1]].pop())
        else:
            circuit.append(walk.pop())
    return circuit[::-1]


def pieces(sequence: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """The sequence cut into pieces of `size` words (at least 2), the last word of each being the first of the next."""
    if size < 2:
        raise ValueError("a piece of fewer than 2 words holds no pair")
    return [tuple(sequence[at : at + size]) for at in range(0, len(sequence) - 1, size - 1)]
