"""How sure an agent is of its own answers: the policy's score that guides an adversary."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

from amplification.agent import Agent
from amplification.dispatch import Dispatcher
from amplification.episode import Cost
from amplification.question import Question


class SureAgent:
    """An agent's greedy answers as texts ("" for a failed one), and the probability that it gives to each of them."""

    def __init__(self, agent: Agent, dispatcher: Dispatcher, cost: Cost | None = None) -> None:
        """`cost` is added to. The back end must be one that gives log-probabilities."""
        self.agent = replace(agent, params=replace(agent.params, logprob=True))
        self.dispatcher, self.cost = dispatcher, cost
        self._sure: dict[str, float] = {}

    def answer(self, texts: Sequence[str]) -> list[str]:
        """Answers in order."""
        given = asyncio.run(self.dispatcher.answers(self.agent, [Question(text) for text in texts]))
        for text, (_, outcome) in zip(texts, given, strict=True):
            if self.cost is not None:
                outcome.add_to(self.cost)
            logprob = outcome.completion.logprob
            self._sure[text] = math.exp(logprob) if logprob is not None else 0.0
        return [answer.text for answer, _ in given]

    def confidence(self, texts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Probabilities in [0, 1] of answers that `answer` gave to these questions."""
        return [self._sure[text] for text in texts]
