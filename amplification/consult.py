"""Consultant: H's questions to A, within the budget: samples, votes, and other draws for what was rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from amplification.agent import Agent
from amplification.budget import Account, OutOfBudget
from amplification.corrections import TRIES, Corrections
from amplification.dispatch import Dispatcher, Outcome, count
from amplification.episode import Cost, Node
from amplification.messages import Messages, TooLong
from amplification.question import Answer
from amplification.voting import MOST_SAMPLES, Voting

# A question's node, and its text with its pointers replaced.
Asked = tuple[Node, str]


class Consultation:
    """Questions to A whose calls are under way, and what the budget has set aside for them, until it is left.

    Each question stands beside its text, its pointers replaced; it has `samples` calls in a row, numbered from `first`.
    """

    __slots__ = ("account", "asked", "dispatcher", "first", "group", "reserved", "samples")

    def __init__(
        self, asked: list[Asked], first: int, samples: int, agent: Agent, dispatcher: Dispatcher, account: Account
    ) -> None:
        """Raises OutOfBudget if not all of it can be asked."""
        self.asked, self.first, self.samples = asked, first, samples
        self.account, self.dispatcher = account, dispatcher
        calls = [agent.call(text, first + place) for _, text in asked for place in range(samples)]
        # A token is at least one byte, so bytes bound a call's tokens, special ones included.
        tokens = sum([len(call.prompt.encode()) + call.params.max_tokens + 2 for call in calls])
        account.reserve(len(calls), tokens)
        self.reserved = len(calls), tokens
        self.group = dispatcher.begin(agent, calls) if calls else None

    async def outcomes(self, cost: Cost) -> list[Outcome]:
        """Wait for the calls and settle them by what they used; a memo hit uses nothing. Raises ServingError."""
        if self.group is None:
            return []
        outcomes = await self.group.future
        self._settle(*count(outcomes, cost))
        return outcomes

    def __enter__(self) -> Consultation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.group is not None:
            self.dispatcher.let_go(self.group)
            self._settle(0, 0)

    def _settle(self, calls_used: int, tokens_used: int) -> None:
        calls, tokens = self.reserved
        self.reserved = 0, 0
        self.account.settle(calls, tokens, calls_used, tokens_used)


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

    def consult(
        self, nodes: Sequence[Node], account: Account, depth: int, draw: int, messages: Messages
    ) -> Consultation:
        """Begin to ask A the questions of `nodes`. Raises OutOfBudget if not all of them can be asked."""
        asked = [(node, text) for node in nodes if (text := self._text(node, messages)) is not None]
        return self._ask(asked, draw * MOST_SAMPLES, self.voting.samples_at(depth), account)

    async def finish(self, consultation: Consultation, cost: Cost) -> None:
        """Write the answers into the nodes; by other draws what a person has rejected. Raises ServingError."""
        await self._write(consultation, cost)
        if not self.corrections.rejected:
            return
        rejected = self._rejected(consultation)
        for _ in range(1, TRIES):
            if not rejected:
                return
            first, samples, account = consultation.first, consultation.samples, consultation.account
            try:
                consultation = self._ask(rejected, first + MOST_SAMPLES, samples, account)
            except OutOfBudget:
                break
            with consultation:
                await self._write(consultation, cost)
            rejected = self._rejected(consultation)
        for node, _ in rejected:
            node.answer = Answer.failed("every answer was rejected")

    def _ask(self, asked: list[Asked], first: int, samples: int, account: Account) -> Consultation:
        return Consultation(asked, first, samples, self.agent, self.dispatcher, account)

    def _rejected(self, consultation: Consultation) -> list[Asked]:
        rejects = self.corrections.rejects
        return [(node, text) for node, text in consultation.asked if rejects(node.question, node.answer)]

    def _text(self, node: Node, messages: Messages) -> str | None:
        if not node.question.pointers:
            return node.question.text
        try:
            return messages.expanded(node.question, self.most_chars)
        except TooLong as error:
            node.answer = Answer.failed(f"too long for the agent: {error}")
            return None

    async def _write(self, consultation: Consultation, cost: Cost) -> None:
        outcomes, samples = await consultation.outcomes(cost), consultation.samples
        for place, (node, _) in enumerate(consultation.asked):
            self._write_one(node, outcomes[place * samples : (place + 1) * samples])

    def _write_one(self, node: Node, outcomes: Sequence[Outcome]) -> None:
        if len(outcomes) == 1:
            [outcome] = outcomes
            node.by, node.answer = "memo" if outcome.hit else "agent", self.agent.answer_from(outcome.completion)
            return
        node.by = "memo" if all(outcome.hit for outcome in outcomes) else "agent"
        node.samples = tuple(self.agent.answer_from(outcome.completion) for outcome in outcomes)
        node.answer = self.voting.elect(node.samples, [outcome.completion.logprob for outcome in outcomes])
