"""Streams of the vLLM back end, beside the same engine's `sample`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from amplification.errors import InputError, ServingError
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams, StreamingSampler
from amplification.serving.vllm import VLLMSampler

GREEDY = SamplingParams(max_tokens=3)
LONG = SamplingParams(max_tokens=24)
HOT = SamplingParams(max_tokens=6, temperature=1.0)


@pytest.fixture
def either(request: pytest.FixtureRequest, sampler: VLLMSampler, beside: VLLMSampler) -> VLLMSampler:
    return sampler if request.param == "merged" else beside


both = pytest.mark.parametrize("either", ["merged", "beside"], indirect=True)


async def drained(sampler: VLLMSampler, calls: Sequence[Call]) -> list[Completion]:
    """What a stream gives, in the order of its calls; each place once."""
    got: dict[int, Completion] = {}
    async for pieces in sampler.stream(calls):
        assert pieces
        for place, completion in pieces:
            assert place not in got
            got[place] = completion
    return [got[place] for place in range(len(calls))]


async def until(condition: Callable[[], object]) -> None:
    """Let the others in the loop go on until the condition holds."""
    while not condition():  # noqa: ASYNC110 -- nothing announces it
        await asyncio.sleep(0)


def unfinished(sampler: VLLMSampler) -> int:
    """Requests that the engines still hold, and calls that wait for a turn."""
    engines = list(sampler._engines.values())
    schedulers = [engine._llm.llm_engine.engine_core.engine_core.scheduler for engine in engines]
    held: int = sum(scheduler.get_num_unfinished_requests() for scheduler in schedulers)
    return held + sum(len(engine.queue.tickets) for engine in engines)


def mixed(models: Sequence[ModelRef], prompts: Sequence[str]) -> list[Call]:
    """Calls of every kind for several models, in any order."""
    rng = random.Random(1)
    kinds = (GREEDY, LONG, HOT, SamplingParams(max_tokens=8, stop=("w7", "w1")))
    short = [prompt for prompt in prompts if len(prompt.split()) < 30]
    calls = [Call(model, prompt, kind) for model in models for prompt in short[:8] for kind in kinds]
    rng.shuffle(calls)
    return calls


@both
def test_streaming_gives_what_sampling_gives(
    either: VLLMSampler, expected: dict[ModelRef, list[str]], prompts: list[str]
) -> None:
    calls = mixed(list(expected), prompts)
    want = either.sample(calls)

    async def in_one() -> list[Completion]:
        return await drained(either, calls)

    async def in_many() -> list[Completion]:
        parts = [calls[i::5] for i in range(5)]
        got = await asyncio.gather(*(drained(either, part) for part in parts))
        return [got[i % 5][i // 5] for i in range(len(calls))]

    assert isinstance(either, StreamingSampler)
    assert asyncio.run(in_one()) == want
    assert asyncio.run(in_many()) == want
    assert unfinished(either) == 0


def test_a_short_completion_comes_before_a_long_one(sampler: VLLMSampler, base: ModelRef) -> None:
    calls = [Call(base, "w1 w2", LONG), Call(base, "w3 w4", SamplingParams(max_tokens=1))]

    async def order() -> list[int]:
        return [place async for pieces in sampler.stream(calls) for place, _ in pieces]

    assert asyncio.run(order()) == [1, 0]


def test_a_refused_prompt_does_not_wait_for_the_others(sampler: VLLMSampler, base: ModelRef) -> None:
    async def first() -> list[tuple[int, Completion]]:
        async with aclosing(sampler.stream([Call(base, "w1", LONG), Call(base, " ", LONG)])) as pieces:
            return await anext(pieces)

    [(place, completion)] = asyncio.run(first())
    assert place == 1 and completion.error == "the prompt is empty" and unfinished(sampler) == 0


def test_a_call_joins_while_another_stream_is_under_way(sampler: VLLMSampler, base: ModelRef) -> None:
    async def run() -> list[str]:
        finished = []

        async def one(name: str, params: SamplingParams) -> None:
            await drained(sampler, [Call(base, f"w1 {name}", params)])
            finished.append(name)

        long = asyncio.create_task(one("w5", LONG))
        await until(lambda: unfinished(sampler))
        await one("w6", GREEDY)
        sampler.sample([Call(base, "w7", GREEDY)])  # a call beside the loop is served too, and harms no stream
        await long
        return finished

    assert asyncio.run(run()) == ["w6", "w5"]


def test_new_calls_join_the_next_step(sampler: VLLMSampler, base: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many workspaces that each ask three times in a row take hardly more steps than one of them."""
    sampler.sample([Call(base, "w1", GREEDY)])
    engine = sampler._engine(base)
    steps = 0
    step = engine.queue.step

    def counted() -> Any:
        nonlocal steps
        steps += 1
        return step()

    monkeypatch.setattr(engine.queue, "step", counted)

    async def workspace(name: int) -> None:
        for turn in range(3):
            await drained(sampler, [Call(base, f"w{name} w{turn}", SamplingParams(max_tokens=2))])

    async def all_of_them() -> None:
        await asyncio.gather(*map(workspace, range(40)))

    asyncio.run(all_of_them())
    assert steps <= 3 * 2 + 3


@both
@pytest.mark.parametrize("way", ["closed", "cancelled"])
def test_stopping_early_leaves_nothing_in_the_engine(
    either: VLLMSampler, expected: dict[ModelRef, list[str]], prompts: list[str], way: str
) -> None:
    calls = [Call(model, prompt, kind) for prompt in prompts[:6] for model in expected for kind in (LONG, HOT)]
    want = either.sample([Call(next(iter(expected)), prompts[0], GREEDY)])

    async def close() -> None:
        async with aclosing(either.stream(calls)) as pieces:
            await anext(pieces)
            assert unfinished(either) > 0

    async def cancel() -> None:
        others = [asyncio.create_task(drained(either, calls[i::4])) for i in range(4)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        # The first is stepping for the others, which must go on without it.
        others[0].cancel()
        done = await asyncio.gather(*others, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError) and all(len(d) for d in done[1:])  # type: ignore[arg-type]
        last = asyncio.create_task(drained(either, calls))
        await until(lambda: unfinished(either))
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)

    asyncio.run(close() if way == "closed" else cancel())
    assert unfinished(either) == 0
    assert either.sample([Call(next(iter(expected)), prompts[0], GREEDY)]) == want


def test_two_models_take_turns_and_do_not_mix(
    sampler: VLLMSampler, expected: dict[ModelRef, list[str]], base: ModelRef, adapted: ModelRef, prompts: list[str]
) -> None:
    """One model is never without new calls; the other's are served nevertheless, each with its own weights."""
    served: list[int] = []

    async def run() -> None:
        stop = asyncio.Event()

        async def greedy_neighbour(first: int) -> None:
            turn = first
            while not stop.is_set():
                place = turn % len(prompts)
                [got] = await drained(sampler, [Call(base, prompts[place], GREEDY)])
                assert got.text == expected[base][place]
                turn += 1
                served.append(turn)

        neighbours = [asyncio.create_task(greedy_neighbour(i)) for i in range(4)]
        await until(lambda: len(served) >= 8)
        before = len(served)
        got = await drained(sampler, [Call(adapted, prompt, GREEDY) for prompt in prompts])
        assert [c.text for c in got] == expected[adapted]
        assert len(served) > before  # it had to wait for its turn
        stop.set()
        await asyncio.gather(*neighbours)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_loop_that_ended_badly_leaves_the_next_one_alone(sampler: VLLMSampler, base: ModelRef) -> None:
    loop = asyncio.new_event_loop()
    calls = [Call(base, "w1 w2", LONG), Call(base, "w3", SamplingParams(max_tokens=1))]
    pieces = sampler.stream(calls)
    assert loop.run_until_complete(anext(pieces))  # type: ignore[arg-type]
    loop.close()
    want = sampler.sample(calls)
    assert asyncio.run(drained(sampler, calls)) == want
    assert unfinished(sampler) == 0


@pytest.fixture
def broken(sampler: VLLMSampler, base: ModelRef, monkeypatch: pytest.MonkeyPatch) -> Iterator[VLLMSampler]:
    sampler.sample([Call(base, "w1", GREEDY)])
    core = sampler._engine(base)._llm.llm_engine.engine_core
    step, steps = core.get_output, iter(range(100))

    def breaks() -> Any:
        if next(steps) == 3:
            raise RuntimeError("out of memory")
        return step()

    core.get_output = breaks
    yield sampler


def test_an_engine_that_fails_fails_every_stream_in_it(broken: VLLMSampler, base: ModelRef) -> None:
    async def run() -> list[Any]:
        streams = [drained(broken, [Call(base, f"w{i}", LONG)]) for i in range(3)]
        return await asyncio.gather(*streams, return_exceptions=True)

    for error in asyncio.run(run()):
        assert isinstance(error, ServingError) and "out of memory" in str(error)
    assert broken.sample([Call(base, "w1", GREEDY)])[0].text


def test_bad_folders_are_named_before_anything_is_asked(
    sampler: VLLMSampler, base: ModelRef, tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    bad = Call(ModelRef(base.base, str(tmp_path / "nowhere")), "w1", GREEDY)
    with pytest.raises(InputError, match="nowhere"):
        asyncio.run(drained(sampler, [Call(base, "w1", GREEDY), bad]))
    assert unfinished(sampler) == 0
    assert asyncio.run(drained(sampler, [])) == []
