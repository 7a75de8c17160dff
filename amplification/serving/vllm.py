"""VLLMSampler: agents on vLLM, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence

from amplification.errors import InputError, ServingError
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams
from amplification.serving.checkpoint import Shelf
from amplification.serving.config import ServingConfig
from amplification.serving.flow import Flow, Ticket, Wheel
from amplification.serving.process import same_random_state
from amplification.serving.vllm_engine import Engine, merges_adapters, on_cpu

# Engines on a GPU at once, each of a base of its own (every agent is one where whole models are trained). An overseer's
# model and its agent need not take turns.
MOST_ENGINES = 2


class VLLMSampler:
    """One engine a base; adapters are merged into it or served beside it (see ServingConfig.adapters).

    An engine starts at the first call for its model. Prompts are text and go through the model's own tokenizer.
    `sample` and `stream` feed the same engines and give the same completions; both are for one thread.
    """

    def __init__(self, settings: ServingConfig) -> None:
        self.settings = settings
        self._shelf = Shelf()
        self._engines: dict[str, Engine] = {}
        self._merges: bool | None = None
        self._flows: dict[Flow, None] = {}
        self._wheel = Wheel(self._step_all)
        self._loop: asyncio.AbstractEventLoop | None = None

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order; a prompt that cannot be served gives a completion with an `error`.

        Raises InputError for a model or adapter folder that is missing, broken or does not fit, and for a schema that
        the model cannot write, before anything is asked; ServingError if an engine cannot start or fails, after which
        the next call starts afresh.
        """
        done: dict[int, Completion] = {}
        flow = Flow(None)
        try:
            self._enter(flow, calls)
            with same_random_state():
                while flow.left and flow.error is None:
                    self._step_busy(flow.engines)
            done.update(flow.take())
        finally:
            self._leave(flow)
        return [done[i] for i in range(len(calls))]

    async def stream(self, calls: Sequence[Call]) -> AsyncGenerator[list[tuple[int, Completion]], None]:
        """(place in `calls`, completion) as they come, each place once. Raises as `sample` does, at the first step.

        Calls join the engine between its steps. Those that cannot share its batch wait for their turn (see `Queue`).
        A consumer that stops early aborts what is still under way.
        """
        self._follow(asyncio.get_running_loop())
        flow = Flow(self._loop)
        try:
            self._enter(flow, calls)
            self._wheel.arrivals += 1
            while flow.left or flow.ready:
                await self._wheel.until_ready(flow)
                yield flow.take()
        finally:
            self._leave(flow)

    def parameters(self, model: ModelRef) -> int:
        """Number of the model's parameters, its adapter's included. Raises InputError for a bad folder."""
        return self._shelf.parameters(model)

    def raw_generate(self, model: ModelRef, prompts: Sequence[str], params: SamplingParams) -> None:
        """Send prompts through vLLM's own `LLM.generate` on the same engine, to measure against."""
        self._engine(model).generate(model, prompts, params)

    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of earlier prompts, in every engine."""
        for engine in self._engines.values():
            engine.reset_prefix_cache()

    def close(self) -> None:
        """Give back the engines' memory; open streams fail. Harmless when repeated; the next call starts again."""
        for engine in list(self._engines.values()):
            self._give_up(engine, ServingError("vLLM was closed while it was answering"))

    def _enter(self, flow: Flow, calls: Sequence[Call]) -> None:
        """Give every call to its engine, or none if one of them is bad."""
        groups: dict[str, list[int]] = {}
        for model in dict.fromkeys(call.model for call in calls):
            self._shelf.adapter(model)
        for i, call in enumerate(calls):
            groups.setdefault(self._key(call.model), []).append(i)
        entering = []
        for places in groups.values():
            engine = self._engine(calls[places[0]].model, groups)
            entering.append((engine, engine.tickets(flow, places, calls)))
        flow.left, flow.engines = len(calls), tuple(engine for engine, _ in entering)
        self._flows[flow] = None
        for engine, tickets in entering:
            self._hand_in(engine, tickets)

    def _hand_in(self, engine: Engine, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            if ticket.error is not None:
                ticket.flow.finish(ticket)
        try:
            engine.queue.add(ticket for ticket in tickets if ticket.error is None)
        except Exception as error:
            self._give_up(engine, _serving_error(error))

    def _leave(self, flow: Flow) -> None:
        """Whatever of a flow is still in an engine is aborted."""
        self._flows.pop(flow, None)
        if not flow.left:
            return
        for engine in list(self._engines.values()):
            try:
                engine.queue.drop([ticket for ticket in engine.queue.tickets if ticket.flow is flow])
            except Exception as error:
                self._give_up(engine, _serving_error(error))

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Streams of an event loop that has ended are left; nobody will ask for their completions again."""
        if loop is self._loop:
            return
        self._loop = loop
        self._wheel.forget()
        for flow in [flow for flow in self._flows if flow.loop is not None]:
            flow.sleeper = None
            self._leave(flow)

    def _step_all(self) -> None:
        with same_random_state():
            self._step_busy(list(self._engines.values()))

    def _step_busy(self, engines: Iterable[Engine]) -> None:
        for engine in engines:
            if engine.queue.busy:
                self._step(engine)

    def _step(self, engine: Engine) -> None:
        """One step of an engine; what is done goes to its flows. An engine that fails is given up, with all in it."""
        try:
            done = engine.queue.step()
        except Exception as error:
            self._give_up(engine, _serving_error(error))
            return
        except BaseException as error:  # what the engine holds and what it still works on is not known
            self._give_up(engine, _serving_error(error))
            raise
        for ticket in done:
            ticket.flow.finish(ticket)

    def _give_up(self, engine: Engine, error: Exception) -> None:
        self._engines = {key: one for key, one in self._engines.items() if one is not engine}
        for flow in self._flows:
            if flow.left and engine in flow.engines:
                flow.fail(error)
        engine.close()

    def _key(self, model: ModelRef) -> str:
        """Models of one key share an engine."""
        if self._merges is None:
            self._merges = merges_adapters(self.settings)
        return self._shelf.base(model).skeleton if self._merges else model.base

    def _engine(self, model: ModelRef, needed: Collection[str] = ()) -> Engine:
        """The model's engine, from now on the last to be closed; those of the keys `needed` are not closed for it."""
        key = self._key(model)
        engine = self._engines.pop(key, None)
        if engine is None:
            self._make_room(needed)
            engine = Engine(self.settings, model, self._shelf)
        self._engines[key] = engine
        return engine

    def _make_room(self, needed: Collection[str]) -> None:
        """Close the idle engines that were asked least recently, as far as one more would be too many for a GPU."""
        if on_cpu():
            return
        idle = [key for key, engine in self._engines.items() if key not in needed and not engine.queue.busy]
        for key in idle[: max(0, len(self._engines) + 1 - MOST_ENGINES)]:
            self._engines.pop(key).close()


def _serving_error(error: BaseException) -> Exception:
    if isinstance(error, ServingError | InputError):
        return error
    made = ServingError(f"vLLM failed while answering: {str(error).strip() or type(error).__name__}")
    made.__cause__ = error
    return made
