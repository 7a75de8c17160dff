"""Batch by batch beside streams, on a tree of calls of different lengths."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amplification.benchmarks.base import Measured, Settings
from amplification.benchmarks.episode import make_tiny_model
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.vllm import VLLMSampler

DEPTH = 10
CALLS_PER_NODE = 2
LONGEST = 32

Ask = Callable[[Sequence[Call]], Awaitable[None]]


class Batches:
    """What is ready together is asked together, and all wait until the last of it is answered."""

    def __init__(self, sampler: VLLMSampler) -> None:
        self._sampler = sampler
        self._ready: list[tuple[Sequence[Call], asyncio.Future[None]]] = []
        self._seen = 0

    async def ask(self, calls: Sequence[Call]) -> None:
        loop = asyncio.get_running_loop()
        answered = loop.create_future()
        if not self._ready:
            self._seen = 0
            loop.call_soon(self._flush_when_quiet, loop)
        self._ready.append((calls, answered))
        await answered

    def _flush_when_quiet(self, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._ready) > self._seen:
            self._seen = len(self._ready)
            loop.call_soon(self._flush_when_quiet, loop)
            return
        ready, self._ready = self._ready, []
        self._sampler.sample([call for calls, _ in ready for call in calls])
        for _, answered in ready:
            answered.set_result(None)


def streams(sampler: VLLMSampler) -> Ask:
    """Each node's calls are a stream of their own, and join the engine at its next step."""

    async def ask(calls: Sequence[Call]) -> None:
        async for _ in sampler.stream(calls):
            pass

    return ask


async def grow(ask: Ask, model: ModelRef, lengths: random.Random, depth: int, path: str) -> None:
    """A node asks A, waits for all of its answers, and then has two children do the same."""
    digits = " ".join(path)
    calls = [
        Call(model, f"sum of {digits} {i}", SamplingParams(max_tokens=lengths.randint(1, LONGEST)))
        for i in range(CALLS_PER_NODE)
    ]
    children = [(random.Random(lengths.random()), path + side) for side in "01"]
    await ask(calls)
    if depth > 1:
        await asyncio.gather(*(grow(ask, model, seeds, depth - 1, child) for seeds, child in children))


@dataclass(frozen=True)
class Streams(Measured):
    """Medians over interleaved repeats, in calls per second, and the median of the ratios of each pair."""

    batchwise_calls_per_second: float
    streamed_calls_per_second: float
    ratio: float
    calls: int
    repeats: int

    def as_line(self) -> str:
        return (
            f"in batches {self.batchwise_calls_per_second:.0f} calls/s, in streams "
            f"{self.streamed_calls_per_second:.0f} calls/s, ratio {self.ratio:.3f} "
            f"({self.calls} calls of 1 to {LONGEST} tokens, medians of {self.repeats} repeats)"
        )


def streams_beside_batches(settings: Settings) -> Streams:
    """Measure a tree of calls whose answers have different lengths, both ways, on one engine with the tiny model."""
    calls: int = (2**DEPTH - 1) * CALLS_PER_NODE
    repeats = settings.repeats or 7
    with tempfile.TemporaryDirectory() as folder:
        model = ModelRef(str(make_tiny_model(Path(folder))))
        sampler = VLLMSampler(settings.serving)

        def rate(ask: Ask) -> float:
            sampler.reset_prefix_cache()
            started = time.perf_counter()
            asyncio.run(grow(ask, model, random.Random(0), DEPTH, "1"))
            return calls / (time.perf_counter() - started)

        try:
            rate(streams(sampler))  # the engine's start is part of neither figure
            pairs = [(rate(Batches(sampler).ask), rate(streams(sampler))) for _ in range(repeats)]
        finally:
            sampler.close()
    batchwise, streamed = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratio = statistics.median(stream / batch for batch, stream in pairs)
    return Streams(batchwise, streamed, ratio, calls, repeats)
