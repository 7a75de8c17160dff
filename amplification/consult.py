"""Consultant: H's questions to A, within the budget: samples, votes, and other draws for what was rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from amplification.agent import Agent
from amplification.budget import Account, OutOfBudget
from amplification.corrections import TRIES, Corrections
from amplification.dispatch import Dispatcher, Outcome
from amplification.episode import Cost, Node
from amplification.messages import Messages, TooLong
from amplification.question import Answer
from amplification.serving.base import Call
from amplification.voting import MOST_SAMPLES, Voting


class _Poll(NamedTuple):
    """One question with its calls, a call a sample."""

    node: Node
    text: str
    calls: list[Call]


class Set(NamedTuple):
    """Questions that the budget has set calls and tokens aside for."""

    polls: list[_Poll]
    calls: list[Call]
    tokens: int


class Consultant:
    """Asks A all questions of one step together and writes the answers into their nodes."""

    def __init__(
        self, agent: Agent, dispatcher: Dispatcher, voting: Voting, corrections: Corrections, most_chars: int
    ) -> None:
        """`most_chars`: characters of one question to A, what it points to included."""
        if voting.weights == "probability" and not agent.params.logprob:  # without them every sample would count as one
            agent = replace(agent, params=replace(agent.params, logprob=True))
        self.agent, self.dispatcher, self.voting = agent, dispatcher, voting
        self.corrections, self.most_chars = corrections, most_chars

    def reserve(self, nodes: Sequence[Node], account: Account, depth: int, draw: int, messages: Messages) -> Set:
        """Set aside what asking `nodes` can use at most. Raises OutOfBudget if not all of them can be asked."""
        samples = self.voting.samples_at(depth)
        polls = []
        for node in nodes:
            text = self._text(node, messages)
            if text is not None:
                polls.append(self._poll(node, text, draw * MOST_SAMPLES, samples))
        return self._set_aside(polls, account)

    async def ask(self, reserved: Set, account: Account, cost: Cost) -> None:
        """Answer what was reserved; by other draws what a person has rejected. Raises ServingError."""
        await self._ask(reserved, account, cost)
        rejected = self._rejected(reserved.polls)
        for _ in range(1, TRIES):
            if not rejected:
                return
            others = [self._poll(p.node, p.text, p.calls[0].sample + MOST_SAMPLES, len(p.calls)) for p in rejected]
            try:
                again = self._set_aside(others, account)
            except OutOfBudget:
                break
            await self._ask(again, account, cost)
            rejected = self._rejected(others)
        for poll in rejected:
            poll.node.answer = Answer.failed("every answer was rejected")

    def _rejected(self, polls: Sequence[_Poll]) -> list[_Poll]:
        return [poll for poll in polls if self.corrections.rejects(poll.node.question, poll.node.answer)]

    def _set_aside(self, polls: list[_Poll], account: Account) -> Set:
        """One call a sample. A token is at least one byte, so bytes bound a call's tokens, special ones included."""
        calls = [call for poll in polls for call in poll.calls]
        bound = sum(len(call.prompt.encode()) + call.params.max_tokens + 2 for call in calls)
        account.reserve(len(calls), bound)
        return Set(polls, calls, bound)

    def _text(self, node: Node, messages: Messages) -> str | None:
        if not node.question.pointers:
            return node.question.text
        try:
            return messages.expanded(node.question, self.most_chars)
        except TooLong as error:
            node.answer = Answer.failed(f"too long for the agent: {error}")
            return None

    def _poll(self, node: Node, text: str, first: int, samples: int) -> _Poll:
        return _Poll(node, text, [self.agent.call(text, first + place) for place in range(samples)])

    async def _ask(self, reserved: Set, account: Account, cost: Cost) -> None:
        """Make the reserved calls and settle them by what they used; a memo hit uses nothing."""
        polls, calls, bound = reserved
        if not calls:
            return
        used = Cost()
        try:
            outcomes = await self.dispatcher.complete(self.agent, calls)
            for outcome in outcomes:
                used.add(outcome.cost())
        finally:
            account.settle(len(calls), bound, used.calls, used.tokens)
        cost.add(used)
        given = iter(outcomes)
        for poll in polls:
            self._write(poll.node, [next(given) for _ in poll.calls])

    def _write(self, node: Node, outcomes: Sequence[Outcome]) -> None:
        node.by = "memo" if all(outcome.hit for outcome in outcomes) else "agent"
        if len(outcomes) == 1:
            node.answer = self.agent.answer_from(outcomes[0].completion)
            return
        node.samples = tuple(self.agent.answer_from(outcome.completion) for outcome in outcomes)
        node.answer = self.voting.elect(node.samples, [outcome.completion.logprob for outcome in outcomes])
