"""How trees and nodes look in a terminal: all text from models and people is made harmless."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from rich.text import Text
from rich.tree import Tree

from amplification.asking.outline import LINES, Branch, Outline
from amplification.episode import UNFINISHED, Node
from amplification.messages import Messages
from amplification.overseers.notation import workspace_text, write_action
from amplification.replay import workspaces
from amplification.terminal import printable, printable_lines, shortened
from amplification.workspace import Workspace

# Characters of one question or answer in a tree; a node that is opened shows all.
MOST = 160

# Workspaces of one node that are shown; H takes few steps in most.
MOST_STEPS = 16

# Says what a pointer stands for, where a person has a name for it; "" otherwise.
Named = Callable[[str], str]


def tree_view(outline: Outline, number: int = 1, lines: int = LINES) -> Tree:
    """A node and what is below it, folded to so many lines: each with its number, answer and who gave it."""
    tree = Tree(node_line(outline, number), highlight=False)
    _grow(tree, outline, outline.folded(number, lines))
    return tree


def node_line(outline: Outline, number: int, hidden: int = 0) -> Text:
    """One line for one node."""
    line = Text.assemble((f"{number} ", "cyan"), node_text(outline[number]))
    return line.append(f"  \N{HORIZONTAL ELLIPSIS} {hidden} below", style="dim") if hidden else line


def node_text(node: Node) -> Text:
    """A node's question, its answer, and who gave it (agent, memo or amplified)."""
    # Text and not markup: square brackets in a question are not the terminal's styles.
    answer = Text(shortened(node.answer.shown(), MOST), style="bold" if node.answer.ok else "red")
    line = Text.assemble(shortened(node.question.text, MOST), "  ", answer, "  ", (f"({node.by})", "dim"))
    return line.append(f"  (in place of: {shortened(node.asked.text, MOST)})", style="yellow") if node.asked else line


def node_page(node: Node, messages: Messages, named: Named, sent: Iterable[str]) -> Iterator[str]:
    """What H or A was shown at one node, exactly, and what came back. `sent` tells of the calls to A."""
    if node.asked is not None:
        yield f"H asked: {printable(node.asked.text)}"
    yield f"question: {printable_lines(node.question.text)}"
    for place, pointer in enumerate(node.question.pointers, start=1):
        yield f"  ${place}: {_stands_for(pointer, messages, named)}"
    if node.by == "amplified":
        yield from _steps(node, messages)
    else:
        yield from map(printable_lines, sent)
    answer = printable_lines(node.answer.text) if node.answer.ok else f"none: {printable(node.answer.failure or '')}"
    yield f"answer: {answer}"
    for place, pointer in enumerate(node.answer.pointers, start=1):
        yield f"  ${place}: {_stands_for(pointer, messages, named)}"
    if node.samples:
        yield f"voted on: {', '.join(printable(sample.shown()) for sample in node.samples)}"
    if node.stop is not None:
        yield f"stopped: {node.stop.value}"


def _grow(branch: Tree, outline: Outline, part: Branch) -> None:
    for child in part.children:
        # What is not shown stands on the node's own line, unless some of its children are shown.
        hidden = 0 if child.children else child.hidden
        _grow(branch.add(node_line(outline, child.number, hidden)), outline, child)
    if part.hidden and part.children:
        branch.add(Text(f"\N{HORIZONTAL ELLIPSIS} {part.hidden} more", style="dim"))


def _steps(node: Node, messages: Messages) -> Iterator[str]:
    steps = list(workspaces(node, messages))
    for number, (workspace, step) in enumerate(steps[:MOST_STEPS], start=1):
        yield f"--- workspace {number} of {len(steps)}, as H saw it"
        yield printable_lines(workspace_text(workspace))
        yield f"--- {printable(step.by)} did"
        yield printable_lines(_did(node, workspace, number - 1))
    if len(steps) > MOST_STEPS:
        yield f"--- {len(steps) - MOST_STEPS} workspaces more"
    if node.answer is UNFINISHED or node.answer == UNFINISHED:
        yield "--- not finished"


def _did(node: Node, workspace: Workspace, place: int) -> str:
    action = (node.steps or [])[place].action
    try:
        return write_action(action, workspace)
    except ValueError:  # it named what it was not given
        return f"something that refers to what it was not given: {action}"


def _stands_for(pointer: str, messages: Messages, named: Named) -> str:
    if pointer not in messages:
        return "not known"
    message = messages[pointer]
    name = named(pointer)
    return f"{name + ', ' if name else ''}{message.size} characters: {shortened(message.text, 60)}"
