"""Dispatcher: the calls of all episodes that are ready together go to the model as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from amplification.agent import Agent
from amplification.episode import Cost
from amplification.errors import ServingError
from amplification.memo import Key, Memo, keys_of
from amplification.question import Answer, Question
from amplification.serving.base import Call, Completion, Sampler, StreamingSampler

# A model that streams is set to work once this many calls wait, while the rest of a step is still being asked.
ENOUGH_CALLS = 512


class Outcome(NamedTuple):
    """A completion, and whether it came from the memo (then it cost nothing)."""

    completion: Completion
    hit: bool

    def add_to(self, cost: Cost) -> None:
        """Count what this call used: nothing but a hit where the memo answered."""
        tokens = self.completion.prompt_tokens + self.completion.completion_tokens
        if self.hit:
            cost.memo_hits += 1
            cost.tokens_saved += tokens
        else:
            cost.calls += 1
            cost.tokens += tokens

    def cost(self) -> Cost:
        """What this call used, alone."""
        cost = Cost()
        self.add_to(cost)
        return cost


def count(outcomes: Sequence[Outcome], cost: Cost) -> tuple[int, int]:
    """Add what these calls used to a cost. Returns the calls and tokens that were used."""
    calls, tokens = cost.calls, cost.tokens
    for outcome in outcomes:
        outcome.add_to(cost)
    return cost.calls - calls, cost.tokens - tokens


UNDER_WAY = Outcome(Completion("", 0, 0, finished=False), hit=False)


@dataclass(slots=True, eq=False)
class Group:
    """The calls of one step of one workspace, answered together; `missing` of its outcomes are under way."""

    keys: list[Key]
    calls: Sequence[Call]
    future: asyncio.Future[list[Outcome]]
    missing: int = 0
    outcomes: list[Outcome] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Batch:
    """What one flush asks the model: what of it is under way, and how many places in groups wait for that."""

    flights: dict[Key, _Flight] = field(default_factory=dict)
    waiting: int = 0
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Flight:
    """One key under way: its call and batch, and the places in groups that wait for it, first come first."""

    call: Call
    batch: _Batch
    waiters: list[tuple[Group, int]] = field(default_factory=list)


class Dispatcher:
    """Memo in front of a sampler. One flight at a time for one key, whoever asks and whenever.

    What a sampler streams wakes each group as soon as its own calls are there, and new calls start meanwhile. A sampler
    that does not stream answers a whole batch before anything goes on.
    """

    def __init__(self, sampler: Sampler, memo: Memo | None = None) -> None:
        self.sampler = sampler
        self.memo = memo or Memo()
        self._streaming = sampler if isinstance(sampler, StreamingSampler) else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._groups: list[Group] = []
        self._queued = self._seen = 0  # calls in those groups, now and one pass of the loop ago
        self._is_watched = False
        self._flights: dict[Key, _Flight] = {}

    async def complete(self, agent: Agent, calls: Sequence[Call]) -> list[Outcome]:
        """One outcome a call, in order. Raises ServingError if the model cannot answer at all."""
        group = self.begin(agent, calls)
        try:
            return await group.future
        finally:
            self.let_go(group)

    def begin(self, agent: Agent, calls: Sequence[Call]) -> Group:
        """Put calls on their way. The group's future gives one outcome a call, in order, or raises as `complete` does.

        Whoever begins lets go of the group in the end, whatever happens.
        """
        self.memo.load(agent.digest)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # whatever an earlier loop left behind ended with it
            self._loop = loop
            self._start_afresh()
        group = Group(keys_of(agent.digest, calls), calls, loop.create_future())
        self._groups.append(group)
        self._queued += len(calls)
        if self._streaming is not None and self._queued >= ENOUGH_CALLS:
            self._flush(loop)
        elif not self._is_watched:
            self._is_watched, self._seen = True, 0
            loop.call_soon(self._flush_when_quiet, loop)
        return group

    def let_go(self, group: Group) -> None:
        """The group waits no longer for what is still under way; a batch is aborted once nobody waits for any of it."""
        future = group.future
        if not future.done():
            future.cancel()
        elif not future.cancelled():
            future.exception()  # whoever lets go without a look at it need not be told that it failed
        if group.missing:
            self._unwait(group)

    async def answers(self, agent: Agent, questions: Sequence[Question]) -> list[tuple[Answer, Outcome]]:
        """What the agent alone says to each question, with the outcome that tells what it cost."""
        outcomes = await self.complete(agent, [agent.call(question.text) for question in questions])
        return [(agent.answer_from(outcome.completion), outcome) for outcome in outcomes]

    def _flush_when_quiet(self, loop: asyncio.AbstractEventLoop) -> None:
        # While other workspaces still add calls, let them: one pass of the loop without news means all wait for us.
        if loop is not self._loop:
            return
        if len(self._groups) != self._seen:
            self._seen = len(self._groups)
            loop.call_soon(self._flush_when_quiet, loop)
            return
        self._is_watched = False
        self._flush(loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        groups, self._groups, self._queued = self._groups, [], 0
        batch = _Batch()
        try:
            for group in groups:
                if not group.future.done():
                    self._board(group, batch)
            self._depart(batch, loop)
        except Exception as error:  # every waiting workspace learns of it; none is left hanging
            self._fail(batch, error, groups)

    def _board(self, group: Group, batch: _Batch) -> None:
        """Take what the memo knows, join what is under way, and put the rest into the batch."""
        for index, key in enumerate(group.keys):
            flight = self._flights.get(key)
            if flight is None:
                found, hit = self.memo.get(key)
                if found is not None:
                    group.outcomes.append(Outcome(found, hit))
                    continue
                flight = self._flights[key] = batch.flights[key] = _Flight(group.calls[index], batch)
            flight.waiters.append((group, index))
            flight.batch.waiting += 1
            group.missing += 1
            group.outcomes.append(UNDER_WAY)
        if not group.missing:
            group.future.set_result(group.outcomes)

    def _depart(self, batch: _Batch, loop: asyncio.AbstractEventLoop) -> None:
        if not batch.flights:
            return
        if self._streaming is not None:
            batch.task = loop.create_task(self._stream(self._streaming, batch))
            return
        calls = [flight.call for flight in batch.flights.values()]
        self._land(batch, zip(list(batch.flights), self.sampler.sample(calls), strict=True))

    async def _stream(self, sampler: StreamingSampler, batch: _Batch) -> None:
        keys = list(batch.flights)
        pieces = sampler.stream([flight.call for flight in batch.flights.values()])
        try:
            async for piece in pieces:
                self._land(batch, [(keys[place], completion) for place, completion in piece])
            if batch.flights:
                raise ServingError(f"the back end left {len(batch.flights)} of {len(keys)} calls unanswered")
        except Exception as error:
            self._fail(batch, error)
        finally:
            self._forget(batch)
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

    def _land(self, batch: _Batch, arrived: Iterable[tuple[Key, Completion]]) -> None:
        """Remember completions and hand them to those who wait. A key that is not under way here is no news."""
        fresh = {key: completion for key, completion in arrived if key in batch.flights}
        self.memo.put(list(fresh.items()))
        for key, completion in fresh.items():
            del self._flights[key]
            hit = False
            for group, index in batch.flights.pop(key).waiters:
                batch.waiting -= 1
                if group.future.done():
                    continue
                group.outcomes[index] = Outcome(completion, hit)
                hit = True  # the first who still waits has paid
                group.missing -= 1
                if not group.missing:
                    group.future.set_result(group.outcomes)
        self._abort_if_unwanted(batch)

    def _unwait(self, group: Group) -> None:
        for key, outcome in zip(group.keys, group.outcomes, strict=True):
            flight = self._flights.get(key)
            if outcome is not UNDER_WAY or flight is None:
                continue
            others = [waiter for waiter in flight.waiters if waiter[0] is not group]
            flight.batch.waiting -= len(flight.waiters) - len(others)
            flight.waiters = others
            self._abort_if_unwanted(flight.batch)

    def _abort_if_unwanted(self, batch: _Batch) -> None:
        if batch.flights and not batch.waiting and batch.task is not None:
            self._forget(batch)
            batch.task.cancel()

    def _fail(self, batch: _Batch, error: Exception, others: Iterable[Group] = ()) -> None:
        for group in [*self._waiting_for(batch), *others]:
            if not group.future.done():
                group.future.set_exception(error)
        self._forget(batch)

    def _forget(self, batch: _Batch) -> None:
        """What is not answered is no longer under way: whoever asks again starts a new flight."""
        for group in self._waiting_for(batch):
            group.future.cancel()  # does nothing to what is done
        for key, flight in batch.flights.items():
            if self._flights.get(key) is flight:
                del self._flights[key]
        batch.flights.clear()

    def _waiting_for(self, batch: _Batch) -> list[Group]:
        return [group for flight in batch.flights.values() for group, _ in flight.waiters]
