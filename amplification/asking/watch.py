"""Watching an answer come about: a tree that grows in place, or plain lines where the output is no terminal."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from amplification.asking.view import node_text
from amplification.budget import Limits
from amplification.episode import UNFINISHED, Cost, Node
from amplification.terminal import printable

# Lines of a growing tree, and children of one node that are shown there.
LINES = 20
WIDTH = 5

# How often the tree is drawn in a second, and the seconds between plain lines.
DRAWN = 5
EVERY_S = 1.0

# Nodes that one look at the tree visits: the work under way, however large the tree.
VISITED = 500


class Watcher:
    """What is known of an episode under way. `started` is called by Amplified, then `root` and `cost` grow in place."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.begun = limits, time.monotonic()
        self.root: Node | None = None
        self.cost = Cost()
        self.deepest = 0

    def started(self, root: Node, cost: Cost) -> None:
        """An `amplification.amplified.Watch`."""
        self.root, self.cost, self.begun = root, cost, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def line(self) -> str:
        """How far it is: depth, what has been used of the budget, memo hits, seconds."""
        self._look()
        cost, limits = self.cost, self.limits
        calls = max(0, limits.calls - cost.calls - cost.overseer_calls)
        tokens = max(0, limits.tokens - cost.tokens - cost.overseer_tokens)
        used = f"depth {self.deepest}, {cost.overseer_steps} steps, {cost.calls} calls, {cost.memo_hits} memo hits"
        return f"{used}, {self.seconds:.1f} s (left: {calls} calls, {tokens} tokens)"

    def _look(self) -> None:
        """Go down where work is under way, for the depth that has been reached."""
        waiting = deque([(self.root, 0)] if self.root else [])
        for _ in range(VISITED):
            if not waiting:
                return
            node, depth = waiting.popleft()
            children = list(node.children)
            if children:
                self.deepest = max(self.deepest, depth + 1)
            waiting.extend((child, depth + 1) for child in children if child.answer is UNFINISHED)


class LiveView:
    """The watcher's line and the tree's unfinished part, drawn again and again in the same place."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher

    def __rich__(self) -> RenderableType:
        line = Text(self.watcher.line(), style="dim")
        root = self.watcher.root
        return Group(growing(root), line) if root else line


def growing(root: Node, lines: int = LINES) -> Tree:
    """The part of a tree where work is under way, and beside it what was answered last."""
    top = Tree(node_text(root), highlight=False)
    waiting, left = deque([(root, top)]), lines
    while waiting and left > 0:
        node, branch = waiting.popleft()
        children = list(node.children)
        open_ones = [child for child in children if child.answer is UNFINISHED][: min(WIDTH, left)]
        answered = [child for child in children if child.answer is not UNFINISHED]
        shown = answered[len(answered) - max(0, min(WIDTH, left) - len(open_ones)) :]
        for child in (*shown, *open_ones):
            waiting.append((child, branch.add(node_text(child))))
        more = len(children) - len(shown) - len(open_ones)
        if more > 0:
            branch.add(Text(f"\N{HORIZONTAL ELLIPSIS} {more} more ({len(answered)} answered)", style="dim"))
        left -= len(shown) + len(open_ones) + (1 if more > 0 else 0)
    return top


@asynccontextmanager
async def watched(watcher: Watcher, console: Console, quiet: bool = False) -> AsyncIterator[None]:
    """Show how far the episode is while the body runs; leaves nothing on a terminal. `quiet`: nothing at all."""
    if quiet:
        yield
    elif console.is_terminal:
        # Drawn from a thread of its own, so that seconds go on while a model computes in this one.
        with Live(LiveView(watcher), console=console, refresh_per_second=DRAWN, transient=True):
            yield
    else:
        lines = asyncio.create_task(_lines(watcher, console))
        try:
            yield
        finally:
            lines.cancel()
            await asyncio.gather(lines, return_exceptions=True)


async def _lines(watcher: Watcher, console: Console) -> None:
    while True:
        await asyncio.sleep(EVERY_S)
        console.print(printable(watcher.line()), markup=False, highlight=False, soft_wrap=True)
