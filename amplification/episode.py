"""Episode: the whole tree of one question, why it stopped, what it cost, and which agent answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from amplification.messages import Content
from amplification.overseer import Use
from amplification.question import Answer, Question
from amplification.workspace import Action, Left


class StopReason(StrEnum):
    """Why an episode ended."""

    REPLIED = "replied"
    GAVE_UP = "gave_up"
    OUT_OF_BUDGET = "out_of_budget"
    OUT_OF_STEPS = "out_of_steps"
    BAD_ACTION = "bad_action"
    REJECTED = "rejected"


@dataclass(slots=True)
class Cost:
    """What an episode used. Tokens are prompt plus completion tokens that went through the agent's model.

    A memo hit costs nothing; `tokens_saved` is what the hits would have cost, so that cost without the memo is
    `tokens + tokens_saved`. What begins with `overseer_` is of an overseer that is a model (see `overseer.Use`).
    """

    overseer_steps: int = 0
    calls: int = 0
    memo_hits: int = 0
    tokens: int = 0
    tokens_saved: int = 0
    overseer_calls: int = 0
    overseer_tokens: int = 0
    overseer_work: int = 0
    overseer_work_saved: int = 0
    overseer_unpriced: int = 0

    def add(self, other: Cost) -> None:
        self.overseer_steps += other.overseer_steps
        self.calls += other.calls
        self.memo_hits += other.memo_hits
        self.tokens += other.tokens
        self.tokens_saved += other.tokens_saved
        self.overseer_calls += other.overseer_calls
        self.overseer_tokens += other.overseer_tokens
        self.overseer_work += other.overseer_work
        self.overseer_work_saved += other.overseer_work_saved
        self.overseer_unpriced += other.overseer_unpriced

    def add_overseers(self, used: Use) -> None:
        """Count what deciding a step used."""
        self.overseer_calls += used.calls
        self.overseer_tokens += used.tokens
        self.overseer_work += used.work
        self.overseer_work_saved += used.work_saved
        self.overseer_unpriced += used.unpriced


UNFINISHED = Answer.failed("not finished")


@dataclass(slots=True)
class Step:
    """One step of H in a node's workspace: what it was shown of the budget, what it did, who decided, what came of it.

    `children` are the sub-questions of an Ask, in order. With the node's question this is enough to show any workspace
    again (`amplification.replay`).
    """

    action: Action
    by: str
    left: Left
    children: tuple[Node, ...] = field(default=(), repr=False)


@dataclass(slots=True)
class Node:
    """One answered question in the tree.

    `by` is "agent", "memo" or "amplified". `samples` are the answers that were voted on, if there were several.
    `asked` is what H asked, where a person has put `question` in its place.
    """

    question: Question
    by: str
    answer: Answer = UNFINISHED
    stop: StopReason | None = None
    steps: list[Step] | None = None  # None for a leaf: most nodes of a large tree are
    samples: tuple[Answer, ...] = ()
    asked: Question | None = None

    @property
    def children(self) -> Iterator[Node]:
        """The sub-questions of all steps, in the order in which they were asked."""
        return (child for step in self.steps or () for child in step.children)

    def nodes(self) -> Iterator[Node]:
        """This node and all below it, parents first. Without recursion: trees may be deep."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(list(node.children))

    def size(self) -> int:
        return sum(1 for _ in self.nodes())


@dataclass(frozen=True)
class Episode:
    """The tree with its answer. `agent` is the agent's digest, `overseer` the overseer's name.

    `messages` are those that pointers in the tree stand for, by digest.
    """

    tree: Node = field(repr=False)  # asyncio, of all things, takes the repr of results; a tree's has no end
    stop: StopReason
    cost: Cost
    seconds: float
    agent: str
    overseer: str
    messages: Mapping[str, Content] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def question(self) -> Question:
        return self.tree.question

    @property
    def answer(self) -> Answer:
        return self.tree.answer
