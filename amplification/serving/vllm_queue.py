"""The calls of one vLLM engine: which may be in it together, one step of it, and what comes out."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from amplification.serving.base import ModelRef
from amplification.serving.flow import Ticket
from amplification.serving.text import Text

# After so many steps, calls that cannot share a batch with those in the engine are overdue: nobody joins before them. A
# change of merged weights takes as long as half a dozen steps of a small model.
PATIENCE = 64

Key = tuple[ModelRef | None, bool]


class Queue:
    """Tickets on their way through an engine's core.

    The core is driven without vLLM's front end, which costs as much time as a tiny model does. What that adds is done
    here or before: prompt lengths, request ids, stop strings; decoding comes after.

    Where adapters are merged, only calls of one model share a batch. And never greedy calls with others: vLLM 0.27
    forgets the seeds of such a batch on a CPU (and compiles for ten seconds to draw without them).
    """

    def __init__(self, core: Any, text: Text, hold: Callable[[ModelRef], None] | None) -> None:
        from vllm.v1.engine import EngineCoreRequest, FinishReason

        self._request, self._reasons = EngineCoreRequest, FinishReason
        self._core, self._text, self._hold = core, text, hold
        self._running: dict[str, Ticket] = {}
        self._turn: Key | None = None
        # Who waits for a turn, longest first, and since which step.
        self._waiting: dict[Key, list[Ticket]] = {}
        self._since: dict[Key, int] = {}
        self._steps = 0
        self._numbering = itertools.count()

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def tickets(self) -> list[Ticket]:
        """All that are not done."""
        return [*self._running.values(), *itertools.chain.from_iterable(self._waiting.values())]

    def add(self, tickets: Iterable[Ticket]) -> None:
        """Take tickets on: into the engine if their kind has its turn and nobody is overdue, else to wait for it."""
        overdue = self._overdue() is not None
        for ticket in tickets:
            key = self._key(ticket)
            if self._running and key == self._turn and key not in self._waiting and not overdue:
                self._enter(ticket)
            else:
                self._waiting.setdefault(key, []).append(ticket)
                self._since.setdefault(key, self._steps)

    def step(self) -> list[Ticket]:
        """Work on what is in the engine, once. Gives the tickets that are done."""
        if not self._running:
            self._begin_turn()
        self._steps += 1
        done: list[Ticket] = []
        touched: list[Ticket] = []
        for output in self._core.get_output().outputs:
            ticket = self._running.get(output.request_id)
            if ticket is None:  # aborted meanwhile
                continue
            self._take(ticket, output)
            if output.finish_reason is not None:
                self._leave(ticket, output, done)
            elif ticket.call.params.stop:
                touched.append(ticket)
        stopped = [ticket for ticket in touched if self._cut(ticket)]
        self._core.abort_requests([ticket.name for ticket in stopped])
        for ticket in stopped:
            self._leave(ticket, None, done)
        unread = [ticket for ticket in done if ticket.text is None]
        for ticket, text in zip(unread, self._text.decode([t.tokens for t in unread]), strict=True):
            ticket.text = text
        return done

    def drop(self, tickets: Iterable[Ticket]) -> None:
        """Forget tickets; what the engine was doing for them is aborted."""
        gone = set(map(id, tickets))
        names = [name for name, ticket in self._running.items() if id(ticket) in gone]
        for name in names:
            del self._running[name]
        for key in list(self._waiting):
            self._waiting[key] = [ticket for ticket in self._waiting[key] if id(ticket) not in gone]
            if not self._waiting[key]:
                del self._waiting[key], self._since[key]
        if names:
            self._core.abort_requests(names)

    def close(self) -> None:
        """Forget all tickets and let go of the core, which holds the model."""
        for held in (self._running, self._waiting, self._since):
            held.clear()
        self._core = self._hold = None

    def _key(self, ticket: Ticket) -> Key:
        return (ticket.call.model if self._hold else None, ticket.call.params.temperature == 0)

    def _overdue(self) -> Key | None:
        oldest = next(iter(self._waiting), None)
        return oldest if oldest is not None and self._steps - self._since[oldest] > PATIENCE else None

    def _begin_turn(self) -> None:
        """Those who are overdue first, then whoever wants the weights that are there: one change of weights less."""
        key = self._overdue()
        if key is None:
            held = self._turn[0] if self._turn else None
            key = next((key for key in self._waiting if key[0] == held), next(iter(self._waiting)))
        self._turn = key
        tickets = self._waiting.pop(key)
        del self._since[key]
        if self._hold and key[0] is not None:
            self._hold(key[0])
        for ticket in tickets:
            self._enter(ticket)

    def _enter(self, ticket: Ticket, prompt: Sequence[int] | None = None, sampling: Any = None) -> None:
        ticket.name = str(next(self._numbering))
        self._running[ticket.name] = ticket
        self._core.add_request(
            self._request(
                request_id=ticket.name,
                prompt_token_ids=ticket.prompt if prompt is None else list(prompt),
                mm_features=None,
                sampling_params=sampling or ticket.sampling,
                pooling_params=None,
                arrival_time=0.0,
                lora_request=ticket.lora,
                cache_salt=ticket.call.model.name,
                data_parallel_rank=None,
            )
        )

    def _take(self, ticket: Ticket, output: Any) -> None:
        if not ticket.scoring:
            ticket.tokens += output.new_token_ids
        if output.new_logprobs is not None:
            ticket.logprob += float(output.new_logprobs.logprobs[:, 0].sum())
        if ticket.scoring and output.new_prompt_logprobs_tensors is not None:
            given = len(ticket.tokens) - 1
            prompt = output.new_prompt_logprobs_tensors.logprobs[:, 0]
            ticket.logprob += float(prompt[len(prompt) - given :].sum())

    def _leave(self, ticket: Ticket, output: Any, done: list[Ticket]) -> None:
        del self._running[ticket.name]
        reason = None if output is None else output.finish_reason
        if reason in (self._reasons.ERROR, self._reasons.ABORT):
            ticket.error = "vLLM gave this call up"
            if ticket.call.params.json_schema is not None:
                ticket.error = "the model had no token left that the schema allows"
        elif reason is not None and not ticket.scoring:
            ticket.ended = reason == self._reasons.STOP
            if ticket.call.params.stop:
                self._cut(ticket)
        params = ticket.call.params
        if params.logprob and params.json_schema is not None and not ticket.scoring and ticket.error is None:
            self._score(ticket)
        else:
            done.append(ticket)

    def _score(self, ticket: Ticket) -> None:
        """Ask for the log-probabilities once more, without the schema: vLLM takes them after its mask."""
        ticket.scoring, ticket.logprob = True, 0.0
        sampling = copy.copy(ticket.sampling)
        sampling.structured_outputs = None
        sampling.max_tokens, sampling.min_tokens = 1, 0
        sampling.prompt_logprobs, sampling.skip_reading_prefix_cache = 0, True
        # The last is drawn from one token, which vLLM's log-probabilities know nothing of: so it always fits.
        sampling.allowed_token_ids = ticket.tokens[-1:]
        self._enter(ticket, [*ticket.prompt, *ticket.tokens[:-1]], sampling)

    def _cut(self, ticket: Ticket) -> bool:
        """Whether one of its stop strings is in the ticket's text, which then ends before it."""
        text = self._text.decode([ticket.tokens], strip=False)[0]
        ends = [place for stop in ticket.call.params.stop if (place := text.find(stop)) >= 0]
        if ends:
            ticket.text, ticket.ended = text[: min(ends)].strip(), True
        return bool(ends)
