"""What one call of an episode costs beside its model: a scripted A, an H that only halves, an episode of any size."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.benchmarks.base import Measured, Settings
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.errors import StageError
from amplification.overseer import Decision, Overseer
from amplification.question import Question
from amplification.serving.base import Call, Completion, ModelRef
from amplification.workspace import Ask, Reply, SubQuestion, Workspace

CALLS, REPEATS = 100_000, 3
WIDE = 8  # sub-questions at a time
LIMITS = Limits(calls=10**15, tokens=10**18, depth=64, seconds=3_600)


@dataclass(frozen=True)
class Orchestration(Measured):
    """Medians over the repeats, each in a process of its own.

    `microseconds_per_call` is for the dearest shape of a tree: H asks two sub-questions at a time, so there are as many
    workspaces as calls. `wide_microseconds_per_call` is for an H that asks `WIDE` at a time. Both are processor time of
    the one process, which other work on the machine disturbs less than wall time; `wall_microseconds_per_call` is that
    of the first. `peak_rss_mb` is the most memory that the process held, of which `start_rss_mb` before the episode.
    """

    microseconds_per_call: float
    wide_microseconds_per_call: float
    wall_microseconds_per_call: float
    peak_rss_mb: float
    start_rss_mb: float
    calls: int
    repeats: int

    def as_line(self) -> str:
        return (
            f"{self.microseconds_per_call:.1f} us of processor time a call where H asks two at a time "
            f"({self.wall_microseconds_per_call:.1f} us of wall time), {self.wide_microseconds_per_call:.1f} where it "
            f"asks {WIDE}; "
            f"{self.peak_rss_mb:.0f} MB at most, {self.start_rss_mb:.0f} before; "
            f"an episode of {self.calls} calls, medians of {self.repeats}"
        )


class Splitting(Overseer):
    """Counts a range by parts, so many at a time, down to single numbers, which it asks A."""

    name = "splitting ranges"

    def __init__(self, parts: int) -> None:
        self.parts = parts

    async def act(self, workspace: Workspace) -> Decision:
        if workspace.events:
            return Decision(Reply(str(sum(int(exchange.answer.text) for exchange in workspace.exchanges))))
        start, stop = map(int, workspace.question.text.split())
        parts = min(self.parts, stop - start)
        cuts = [start + (stop - start) * place // parts for place in range(parts + 1)]
        return Decision(Ask(tuple(map(_part, cuts, cuts[1:]))))


class Constant:
    """A model that says 1 to everything."""

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        return [Completion("1", 3, 1) for _ in calls]

    def parameters(self, model: ModelRef) -> int:
        return 1

    def close(self) -> None:
        pass


def orchestration(settings: Settings) -> Orchestration:
    """Measure an episode of `calls` distinct calls, each repeat in a new process. Raises StageError if one fails."""
    calls, repeats = settings.calls_within(CALLS, 2, 10_000_000), settings.repeats or REPEATS
    found = [_in_new_process(calls, 2) for _ in range(repeats)]
    wide = statistics.median(_in_new_process(calls, WIDE)[0] for _ in range(repeats))
    processor, wall, peak, start = (statistics.median(column) for column in zip(*found, strict=True))
    each = 1e6 / calls
    return Orchestration(processor * each, wide * each, wall * each, peak, start, calls, repeats)


def _in_new_process(calls: int, parts: int) -> list[float]:
    # A process's peak of memory never falls again, so a second episode in the same one could not be measured.
    code = f"from amplification.benchmarks.orchestration import one_episode; one_episode({calls}, {parts})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"bench: the episode failed: {done.stderr.strip().splitlines()[-1]}")
    figures: list[float] = json.loads(done.stdout)
    return figures


def one_episode(calls: int, parts: int = 2) -> None:
    """Print [processor seconds, wall seconds, peak RSS, RSS at the start] (MB of 10^6 bytes) of one episode."""
    amplified = Amplified(Splitting(parts), Agent("scripted", ModelRef("none"), "0"), Dispatcher(Constant()), LIMITS)
    start, processor, wall = _peak_mb(), time.process_time(), time.perf_counter()
    episode = asyncio.run(amplified.answer(Question(f"0 {calls}")))
    seconds = [time.process_time() - processor, time.perf_counter() - wall]
    if episode.answer.text != str(calls) or episode.cost.calls != calls:
        raise StageError(f"the episode ended as '{episode.stop}' after {episode.cost.calls} calls")
    print(json.dumps([*seconds, _peak_mb(), start]))


def _peak_mb() -> float:
    import resource  # not there on every system that the rest runs on

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _part(start: int, stop: int) -> SubQuestion:
    return SubQuestion(Question(f"{start} {stop}"), recurse=stop - start > 1)
