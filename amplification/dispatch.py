"""Dispatcher: the calls of all episodes that are ready together go to the model as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from amplification.agent import Agent
from amplification.episode import Cost
from amplification.errors import ServingError
from amplification.memo import Key, Memo, key_of
from amplification.question import Answer, Question
from amplification.serving.base import Call, Completion, Sampler, StreamingSampler


@dataclass(frozen=True, slots=True)
class Outcome:
    """A completion, and whether it came from the memo (then it cost nothing)."""

    completion: Completion
    hit: bool

    def cost(self) -> Cost:
        """What this call used: nothing but a counted hit where the memo answered."""
        tokens = self.completion.prompt_tokens + self.completion.completion_tokens
        return Cost(memo_hits=1, tokens_saved=tokens) if self.hit else Cost(calls=1, tokens=tokens)


@dataclass(slots=True, eq=False)
class _Group:
    """The calls of one step of one workspace, answered together. `batches` are those it waits for."""

    keys: list[Key]
    calls: Sequence[Call]
    future: asyncio.Future[list[Outcome]]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    batches: set[_Batch] = field(default_factory=set)

    def resolve(self) -> None:
        """Wake whoever waits; every outcome is there."""
        self.future.set_result([self.outcomes[i] for i in range(len(self.keys))])


@dataclass(slots=True, eq=False)
class _Batch:
    """What one flush asks the model: the calls not yet answered by key, and the groups that wait for any of them."""

    calls: dict[Key, Call] = field(default_factory=dict)
    groups: set[_Group] = field(default_factory=set)
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Flight:
    """One key under way: its batch, and the places in groups that wait for it, first come first."""

    batch: _Batch
    waiters: list[tuple[_Group, int]] = field(default_factory=list)


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
        self._groups: list[_Group] = []
        self._flights: dict[Key, _Flight] = {}
        self._seen = 0

    async def complete(self, agent: Agent, calls: Sequence[Call]) -> list[Outcome]:
        """One outcome a call, in order. Raises ServingError if the model cannot answer at all.

        Cancelled, it lets go of its calls; those that nobody else waits for are aborted with the rest of their batch
        once nobody waits for any of it.
        """
        self.memo.load(agent.digest)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # whatever an earlier loop left behind went with it
            self._loop, self._groups, self._flights = loop, [], {}
        group = _Group([key_of(agent.digest, call) for call in calls], calls, loop.create_future())
        if not self._groups:
            self._seen = 0
            loop.call_soon(self._flush_when_quiet, loop)
        self._groups.append(group)
        try:
            return await group.future
        finally:
            if group.batches:  # cancelled, or failed in one batch while waiting for another
                self._let_go(group)

    async def answers(self, agent: Agent, questions: Sequence[Question]) -> list[tuple[Answer, Outcome]]:
        """What the agent alone says to each question, with the outcome that tells what it cost."""
        outcomes = await self.complete(agent, [agent.call(question.text) for question in questions])
        return [(agent.answer_from(outcome.completion), outcome) for outcome in outcomes]

    def _flush_when_quiet(self, loop: asyncio.AbstractEventLoop) -> None:
        # While other workspaces still add calls, let them: one pass of the loop without news means all wait for us.
        if loop is not self._loop:
            return
        if len(self._groups) > self._seen:
            self._seen = len(self._groups)
            loop.call_soon(self._flush_when_quiet, loop)
            return
        groups, self._groups = self._groups, []
        batch = _Batch()
        try:
            for group in groups:
                if not group.future.done():
                    self._board(group, batch)
            self._depart(batch, loop)
        except Exception as error:  # every waiting workspace learns of it; none is left hanging
            self._fail(batch, error, groups)

    def _board(self, group: _Group, batch: _Batch) -> None:
        """Take what the memo knows, join what is under way, and put the rest into the batch."""
        for index, key in enumerate(group.keys):
            flight = self._flights.get(key)
            if flight is None:
                found, hit = self.memo.get(key)
                if found is not None:
                    group.outcomes[index] = Outcome(found, hit)
                    continue
                flight = self._flights[key] = _Flight(batch)
                batch.calls[key] = group.calls[index]
            flight.waiters.append((group, index))
            flight.batch.groups.add(group)
            group.batches.add(flight.batch)
        if len(group.outcomes) == len(group.keys):
            group.resolve()

    def _depart(self, batch: _Batch, loop: asyncio.AbstractEventLoop) -> None:
        if not batch.calls:
            return
        if self._streaming is not None:
            batch.task = loop.create_task(self._stream(self._streaming, batch))
            return
        keys = list(batch.calls)
        self._land(batch, zip(keys, self.sampler.sample(list(batch.calls.values())), strict=True))

    async def _stream(self, sampler: StreamingSampler, batch: _Batch) -> None:
        keys = list(batch.calls)
        pieces = sampler.stream(list(batch.calls.values()))
        try:
            async for piece in pieces:
                self._land(batch, [(keys[place], completion) for place, completion in piece])
            if batch.calls:
                raise ServingError(f"the back end left {len(batch.calls)} of {len(keys)} calls unanswered")
        except Exception as error:
            self._fail(batch, error)
        finally:
            self._forget(batch)  # cancelled from outside, its calls are no longer under way
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

    def _land(self, batch: _Batch, arrived: Iterable[tuple[Key, Completion]]) -> None:
        """Remember completions and hand them to those who wait. A key that is not under way here is no news."""
        fresh = {key: completion for key, completion in arrived if key in batch.calls}
        self.memo.put(list(fresh.items()))
        flights = [self._flights.pop(key) for key in fresh]
        for key in fresh:
            del batch.calls[key]
        for flight, completion in zip(flights, fresh.values(), strict=True):
            hit = False  # the first who still waits pays
            for group, index in flight.waiters:
                if group.future.done():
                    continue
                group.outcomes[index] = Outcome(completion, hit)
                hit = True
                if len(group.outcomes) == len(group.keys):
                    group.resolve()
                    self._let_go(group)

    def _let_go(self, group: _Group) -> None:
        """The group waits no longer. A batch under way for which nobody waits is aborted."""
        for batch in group.batches:
            batch.groups.discard(group)
            if batch.calls and not batch.groups:
                self._forget(batch)
                if batch.task is not None:
                    batch.task.cancel()
        group.batches.clear()

    def _fail(self, batch: _Batch, error: Exception, others: Iterable[_Group] = ()) -> None:
        for group in [*batch.groups, *others]:
            if not group.future.done():
                group.future.set_exception(error)
        self._forget(batch)

    def _forget(self, batch: _Batch) -> None:
        """What of the batch is not answered is no longer under way; whoever asks again starts a new flight."""
        for key in batch.calls:
            flight = self._flights.get(key)
            if flight is not None and flight.batch is batch:
                del self._flights[key]
        batch.calls.clear()
        for group in batch.groups:
            group.future.cancel()  # does nothing to what is done
        batch.groups.clear()
