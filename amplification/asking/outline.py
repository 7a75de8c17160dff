"""Outline: a tree's nodes by number, and the part of it that fits on a screen."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from amplification.episode import Node

# Lines of a tree that are shown, unless all are asked for.
LINES = 40


@dataclass
class Branch:
    """A node that is shown, its children that are, and how many nodes below it are not."""

    number: int
    children: list[Branch] = field(default_factory=list)
    hidden: int = 0


class Outline:
    """Numbers all nodes of a tree from 1 (the root) on, parents first, in the order in which they were asked.

    The same tree gets the same numbers again. Memory: three words a node.
    """

    def __init__(self, root: Node) -> None:
        self._nodes: list[Node] = []
        parents: list[int] = []
        waiting = [(root, -1)]
        while waiting:
            node, parent = waiting.pop()
            place = len(self._nodes)
            self._nodes.append(node)
            parents.append(parent)
            waiting += [(child, place) for child in reversed(list(node.children))]
        self._sizes = [1] * len(parents)
        for place in range(len(parents) - 1, 0, -1):
            self._sizes[parents[place]] += self._sizes[place]

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, number: int) -> Node:
        """The node of this number. Raises KeyError if there is none."""
        if not 1 <= number <= len(self):
            raise KeyError(number)
        return self._nodes[number - 1]

    def size(self, number: int) -> int:
        """How many nodes there are at and below this one."""
        return self._sizes[number - 1]

    def children(self, number: int) -> list[int]:
        """The numbers of a node's children."""
        numbers, following, end = [], number + 1, number + self.size(number)
        while following < end:
            numbers.append(following)
            following += self.size(following)
        return numbers

    def folded(self, number: int = 1, lines: int = LINES) -> Branch:
        """The node with what is nearest below it, level by level, in at most `lines` lines."""
        top = Branch(number)
        waiting, left = deque([top]), lines - 1
        while waiting:
            branch = waiting.popleft()
            children = self.children(branch.number)
            if len(children) > left:  # a line of what is shown tells of the others
                children = children[: max(0, left - 1)]
            branch.children = [Branch(child) for child in children]
            branch.hidden = self.size(branch.number) - 1 - sum(self.size(child) for child in children)
            left -= len(children) + (1 if children and branch.hidden else 0)
            waiting.extend(branch.children)
        return top
