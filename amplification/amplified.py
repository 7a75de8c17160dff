"""Amplified (H^A): meta-execution. An overseer answers a question by consulting an agent inside a budget."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from amplification.agent import Agent
from amplification.budget import Account, Limits, OutOfBudget
from amplification.collector import rare_collections
from amplification.consult import Consultant
from amplification.corrections import NONE, TRIES, Corrections
from amplification.desk import Desk
from amplification.dispatch import Dispatcher
from amplification.episode import Cost, Episode, Node, Step, StopReason
from amplification.messages import Content, Messages, TooLong
from amplification.overseer import FREE, Decision, Overseer, Use
from amplification.question import Answer, Question
from amplification.slots import Slots
from amplification.voting import Voting
from amplification.workspace import Ask, GiveUp, Look, Make, Reply, SubQuestion, Workspace

# Told of a new episode's root and cost, both of which then grow in place.
Watch = Callable[[Node, Cost], None]


class Tree(NamedTuple):
    """What all nodes of one episode share."""

    messages: Messages
    cost: Cost
    made: list[int]  # characters of each message that H has put together


class Place(NamedTuple):
    """Where a node is: its part of the budget, how deep, and which draw of A's answers goes for everything below."""

    account: Account
    depth: int = 0
    draw: int = 0


class Amplified:
    """An Overseer with an Agent and limits. Answers questions like an Agent does, slowly."""

    def __init__(
        self,
        overseer: Overseer,
        agent: Agent,
        dispatcher: Dispatcher,
        limits: Limits,
        voting: Voting | None = None,
        corrections: Corrections = NONE,
        at_once: int = 4096,
    ) -> None:
        """`at_once`: workspaces that are worked on at the same time, over all episodes; it bounds memory."""
        self.overseer, self.agent, self.dispatcher, self.limits = overseer, agent, dispatcher, limits
        self.corrections, self.at_once = corrections, at_once
        self.consultant = Consultant(agent, dispatcher, voting or Voting(), corrections, limits.workspace_chars)
        self.slots = Slots(at_once)

    async def answer(self, question: Question, known: Iterable[Content] = (), watch: Watch | None = None) -> Episode:
        """One episode. Whatever the overseer does, it ends in an answer or a failure, inside the limits.

        `known` are the messages that the question's pointers stand for, and those that these point to.
        Raises ServingError if the model cannot answer at all, KeyError for a pointer that `known` does not hold.
        """
        started, tree = time.monotonic(), Tree(Messages(known), Cost(), [])
        root = Node(question, by="amplified")
        if watch is not None:
            watch(root, tree.cost)
        try:
            with rare_collections():
                async with asyncio.timeout(self.limits.seconds) as clock:
                    await self._answer_in_a_slot(root, Place(Account.root(self.limits)), tree)
        except TimeoutError:
            if not clock.expired():
                raise
            _end(root, StopReason.OUT_OF_BUDGET, Answer.failed("out of seconds"))
        stop, seconds = root.stop or StopReason.REPLIED, time.monotonic() - started
        return Episode(root, stop, tree.cost, seconds, self.agent.digest, self.overseer.name, tree.messages.all)

    async def answer_all(self, questions: Iterable[Question]) -> AsyncIterator[Episode]:
        """Episodes of many questions side by side, in the order of the questions; at most `at_once` are begun."""
        begun: deque[asyncio.Task[Episode]] = deque()
        waiting = iter(questions)
        try:
            while True:
                while len(begun) < self.at_once and (question := next(waiting, None)) is not None:
                    begun.append(asyncio.create_task(self.answer(question)))
                if not begun:
                    return
                yield await begun[0]
                begun.popleft()
        finally:
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)

    async def _answer_in_a_slot(self, node: Node, place: Place, tree: Tree) -> None:
        async with self.slots:
            await self._answer(node, place, tree)

    async def _answer(self, node: Node, place: Place, tree: Tree) -> None:
        """Answer a node; where a person has rejected the answer, again with other draws of A's."""
        for _ in range(TRIES):
            node.steps = []
            await self._execute(node, node.steps, place, tree)
            if not self.corrections.rejects(node.question, node.answer):
                return
            place = place._replace(draw=place.draw + 1)
        _end(node, StopReason.REJECTED, Answer.failed("every answer was rejected"))

    async def _execute(self, node: Node, steps: list[Step], place: Place, tree: Tree) -> None:
        """The meta-execution loop: show H the workspace, do what it says, until it replies or something runs out."""
        desk, account = Desk(node.question, tree.messages), place.account
        try:
            for _ in range(self.limits.steps):
                account.check_time()
                shown = desk.workspace(account.left())
                if shown.characters() > self.limits.workspace_chars:
                    return _end(node, StopReason.OUT_OF_BUDGET, Answer.failed("the workspace is full"))
                decision = await self._decide(shown, account, tree.cost)
                action = decision.action
                steps.append(step := Step(action, decision.by or self.overseer.name, shown.left))
                if (refusal := desk.refusal(action, self.limits.workspace_chars)) is not None:
                    return _end(node, StopReason.BAD_ACTION, Answer.failed(refusal))
                match action:
                    case Ask(subs):
                        await self._ask(subs, step, place, tree)
                        desk.exchanged([s.question for s in subs], [child.answer for child in step.children])
                    case Look():
                        desk.looked(action)
                    case Make():
                        desk.made(self._made(action, tree))
                    case Reply(text, pointers):
                        return _end(node, StopReason.REPLIED, Answer(text, pointers))
                    case GiveUp(reason):
                        return _end(node, StopReason.GAVE_UP, Answer.failed(reason))
        except (OutOfBudget, TooLong) as error:
            return _end(node, StopReason.OUT_OF_BUDGET, Answer.failed(str(error)))
        return _end(node, StopReason.OUT_OF_STEPS, Answer.failed("out of steps"))

    def _decide(self, shown: Workspace, account: Account, cost: Cost) -> Awaitable[Decision]:
        """H's next step, its own model's calls within the budget."""
        cost.overseer_steps += 1
        bound = self.overseer.bound(shown)
        return self.overseer.act(shown) if bound is FREE else self._decide_within(bound, shown, account, cost)

    async def _decide_within(self, bound: Use, shown: Workspace, account: Account, cost: Cost) -> Decision:
        used = FREE
        account.reserve(bound.calls, bound.tokens)
        try:
            decision = await self.overseer.act(shown)
            used = decision.used
        finally:
            account.settle(bound.calls, bound.tokens, used.calls, used.tokens)
        cost.add_overseers(used)
        return decision

    async def _ask(self, subs: tuple[SubQuestion, ...], step: Step, place: Place, tree: Tree) -> None:
        """All sub-questions of one step at once: those for A as one group, each for H^A as a child of its own."""
        account = place.account
        if len(subs) > account.calls_left:  # before anything is made for each of them
            raise OutOfBudget("out of calls")
        step.children = tuple(map(self._child, subs))
        direct = [child for child in step.children if child.by == "agent"]
        nested = [child for child in step.children if child.by == "amplified"]
        # Children first: if there is nothing left for them, the step ends before anything is set aside for A.
        accounts = account.open_children(len(nested)) if nested else []
        try:
            with self.consultant.consult(direct, account, place.depth, place.draw, tree.messages) as consultation:
                if nested:
                    places = [Place(part, place.depth + 1, place.draw) for part in accounts]
                    await self._answer_together(list(zip(nested, places, strict=True)), tree)
                await self.consultant.finish(consultation, tree.cost)
        finally:
            for part in accounts:
                account.close_child(part)

    async def _answer_together(self, children: Sequence[tuple[Node, Place]], tree: Tree) -> None:
        """Answer all; when one fails, or the whole is cancelled, the others are ended before that is passed on.

        The last needs no task and no slot of its own: it goes on in its parent's, and so in depth first.
        """
        *others, (last, place) = children
        tasks = [asyncio.create_task(self._answer_in_a_slot(child, below, tree)) for child, below in others]
        try:
            await self._answer(last, place, tree)
            with self.slots.lent():
                if len(tasks) == 1:
                    await tasks[0]  # the most frequent case, and gathering one takes longer than that one
                elif tasks:
                    await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def _child(self, sub: SubQuestion) -> Node:
        by = "amplified" if sub.recurse else "agent"
        if not self.corrections.edited:
            return Node(sub.question, by)
        asked = self.corrections.asked(sub.question)
        return Node(asked, by) if asked is sub.question else Node(asked, by, asked=sub.question)

    def _made(self, make: Make, tree: Tree) -> list[Content]:
        """The new messages. Raises TooLong when H has put together more than it may in one episode."""
        left = self.limits.made_chars - sum(tree.made)
        contents = []
        for pieces in make.messages:
            content = tree.messages.made(pieces, left)
            if len(pieces) > 1 or isinstance(pieces[0], str):
                tree.made.append(content.size)
                left -= content.size
            contents.append(content)
        return contents


def _end(node: Node, stop: StopReason, answer: Answer) -> None:
    node.stop, node.answer = stop, answer
