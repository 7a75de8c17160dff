"""Dispatcher: the calls of all episodes that are ready together go to the model as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from amplification.agent import Agent
from amplification.episode import Cost
from amplification.memo import Key, Memo, key_of
from amplification.question import Answer, Question
from amplification.serving.base import Call, Completion, Sampler


@dataclass(frozen=True, slots=True)
class Outcome:
    """A completion, and whether it came from the memo (then it cost nothing)."""

    completion: Completion
    hit: bool

    def cost(self) -> Cost:
        """What this call used: nothing but a counted hit where the memo answered."""
        tokens = self.completion.prompt_tokens + self.completion.completion_tokens
        return Cost(memo_hits=1, tokens_saved=tokens) if self.hit else Cost(calls=1, tokens=tokens)


@dataclass(slots=True)
class _Group:
    """The calls of one step of one workspace, answered together."""

    keys: list[Key]
    calls: Sequence[Call]
    future: asyncio.Future[list[Outcome]]
    outcomes: dict[int, Outcome] = field(default_factory=dict)


class Dispatcher:
    """Memo in front of a sampler. One flight at a time for one key: equal calls of a batch are sampled once."""

    def __init__(self, sampler: Sampler, memo: Memo | None = None) -> None:
        self.sampler = sampler
        self.memo = memo or Memo()
        self._groups: list[_Group] = []
        self._seen = 0

    async def complete(self, agent: Agent, calls: Sequence[Call]) -> list[Outcome]:
        """One outcome a call, in order. Raises ServingError if the model cannot answer at all."""
        self.memo.load(agent.digest)
        loop = asyncio.get_running_loop()
        group = _Group([key_of(agent.digest, call) for call in calls], calls, loop.create_future())
        if not self._groups:
            self._seen = 0
            loop.call_soon(self._flush_when_quiet, loop)
        self._groups.append(group)
        return await group.future

    async def answers(self, agent: Agent, questions: Sequence[Question]) -> list[tuple[Answer, Outcome]]:
        """What the agent alone says to each question, with the outcome that tells what it cost."""
        outcomes = await self.complete(agent, [agent.call(question.text) for question in questions])
        return [(agent.answer_from(outcome.completion), outcome) for outcome in outcomes]

    def _flush_when_quiet(self, loop: asyncio.AbstractEventLoop) -> None:
        # While other workspaces still add calls, let them: one pass of the loop without news means all wait for us.
        if len(self._groups) > self._seen:
            self._seen = len(self._groups)
            loop.call_soon(self._flush_when_quiet, loop)
            return
        groups, self._groups = self._groups, []
        try:
            self._answer(groups)
        except Exception as error:  # every waiting workspace learns of it; none is left hanging
            for group in groups:
                if not group.future.done():
                    group.future.set_exception(error)

    def _answer(self, groups: list[_Group]) -> None:
        misses: dict[Key, Call] = {}
        for group in groups:
            for index, (key, call) in enumerate(zip(group.keys, group.calls, strict=True)):
                found, hit = self.memo.get(key)
                if found is not None:
                    group.outcomes[index] = Outcome(found, hit)
                else:
                    misses.setdefault(key, call)
        fresh = dict(zip(misses, self.sampler.sample(list(misses.values())), strict=True)) if misses else {}
        self.memo.put(list(fresh.items()))
        paid: set[Key] = set()
        for group in groups:
            for index, key in enumerate(group.keys):
                if index not in group.outcomes:
                    group.outcomes[index] = Outcome(fresh[key], key in paid)
                    paid.add(key)
            if not group.future.done():
                group.future.set_result([group.outcomes[i] for i in range(len(group.keys))])
