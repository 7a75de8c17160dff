"""`amplify episodes`: what a run's stores hold, listed, shown and exported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from rich.console import Console

from amplification.agent import Agent
from amplification.asking.answering import OWN_STORE, STORE, existing_store
from amplification.asking.files import export
from amplification.asking.outline import Outline
from amplification.asking.sent import sent
from amplification.asking.view import node_page, tree_view
from amplification.episodes import SHORT, Summary, Wanted, exported, found, listed
from amplification.errors import InputError
from amplification.messages import Messages
from amplification.serving.base import ModelRef
from amplification.store import Store
from amplification.terminal import cost_line, printable_lines, shortened

# Lines of a tree that is shown by itself.
LINES = 200


def list_episodes(run: Path, wanted: Wanted, limit: int, console: Console) -> None:
    """One line an episode, newest first. Raises InputError for a run without a store."""

    def told(stores: Sequence[Store]) -> None:
        for summary in listed(stores, wanted, limit):
            _say(console, _line(summary))

    _with_stores(run, told)


def show_episode(run: Path, name: str, number: int | None, most_chars: int, console: Console) -> None:
    """One episode as a tree with what its pointers stand for, or one node of it in full.

    `most_chars`: characters of one question to A. Raises InputError if there is no such episode or node.
    """
    _with_stores(run, lambda stores: _show(stores, name, number, most_chars, console))


def export_episodes(run: Path, wanted: Wanted, limit: int | None, out: str | None, console: Console) -> None:
    """JSON Lines on standard output, or in a file of the run's exports folder."""

    def written(stores: Sequence[Store]) -> None:
        records = exported(stores, wanted, limit)
        if out is not None:
            path, count = export(run, out, records)
            _say(console, f"{count} episodes written to {path}")
            return
        for record in records:
            sys.stdout.write(json.dumps(record) + "\n")

    _with_stores(run, written)


def _with_stores(run: Path, work: Callable[[Sequence[Store]], object]) -> None:
    with ExitStack() as opened:
        stores = []
        for path in (run / STORE, run / OWN_STORE):
            if path.name == STORE or path.is_file():
                stores.append(existing_store(path))
                opened.callback(stores[-1].close)
        work(stores)


def _line(summary: Summary) -> str:
    when = datetime.fromtimestamp(summary.created).strftime("%Y-%m-%d %H:%M:%S")
    said = summary.answer if summary.failure is None else f"[no answer: {summary.failure}]"
    asked = f"{shortened(summary.question, 80)}  {shortened(said, 40)}"
    return f"{summary.id[:SHORT]}  {when}  {summary.scope}  {summary.stop.value}  {asked}"


def _show(stores: Sequence[Store], name: str, number: int | None, most_chars: int, console: Console) -> None:
    summary, episode = found(stores, name)
    outline, messages = Outline(episode.tree), Messages(episode.messages.values())
    if number is None:
        _say(console, f"episode {summary.id}, {summary.scope}, by {summary.overseer} with {summary.agent[:SHORT]}")
        console.print(tree_view(outline, lines=LINES), highlight=False)
        _say(console, cost_line(episode.cost, episode.seconds))
        for digest, message in episode.messages.items():
            _say(console, f"message {digest[:SHORT]}, {message.size} characters: {shortened(message.text, 100)}")
        return
    if not 1 <= number <= len(outline):
        raise InputError("--node", f"there is no node {number}", f"give a number from 1 to {len(outline)}")
    agent = Agent("A", ModelRef(""), summary.agent)
    calls = sent(outline[number], messages, agent, stores, most_chars)
    for text in node_page(outline[number], messages, lambda pointer: pointer[:SHORT], calls):
        console.print(printable_lines(text), markup=False, highlight=False, soft_wrap=True)


def _say(console: Console, text: str) -> None:
    console.print(printable_lines(text), markup=False, highlight=False, soft_wrap=True)
