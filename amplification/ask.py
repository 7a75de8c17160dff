"""Asking a finished run's agent, or H with that agent: one question, or a session in the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from amplification.agent import Agent
from amplification.asking.answering import Answering, Stores
from amplification.asking.lines import Lines
from amplification.asking.person import TerminalPerson
from amplification.asking.session import ONCE, Session
from amplification.asking.shell import Shell
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.errors import InputError
from amplification.overseer import NOT_UNDERSTOOD, Overseer
from amplification.overseers.config import PROGRAM, OverseerConfig
from amplification.overseers.decisions import Decisions
from amplification.overseers.human import NAME as HUMAN
from amplification.overseers.human import HumanOverseer
from amplification.overseers.opening import Parts, open_overseer
from amplification.overseers.reading import ReadingOverseer
from amplification.question import Question
from amplification.serving import Samplers
from amplification.serving.base import ModelRef
from amplification.serving.config import ServingConfig
from amplification.tasks.base import Task
from amplification.voting import Voting

# A person may think for longer than an episode of a program takes.
PERSON_S = 7 * 86_400.0


@dataclass(frozen=True)
class AskSettings:
    """How a run is asked: by which overseer, on which tasks, with which model server, limits and votes.

    by_hand: a person is the overseer, whatever `overseer` says.
    """

    tasks: Mapping[str, Task]
    serving: ServingConfig
    limits: Limits
    overseer: OverseerConfig = PROGRAM
    by_hand: bool = False
    voting: Voting | None = None


def last_agent(run: Path) -> Agent:
    """The agent of the last complete generation, or round, of a run. Raises InputError if there is none."""
    found = {int(m[2]): (m[1], folder) for folder in run.glob("*/agent") if (m := _turn(folder))}
    if not found:
        raise InputError(run, "no generation of this run is complete", "finish it with the command that began it")
    n = max(found)
    (kind, folder), base = found[n], run / "base"
    name = f"A{n}" if kind == "generation" else f"A of round {n}"
    if (folder / "adapter_config.json").is_file():
        if not base.is_dir():
            raise InputError(base, "the run's base model is missing", "restore it, or make the run again")
        return Agent.load(name, ModelRef(str(base), str(folder)))
    return Agent.load(name, ModelRef(str(folder)))


def _turn(agent: Path) -> re.Match[str] | None:
    # A stage's folder gets its name last of all, with done.json in it; anything else is unfinished.
    complete = (agent / "done.json").is_file()
    return re.fullmatch(r"(generation|round)-(\d+)", agent.parent.name) if complete else None


def ask(
    run: Path, settings: AskSettings, console: Console, text: str, direct: bool = False, session: str | None = None
) -> None:
    """Print H^A's answer to `text` as a tree with its cost, or with `direct` what the agent alone says.

    `session`: the one whose attachments, answers and corrections count. Raises InputError for a run without an agent
    or a text that is no question, ServingError if the model does not start, KeyboardInterrupt at Ctrl-C, after the
    tree was shown as far as it went.
    """
    with _opened(run, settings, console, session or ONCE) as shell:
        question = shell.references().question(text)
        if not direct:
            if not shell.answer(text, question):
                raise KeyboardInterrupt
            return
        shell.direct(question)
        if not shell.understands(question):
            console.print(f"note: {NOT_UNDERSTOOD}", markup=False)


def open_session(run: Path, settings: AskSettings, console: Console, name: str | None = None) -> None:
    """Ask in a session until the person leaves; a new one without a name. Raises InputError for a bad name."""
    with _opened(run, settings, console, name) as shell:
        shell.run()


@contextmanager
def _opened(run: Path, settings: AskSettings, console: Console, name: str | None) -> Iterator[Shell]:
    agent, stores, lines = last_agent(run), Stores(run), Lines()
    limits, samplers = settings.limits, Samplers()
    if settings.by_hand:
        limits = limits.model_copy(update={"seconds": max(limits.seconds, PERSON_S)})

    def overseer() -> Overseer:
        """Made anew for each answer."""
        if settings.by_hand:
            decisions = Decisions(stores.own, HUMAN)
            return HumanOverseer(TerminalPerson(console, lines), decisions, limits.workspace_chars)
        parts = Parts(settings.tasks, limits, settings.serving, dispatcher)
        chosen = open_overseer(settings.overseer, parts)
        return ReadingOverseer(chosen) if settings.overseer.kind == "program" else chosen

    def dispatcher(serving: ServingConfig) -> Dispatcher:
        if serving == settings.serving:
            return answering.dispatcher
        return Dispatcher(samplers.get(serving), answering.memo)

    opened = partial(samplers.get, settings.serving)
    answering = Answering(agent, overseer, stores, limits, opened, settings.voting, settings.by_hand)
    try:
        session = Session(stores.own, name) if name is not None else Session.new(stores.own)
        yield Shell(run, session, answering, _understands(settings), console, lines)
    finally:
        answering.close()
        samplers.close()


def _understands(settings: AskSettings) -> Callable[[Question], bool]:
    def understands(question: Question) -> bool:
        if settings.by_hand or settings.overseer.kind != "program" or question.pointers:
            return True
        return any(task.level_of(question.text) is not None for task in settings.tasks.values())

    return understands
