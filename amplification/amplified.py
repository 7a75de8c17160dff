"""Amplified (H^A): meta-execution. An overseer answers a question by consulting an agent inside a budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import NamedTuple

from amplification.agent import Agent
from amplification.budget import Account, Limits, OutOfBudget, rounded
from amplification.dispatch import Dispatcher
from amplification.episode import Cost, Episode, Node, StopReason
from amplification.overseer import Overseer
from amplification.question import Answer, Question
from amplification.serving.base import Call
from amplification.workspace import Action, Ask, Exchange, GiveUp, Look, Reply, SubQuestion, Workspace


class Amplified:
    """An Overseer with an Agent and limits. Answers questions like an Agent does, slowly."""

    def __init__(self, overseer: Overseer, agent: Agent, dispatcher: Dispatcher, limits: Limits) -> None:
        self.overseer, self.agent, self.dispatcher, self.limits = overseer, agent, dispatcher, limits

    async def answer(self, question: Question) -> Episode:
        """One episode. Whatever the overseer does, it ends in an answer or a failure, inside the limits."""
        started, cost = time.monotonic(), Cost()
        tree = await self._answer_node(question, Account.root(self.limits), cost)
        seconds = time.monotonic() - started
        return Episode(tree, tree.stop or StopReason.REPLIED, cost, seconds, self.agent.digest, self.overseer.name)

    async def answer_all(self, questions: Iterable[Question], at_once: int = 4096) -> AsyncIterator[Episode]:
        """Episodes of many questions side by side, in the order of the questions, `at_once` at a time."""
        batch: list[Question] = []
        for question in questions:
            batch.append(question)
            if len(batch) == at_once:
                for episode in await asyncio.gather(*map(self.answer, batch)):
                    yield episode
                batch = []
        for episode in await asyncio.gather(*map(self.answer, batch)):
            yield episode

    async def _answer_node(self, question: Question, account: Account, cost: Cost) -> Node:
        """The meta-execution loop: show H the workspace, do what it says, until it replies or something runs out."""
        node = Node(question, by="amplified")
        exchanges: tuple[Exchange, ...] = ()
        try:
            for _ in range(self.limits.steps):
                account.check_time()
                shown = Workspace(question, exchanges, rounded(account.calls_left), rounded(account.depth))
                if shown.characters() > self.limits.workspace_chars:
                    return _end(node, StopReason.OUT_OF_BUDGET, Answer.failed("the workspace is full"))
                cost.overseer_steps += 1
                action = await self.overseer.act(shown)
                match action:
                    case Ask(subs) if subs:
                        exchanges += await self._ask(subs, node, account, cost)
                    case Reply(text, pointers):
                        return _end(node, StopReason.REPLIED, Answer(text, pointers))
                    case GiveUp(reason):
                        return _end(node, StopReason.GAVE_UP, Answer.failed(reason))
                    case _:
                        return _end(node, StopReason.BAD_ACTION, Answer.failed(_bad(action)))
        except OutOfBudget as error:
            return _end(node, StopReason.OUT_OF_BUDGET, Answer.failed(str(error)))
        return _end(node, StopReason.OUT_OF_STEPS, Answer.failed("out of steps"))

    async def _ask(
        self, subs: tuple[SubQuestion, ...], node: Node, account: Account, cost: Cost
    ) -> tuple[Exchange, ...]:
        """All sub-questions of one step at once: those for A as one group, each for H^A as a child of its own."""
        direct = [sub.question for sub in subs if not sub.recurse]
        nested = [sub.question for sub in subs if sub.recurse]
        # Children first: if there is nothing left for them, the step ends before anything is set aside for A.
        children = account.open_children(len(nested)) if nested else []
        reserved = self._reserve(direct, account, children)
        asked: list[Awaitable[list[Node]]] = [self._ask_agent(reserved, account, cost)] if direct else []
        asked += [self._ask_child(*pair, account, cost) for pair in zip(nested, children, strict=True)]
        # One awaitable needs no task of its own: most steps ask A alone.
        results = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
        agents = iter(results[0] if direct else [])
        amplified = iter([nodes[0] for nodes in (results[1:] if direct else results)])
        answered = [next(amplified) if sub.recurse else next(agents) for sub in subs]
        node.children += answered
        return tuple(Exchange(child.question, child.answer) for child in answered)

    async def _ask_child(self, question: Question, child: Account, account: Account, cost: Cost) -> list[Node]:
        try:
            return [await self._answer_node(question, child, cost)]
        finally:
            account.close_child(child)

    def _reserve(self, questions: list[Question], account: Account, children: list[Account]) -> _Reserved:
        """One call a question. A token is at least one byte, so bytes bound a call's tokens, special ones included.

        Where the budget does not reach, the children opened for the same step are closed before OutOfBudget goes on.
        """
        calls = [self.agent.call(question) for question in questions]
        bound = sum(len(call.prompt.encode()) + call.params.max_tokens + 2 for call in calls)
        try:
            account.reserve(len(calls), bound)
        except OutOfBudget:
            for child in children:
                account.close_child(child)
            raise
        return _Reserved(questions, calls, bound)

    async def _ask_agent(self, reserved: _Reserved, account: Account, cost: Cost) -> list[Node]:
        """Make the reserved calls and settle them by what they used; a memo hit uses nothing."""
        used = Cost()
        try:
            outcomes = await self.dispatcher.complete(self.agent, reserved.calls)
            for outcome in outcomes:
                used.add(outcome.cost())
        finally:
            account.settle(len(reserved.calls), reserved.tokens, used.calls, used.tokens)
        cost.add(used)
        return [
            Node(question, "memo" if outcome.hit else "agent", self.agent.answer_from(outcome.completion))
            for question, outcome in zip(reserved.questions, outcomes, strict=True)
        ]


class _Reserved(NamedTuple):
    """Calls of A that the budget has set aside, with the tokens they may use."""

    questions: list[Question]
    calls: list[Call]
    tokens: int


def _end(node: Node, stop: StopReason, answer: Answer) -> Node:
    node.stop, node.answer = stop, answer
    return node


def _bad(action: Action) -> str:
    if isinstance(action, Look):
        return "the overseer looked at a pointer it was not given"
    return "the overseer asked nothing"
