"""Asking a finished run's agent, or H with that agent, one question."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Cost
from amplification.errors import InputError
from amplification.memo import Key, Memo
from amplification.overseer import NOT_UNDERSTOOD
from amplification.overseers.program import ProgramOverseer
from amplification.question import Question
from amplification.serving import open_sampler
from amplification.serving.base import Completion, ModelRef
from amplification.serving.config import ServingConfig
from amplification.store import Store
from amplification.tasks.base import Task
from amplification.terminal import cost_line, printable, tree_of

MAX_QUESTION_CHARS = 2_000


class ReadingMemo(Memo):
    """What a run's store remembers, without adding to it: a question asked by hand changes nothing of the run."""

    def put(self, entries: Sequence[tuple[Key, Completion]]) -> None:
        self._known.update((key, completion) for key, completion in entries if completion.error is None)


def last_agent(run: Path) -> Agent:
    """The agent of the last complete generation of a run. Raises InputError if there is none."""
    found = {int(m[1]): folder for folder in run.glob("generation-*/agent") if (m := _generation(folder))}
    if not found:
        raise InputError(run, "no generation of this run is complete", f"finish it with 'amplify run --out {run}'")
    n = max(found)
    folder, base = found[n], run / "base"
    if (folder / "adapter_config.json").is_file():
        if not base.is_dir():
            raise InputError(base, "the run's base model is missing", "restore it, or make the run again")
        return Agent.load(f"A{n}", ModelRef(str(base), str(folder)))
    return Agent.load(f"A{n}", ModelRef(str(folder)))


def _generation(agent: Path) -> re.Match[str] | None:
    # A stage's folder gets its name last of all, with done.json in it; anything else is unfinished.
    complete = (agent / "done.json").is_file()
    return re.fullmatch(r"generation-(\d+)", agent.parent.name) if complete else None


def ask(
    run: Path,
    text: str,
    tasks: Mapping[str, Task],
    serving: ServingConfig,
    limits: Limits,
    console: Console,
    direct: bool = False,
) -> None:
    """Print H^A's answer to `text` as a tree with its cost, or with `direct` what the agent alone says.

    A question that no task understands gets an answer that says so. Raises InputError for a run without an agent or
    an empty or overlong question, ServingError if the model does not start.
    """
    question = _question(text)
    agent = last_agent(run)
    understood = any(task.level_of(question.text) is not None for task in tasks.values())
    if not direct and not understood:
        console.print(f"no answer: {NOT_UNDERSTOOD}", markup=False)
        return
    store = _store(run)
    try:
        sampler = open_sampler(serving)
        try:
            dispatcher = Dispatcher(sampler, ReadingMemo(store, "ask"))
            if direct:
                asyncio.run(_ask_agent(agent, question, dispatcher, console))
                if not understood:
                    console.print(f"note: {NOT_UNDERSTOOD}", markup=False)
            else:
                amplified = Amplified(ProgramOverseer(tasks), agent, dispatcher, limits)
                _show_amplified(amplified, question, console)
        finally:
            sampler.close()
    finally:
        store.close()


def _question(text: str) -> Question:
    words = printable(text)
    if not words:
        raise InputError("command line", "the question is empty", "ask something, for example 'sum of 3 7'")
    if len(words) > MAX_QUESTION_CHARS:
        problem = f"the question has {len(words)} characters"
        raise InputError("command line", problem, f"ask one of at most {MAX_QUESTION_CHARS}")
    return Question(words)


def _store(run: Path) -> Store:
    path = run / "store.sqlite"
    if not path.is_file():
        raise InputError(path, "the run's store is missing", "restore it, or make the run again")
    return Store.at(path)


async def _ask_agent(agent: Agent, question: Question, dispatcher: Dispatcher, console: Console) -> None:
    started = time.monotonic()
    [(answer, outcome)] = await dispatcher.answers(agent, [question])
    console.print(f"{agent.name}: {printable(answer.shown())}", markup=False)
    console.print(_spent(outcome.cost(), time.monotonic() - started), markup=False, highlight=False)


def _show_amplified(amplified: Amplified, question: Question, console: Console) -> None:
    episode = asyncio.run(amplified.answer(question))
    console.print(tree_of(episode), highlight=False)
    console.print(f"H^{amplified.agent.name}: {printable(episode.answer.shown())}", markup=False, highlight=False)
    console.print(_spent(episode.cost, episode.seconds), markup=False, highlight=False)


def _spent(cost: Cost, seconds: float) -> str:
    return f"{cost_line(cost, seconds)} with the model's start"
