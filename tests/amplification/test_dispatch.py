"""The dispatcher over a sampler that streams: one flight a key, nothing lost or paid twice, nothing left hanging."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amplification.agent import Agent
from amplification.dispatch import ENOUGH_CALLS, Dispatcher, Outcome
from amplification.errors import ServingError, StageError
from amplification.memo import Memo
from amplification.serving.base import Call, Completion, ModelRef
from amplification.store import Store

AGENT = Agent("a", ModelRef("base"), "digest")
PATIENCE_S = 60  # what would hang fails instead

Result = TypeVar("Result")


class Gated:
    """Streams each prompt's completion, alone, when `let` opens its gate. A prompt is answered by its own name."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.streams: list[list[str]] = []
        self.closed: list[list[str]] = []
        self.errors: dict[str, Exception] = {}
        self.leaves_out: set[str] = set()
        self._gates: dict[str, asyncio.Event] = {}

    def let(self, *prompts: str) -> None:
        for prompt in prompts:
            self._gate(prompt).set()

    def _gate(self, prompt: str) -> asyncio.Event:
        return self._gates.setdefault(prompt, asyncio.Event())

    async def stream(self, calls: Sequence[Call]) -> AsyncIterator[list[tuple[int, Completion]]]:
        prompts = [call.prompt for call in calls]
        self.asked.update(prompts)
        self.streams.append(prompts)
        waits = {asyncio.ensure_future(self._gate(prompt).wait()): i for i, prompt in enumerate(prompts)}
        try:
            while waits:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for place in [waits.pop(future) for future in done]:
                    if prompts[place] in self.errors:
                        raise self.errors[prompts[place]]
                    if prompts[place] not in self.leaves_out:
                        yield [(place, Completion(prompts[place], 3, 2))]
        finally:
            self.closed.append(prompts)
            for future in waits:
                future.cancel()

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        raise AssertionError("a sampler that streams is streamed from")

    def parameters(self, model: ModelRef) -> int:
        return 1

    def close(self) -> None:
        pass


def run(work: Coroutine[Any, Any, Result]) -> Result:
    async def bounded() -> Result:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return asyncio.run(bounded())


def ask(dispatcher: Dispatcher, *prompts: str) -> asyncio.Task[list[Outcome]]:
    calls = [Call(AGENT.model, prompt, AGENT.params) for prompt in prompts]
    return asyncio.create_task(dispatcher.complete(AGENT, calls))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def told(outcomes: list[Outcome]) -> list[tuple[str, bool]]:
    return [(outcome.completion.text, outcome.hit) for outcome in outcomes]


def test_a_group_goes_on_as_soon_as_its_own_calls_are_there() -> None:
    async def work() -> None:
        sampler = Gated()
        dispatcher = Dispatcher(sampler)
        one, two = ask(dispatcher, "a", "b"), ask(dispatcher, "c")
        await settle()
        sampler.let("c")
        assert told(await two) == [("c", False)]
        assert not one.done()
        sampler.let("b")
        await settle()
        assert not one.done()
        sampler.let("a")
        assert told(await one) == [("a", False), ("b", False)]
        assert sampler.streams == [["a", "b", "c"]]

    run(work())


def test_new_calls_start_while_others_are_under_way_and_join_a_flight_of_their_key() -> None:
    async def work() -> None:
        sampler = Gated()
        dispatcher = Dispatcher(sampler)
        first = ask(dispatcher, "a", "b")
        await settle()
        second = ask(dispatcher, "b", "c", "c")
        await settle()
        assert sampler.streams == [["a", "b"], ["c"]]
        sampler.let("a", "b", "c")
        assert told(await first) == [("a", False), ("b", False)]
        assert told(await second) == [("b", True), ("c", False), ("c", True)]
        assert told(await ask(dispatcher, "a", "c")) == [("a", True), ("c", True)]
        assert sampler.asked == Counter("abc")

    run(work())


def test_a_stream_starts_once_enough_calls_wait_and_the_rest_follows() -> None:
    async def work() -> None:
        sampler = Gated()
        dispatcher = Dispatcher(sampler)
        prompts = [str(i) for i in range(ENOUGH_CALLS + 10)]
        sampler.let(*prompts)
        outcomes = await asyncio.gather(*(ask(dispatcher, prompt) for prompt in prompts))
        assert [outcome.completion.text for (outcome,) in outcomes] == prompts
        assert [len(stream) for stream in sampler.streams] == [ENOUGH_CALLS, 10]

    run(work())


def test_an_error_reaches_all_who_wait_and_the_next_asker_asks_again() -> None:
    async def work() -> None:
        sampler = Gated()
        dispatcher = Dispatcher(sampler)
        sampler.errors["a"] = ServingError("gone")
        answered, first = ask(dispatcher, "b"), ask(dispatcher, "a", "c")
        await settle()
        second = ask(dispatcher, "c", "d")
        sampler.let("b")
        assert told(await answered) == [("b", False)]
        sampler.let("a")
        for waiting in (first, second):
            with pytest.raises(ServingError, match="gone"):
                await waiting
        await settle()
        assert ["d"] in sampler.closed  # nobody waits for it any more
        sampler.errors.clear()
        sampler.let("c", "d")
        assert told(await ask(dispatcher, "a", "b", "c", "d")) == [
            ("a", False),
            ("b", True),
            ("c", False),
            ("d", False),
        ]

    run(work())


def test_calls_that_a_stream_leaves_out_are_an_error() -> None:
    async def work() -> None:
        sampler = Gated()
        sampler.leaves_out.add("b")
        sampler.let("a", "b")
        with pytest.raises(ServingError, match="1 of 2 calls unanswered"):
            await ask(Dispatcher(sampler), "a", "b")

    run(work())


def test_what_nobody_waits_for_any_more_is_aborted_and_can_be_asked_again() -> None:
    async def work() -> None:
        sampler = Gated()
        dispatcher = Dispatcher(sampler)
        one, two = ask(dispatcher, "a", "b"), ask(dispatcher, "b", "c")
        await settle()
        one.cancel()
        await settle()
        assert sampler.closed == []
        two.cancel()
        await settle()
        assert sampler.closed == [["a", "b", "c"]]
        sampler.let("a", "b", "c")
        assert told(await ask(dispatcher, "b")) == [("b", False)]

    run(work())


def test_who_still_waits_pays_when_the_first_asker_is_gone() -> None:
    async def work() -> None:
        sampler = Gated()
        dispatcher = Dispatcher(sampler)
        gone, stays, later = ask(dispatcher, "a"), ask(dispatcher, "a"), ask(dispatcher, "a")
        await settle()
        gone.cancel()
        await settle()
        sampler.let("a")
        assert told(await stays) == [("a", False)] and told(await later) == [("a", True)]
        assert sampler.asked == Counter("a")

    run(work())


def test_cancelled_before_the_flush_nothing_is_asked() -> None:
    async def work() -> None:
        sampler = Gated()
        dispatcher = Dispatcher(sampler)
        gone = ask(dispatcher, "a")
        await asyncio.sleep(0)
        gone.cancel()
        await settle()
        assert sampler.streams == []
        sampler.let("b")
        assert told(await ask(dispatcher, "b")) == [("b", False)]

    run(work())


def test_an_event_loop_that_ends_leaves_nothing_behind() -> None:
    sampler = Gated()
    dispatcher = Dispatcher(sampler)

    async def leave() -> None:
        ask(dispatcher, "a")
        await settle()
        ask(dispatcher, "b")  # not even flushed

    async def come_back() -> None:
        sampler._gates.clear()
        sampler.let("a", "b")
        assert told(await ask(dispatcher, "a", "b")) == [("a", False), ("b", False)]

    run(leave())
    assert sampler.closed == [["a"]]
    run(come_back())


def test_each_piece_is_on_disk_when_its_group_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        sampler = Gated()
        store = Store.at(tmp_path / "s.sqlite")
        dispatcher = Dispatcher(sampler, Memo(store, "one"))
        one, two = ask(dispatcher, "a"), ask(dispatcher, "b")
        await settle()
        sampler.let("a")
        await one
        assert [row.text for row in store.memo_rows(AGENT.digest)] == ["a"]
        sampler.let("b")
        await two
        assert sorted(row.text for row in store.memo_rows(AGENT.digest)) == ["a", "b"]
        store.close()

    run(work())


def test_a_memo_that_cannot_be_written_reaches_all_who_wait() -> None:
    class Full(Memo):
        def put(self, entries: Sequence[tuple[Any, Completion]]) -> None:
            raise StageError("the disk is full")

    async def work() -> None:
        sampler = Gated()
        dispatcher = Dispatcher(sampler, Full())
        one, two = ask(dispatcher, "a"), ask(dispatcher, "b")
        sampler.let("a")
        for waiting in (one, two):
            with pytest.raises(StageError, match="full"):
                await waiting
        assert sampler.closed == [["a", "b"]]

    run(work())


class Racing(Gated):
    """Streams pieces of random sizes in a random order after random pauses."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        import random

        self.random = random.Random(seed)

    async def stream(self, calls: Sequence[Call]) -> AsyncIterator[list[tuple[int, Completion]]]:
        self.asked.update(call.prompt for call in calls)
        places = self.random.sample(range(len(calls)), len(calls))
        while places:
            for _ in range(self.random.randrange(4)):
                await asyncio.sleep(0)
            size = self.random.randint(1, 3)
            piece, places = places[:size], places[size:]
            yield [(place, Completion(calls[place].prompt, 3, 2)) for place in piece]


@given(
    st.lists(st.lists(st.integers(0, 12), max_size=5), min_size=1, max_size=12),
    st.sets(st.integers(0, 11), max_size=4),
    st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_whatever_the_order_each_key_is_paid_once_and_everyone_is_answered(
    groups: list[list[int]], cancelled: set[int], seed: int
) -> None:
    async def work() -> None:
        sampler = Racing(seed)
        dispatcher = Dispatcher(sampler)
        waiting = []
        for i, group in enumerate(groups):
            waiting.append(ask(dispatcher, *(str(n) for n in group)))
            for _ in range(sampler.random.randrange(5)):
                await asyncio.sleep(0)
            if i in cancelled:
                waiting[sampler.random.randrange(len(waiting))].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        paid: Counter[str] = Counter()
        for group, result in zip(groups, results, strict=True):
            if isinstance(result, BaseException):
                assert isinstance(result, asyncio.CancelledError)
                continue
            assert [outcome.completion.text for outcome in result] == [str(n) for n in group]
            paid.update(outcome.completion.text for outcome in result if not outcome.hit)
        assert set(paid.values()) <= {1}
        if not cancelled:
            assert paid == sampler.asked
        assert not dispatcher._flights

    run(work())
