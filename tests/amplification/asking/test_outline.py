"""Trees on a screen: numbers that stay, and never more lines than fit."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from amplification.asking.outline import Branch, Outline
from amplification.asking.view import tree_view
from amplification.asking.watch import growing
from amplification.episode import UNFINISHED, Node, Step
from amplification.question import Answer, Question
from amplification.workspace import Ask, Left, SubQuestion


def tree(rng: random.Random, size: int) -> Node:
    """A random tree of so many nodes, with unfinished ones."""
    nodes = [Node(Question(f"q{n}"), "amplified", Answer(f"r{n}")) for n in range(size)]
    for node in rng.sample(nodes, size // 4):
        node.answer = UNFINISHED
    for place, node in enumerate(nodes[1:], start=1):
        parent = nodes[rng.randrange(place)]
        step = Step(Ask((SubQuestion(node.question),)), "h", Left(), (node,))
        parent.steps = [*(parent.steps or []), step]
    return nodes[0]


def branches(branch: Branch) -> list[Branch]:
    return [branch, *(below for child in branch.children for below in branches(child))]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 400), lines=st.integers(1, 60))
def test_what_is_folded_is_counted_and_fits(seed: int, size: int, lines: int) -> None:
    root = tree(random.Random(seed), size)
    outline = Outline(root)
    assert [outline[number] for number in range(1, size + 1)] == list(root.nodes())
    shown = branches(outline.folded(lines=lines))
    assert len(shown) + sum(branch.hidden for branch in shown) == size
    assert len({branch.number for branch in shown}) == len(shown)
    console = Console(file=io.StringIO(), width=300)
    with console.capture() as capture:
        console.print(tree_view(outline, lines=lines))
    assert len(capture.get().splitlines()) <= lines
    assert all(outline[c.number] in list(outline[b.number].children) for b in shown for c in b.children)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 2_000))
def test_a_growing_tree_stays_small(seed: int, size: int) -> None:
    console = Console(file=io.StringIO(), width=300)
    with console.capture() as capture:
        console.print(growing(tree(random.Random(seed), size)))
    assert len(capture.get().splitlines()) <= 30


def test_a_number_that_names_no_node() -> None:
    outline = Outline(Node(Question("q"), "agent"))
    for number in (0, 2, -1):
        with pytest.raises(KeyError):
            outline[number]


def test_a_tree_deeper_than_the_stack() -> None:
    node = Node(Question("leaf"), "agent", Answer("1"))
    for _ in range(5_000):
        node = Node(Question("up"), "amplified", Answer("1"), steps=[Step(Ask(()), "h", Left(), (node,))])
    outline = Outline(node)
    assert outline.folded().hidden == 0
    assert outline.size(1) == 5_001
