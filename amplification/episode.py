"""Episode: the whole tree of one question, why it stopped, what it cost, and which agent answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from amplification.question import Answer, Question


class StopReason(StrEnum):
    """Why an episode ended."""

    REPLIED = "replied"
    GAVE_UP = "gave_up"
    OUT_OF_BUDGET = "out_of_budget"
    OUT_OF_STEPS = "out_of_steps"
    BAD_ACTION = "bad_action"


@dataclass(slots=True)
class Cost:
    """What an episode used. Tokens are prompt plus completion tokens that went through the agent's model.

    A memo hit costs nothing; `tokens_saved` is what the hits would have cost, so that cost without the memo is
    `tokens + tokens_saved`.
    """

    overseer_steps: int = 0
    calls: int = 0
    memo_hits: int = 0
    tokens: int = 0
    tokens_saved: int = 0

    def add(self, other: Cost) -> None:
        self.overseer_steps += other.overseer_steps
        self.calls += other.calls
        self.memo_hits += other.memo_hits
        self.tokens += other.tokens
        self.tokens_saved += other.tokens_saved


UNFINISHED = Answer.failed("not finished")


@dataclass(slots=True)
class Node:
    """One answered question in the tree. `by` is "agent", "memo" or "amplified"; children in the order asked."""

    question: Question
    by: str
    answer: Answer = UNFINISHED
    stop: StopReason | None = None
    children: list[Node] = field(default_factory=list)

    def size(self) -> int:
        return 1 + sum(child.size() for child in self.children)


@dataclass(frozen=True)
class Episode:
    """The tree with its answer. `agent` is the agent's digest, `overseer` the overseer's name."""

    tree: Node
    stop: StopReason
    cost: Cost
    seconds: float
    agent: str
    overseer: str

    @property
    def question(self) -> Question:
        return self.tree.question

    @property
    def answer(self) -> Answer:
        return self.tree.answer


def node_to_dict(node: Node) -> dict[str, object]:
    """A tree as JSON-ready data (short keys are spelt out: people read the export)."""
    return {
        "question": node.question.text,
        "pointers": list(node.question.pointers),
        "by": node.by,
        "answer": node.answer.text,
        "answer_pointers": list(node.answer.pointers),
        "failure": node.answer.failure,
        "stop": node.stop.value if node.stop else None,
        "children": [node_to_dict(child) for child in node.children],
    }
