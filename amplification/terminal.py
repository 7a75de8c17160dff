"""What models and people wrote, made safe for a terminal."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from amplification.episode import Cost, Episode, Node


def printable(text: str) -> str:
    """`text` on one line without characters that a terminal could take for commands or that reorder what is read."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def tree_of(episode: Episode) -> Tree:
    """An episode as a tree: each sub-question with its answer and who gave it (agent, memo or amplified)."""
    tree = Tree(_line(episode.tree))
    _grow(tree, episode.tree)
    return tree


def cost_line(cost: Cost, seconds: float) -> str:
    """One line for a person: what an episode used."""
    return (
        f"{cost.overseer_steps} overseer steps, {cost.calls} calls, {cost.memo_hits} memo hits, "
        f"{cost.tokens} tokens, {seconds:.2f} s"
    )


def _grow(branch: Tree, node: Node) -> None:
    for child in node.children:
        _grow(branch.add(_line(child)), child)


def _line(node: Node) -> Text:
    # Text and not markup: square brackets in a question are not the terminal's styles.
    answer = Text(printable(node.answer.shown()), style="bold" if node.answer.ok else "red")
    return Text.assemble(printable(node.question.text), "  ", answer, "  ", (f"({node.by})", "dim"))
