"""Flows: the calls of one `sample` or `stream`, and who of several streams in one event loop steps the engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amplification.serving.base import Call, Completion

# Passes of the event loop without a new call after which all that could react to a step has done so. A reply at the
# bottom of a tree takes two or three passes a level to become a new call; a pass takes microseconds, a step
# milliseconds.
QUIET_PASSES = 24
MOST_PASSES = 2_000


@dataclass(slots=True, eq=False)
class Ticket:
    """One call on its way through an engine, and what has come of it so far.

    sampling, lora: vLLM's; scoring: its tokens are there and only their log-probabilities are still awaited.
    """

    flow: Flow
    place: int
    call: Call
    prompt: list[int]
    sampling: Any = None
    lora: Any = None
    name: str = ""
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    scoring: bool = False
    ended: bool = False
    text: str | None = None
    error: str | None = None

    def completion(self) -> Completion:
        if self.error is not None:
            return Completion("", len(self.prompt), len(self.tokens), finished=False, error=self.error)
        logprob = self.logprob if self.call.params.logprob else None
        return Completion(self.text or "", len(self.prompt), len(self.tokens), self.ended, logprob)


@dataclass(slots=True, eq=False)
class Flow:
    """Calls that were asked together, and the engines they are in.

    `left` counts those not done; `done` holds what was not handed on yet.
    """

    loop: asyncio.AbstractEventLoop | None
    left: int = 0
    done: list[tuple[int, Completion]] = field(default_factory=list)
    error: BaseException | None = None
    sleeper: asyncio.Future[None] | None = None
    engines: tuple[Any, ...] = ()

    @property
    def ready(self) -> bool:
        return bool(self.done) or self.error is not None

    def wake(self) -> None:
        sleeper = self.sleeper
        if sleeper is not None and not sleeper.done() and not sleeper.get_loop().is_closed():
            sleeper.set_result(None)

    def finish(self, ticket: Ticket) -> None:
        self.left -= 1
        self.done.append((ticket.place, ticket.completion()))
        self.wake()

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.wake()

    def take(self) -> list[tuple[int, Completion]]:
        """What is done and was not handed on yet. Raises the flow's error first."""
        if self.error is not None:
            raise self.error
        taken, self.done = self.done, []
        return taken


class Wheel:
    """Of all flows of a loop that wait, one steps the engines and the others sleep until something is theirs."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step
        self._taken = False
        self._sleeping: dict[Flow, None] = {}
        self.arrivals = 0

    def forget(self) -> None:
        """Leave whoever waited in an event loop that has ended."""
        self._taken = False
        self._sleeping.clear()

    async def until_ready(self, flow: Flow) -> None:
        """Return when the flow has something to hand on, stepping the engines if nobody else does."""
        try:
            while not flow.ready:
                if self._taken:
                    await self._sleep(flow)
                else:
                    await self._drive(flow)
        finally:
            if not self._taken:
                self._wake_next()

    async def _drive(self, flow: Flow) -> None:
        self._taken = True
        try:
            while not flow.ready:
                await self._let_others_act()
                if not flow.ready:
                    self._step()
        finally:
            self._taken = False

    async def _sleep(self, flow: Flow) -> None:
        flow.sleeper = asyncio.get_running_loop().create_future()
        self._sleeping[flow] = None
        try:
            await flow.sleeper
        finally:
            flow.sleeper = None
            self._sleeping.pop(flow, None)

    async def _let_others_act(self) -> None:
        quiet = passes = 0
        while quiet < QUIET_PASSES and passes < MOST_PASSES:
            before = self.arrivals
            await asyncio.sleep(0)
            passes += 1
            quiet = quiet + 1 if self.arrivals == before else 0

    def _wake_next(self) -> None:
        for flow in self._sleeping:
            if flow.sleeper is not None and not flow.sleeper.done():
                flow.wake()
                return
