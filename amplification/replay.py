"""Replay: the workspaces of a finished tree again, step by step, as H saw them."""

from __future__ import annotations

from collections.abc import Iterator

from amplification.desk import Desk
from amplification.episode import Node, Step
from amplification.messages import Messages
from amplification.workspace import Ask, Look, Make, Workspace

# Nothing is made here that was not made before, so nothing can be too long.
ANY_LENGTH = 2**62


def workspaces(node: Node, messages: Messages) -> Iterator[tuple[Workspace, Step]]:
    """Each workspace that H was shown at this node, with the step it took there.

    Raises KeyError where `messages` lacks one that the node points to.
    """
    desk, before = Desk(node.question, messages), None
    for step in node.steps or ():
        if before is not None:  # the last step is not done again: it may be one that was refused, or came to nothing
            _done(before, desk, messages)
        yield desk.workspace(step.left), step
        before = step


def _done(step: Step, desk: Desk, messages: Messages) -> None:
    match step.action:
        case Ask():
            asked = [child.asked or child.question for child in step.children]
            desk.exchanged(asked, [child.answer for child in step.children])
        case Look():
            desk.looked(step.action)
        case Make(made):
            desk.made([messages.made(pieces, ANY_LENGTH) for pieces in made])


def all_workspaces(root: Node, messages: Messages) -> Iterator[tuple[Workspace, Step]]:
    """The same for a node and all below it."""
    for node in root.nodes():
        yield from workspaces(node, messages)
