"""Answering: what a run's last agent needs to be asked by hand, opened when it is first needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.asking.memo import ReadThroughMemo
from amplification.asking.watch import Watcher, watched
from amplification.budget import Limits
from amplification.corrections import NONE, Corrections
from amplification.dispatch import Dispatcher
from amplification.episode import Cost, Episode
from amplification.errors import InputError
from amplification.messages import Content, Messages, TooLong
from amplification.overseer import Overseer
from amplification.question import Answer, Question
from amplification.serving.base import Sampler
from amplification.serving.scripted import ScriptedSampler
from amplification.store import Store
from amplification.voting import Voting

STORE = "store.sqlite"
OWN_STORE = "ask.sqlite"


class Stores:
    """The run's store, which is only read, and the one beside it for what is asked by hand.

    `own` raises InputError if it cannot be opened. Without the run's, everything is asked of the model: `lacking` then
    says why.
    """

    def __init__(self, run: Path) -> None:
        self.own = Store.at(run / OWN_STORE)
        self.lacking = ""
        self.run: Store | None = None
        try:
            self.run = existing_store(run / STORE)
        except InputError as error:
            self.lacking = str(error)

    @property
    def all(self) -> tuple[Store, ...]:
        return (self.own, self.run) if self.run else (self.own,)

    def close(self) -> None:
        for store in self.all:
            store.close()


def existing_store(path: Path) -> Store:
    """A store that is there. Raises InputError otherwise, or if it has another format."""
    if not path.is_file():
        raise InputError(path, "the run's store is missing", "restore it, or make the run again")
    return Store.at(path)


class Answering:
    """An agent, amplified by an overseer: answers with corrections, while a person watches."""

    def __init__(
        self,
        agent: Agent,
        overseer: Callable[[], Overseer],
        stores: Stores,
        limits: Limits,
        open_sampler: Callable[[], Sampler],
        voting: Voting | None = None,
        quiet: bool = False,
    ) -> None:
        """`overseer` makes a new one for each answer, `open_sampler` the model at the first one. `quiet`: nobody is
        shown how far an answer is."""
        self.agent, self.overseer, self.stores, self.limits = agent, overseer, stores, limits
        self.voting, self.quiet = voting, quiet
        self.memo = ReadThroughMemo(stores.own, tuple(filter(None, [stores.run])))
        self._open = open_sampler
        self._sampler: Sampler | None = None
        self._dispatcher: Dispatcher | None = None

    def answer(
        self,
        question: Question,
        known: Mapping[str, Content],
        console: Console,
        watcher: Watcher,
        corrections: Corrections = NONE,
        consults: bool = True,
    ) -> Episode:
        """One episode. At Ctrl-C it raises KeyboardInterrupt; `watcher` then has what there is of the tree.

        `consults` is False where it is known that A will not be asked, so that no model has to be opened.

        Raises ServingError if the model does not start or answer, EOFError where the overseer is a person who left.
        """
        dispatcher = self.dispatcher if consults else Dispatcher(ScriptedSampler())
        amplified = Amplified(self.overseer(), self.agent, dispatcher, self.limits, self.voting, corrections)

        async def answered() -> Episode:
            async with watched(watcher, console, self.quiet):
                return await amplified.answer(question, known.values(), watcher.started)

        return asyncio.run(answered())

    def alone(self, question: Question, known: Mapping[str, Content]) -> tuple[Answer, Cost, float]:
        """What the agent alone says, what that cost, and the seconds it took, the model's start included."""
        started = time.monotonic()
        try:
            text = Messages(known.values()).expanded(question, self.limits.workspace_chars)
        except TooLong as error:
            return Answer.failed(f"too long for the agent: {error}"), Cost(), 0.0
        [(answer, outcome)] = asyncio.run(self.dispatcher.answers(self.agent, [Question(text)]))
        return answer, outcome.cost(), time.monotonic() - started

    @property
    def is_open(self) -> bool:
        """Whether the model has been opened."""
        return self._dispatcher is not None

    @property
    def dispatcher(self) -> Dispatcher:
        """Opens the model. Raises ServingError or InputError if that cannot be done."""
        if self._dispatcher is None:
            self._sampler = self._open()
            self._dispatcher = Dispatcher(self._sampler, self.memo)
        return self._dispatcher

    def close(self) -> None:
        """Give back the model's memory and the databases."""
        if self._sampler is not None:
            self._sampler.close()
        self._sampler = self._dispatcher = None
        self.stores.close()
