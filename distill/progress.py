"""Live progress: what runs, how far, time left. A bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Progress that nobody looks at."""


# Metrics worth a place on the line that a finished stage prints, where the stage has them; what is false has none.
SHOWN = (
    "labels",
    "accuracy",
    "heldout_accuracy",
    "failures_found",
    "reward_after",
    "kl",
    "hacking_stopped",
    "throttled",
    "collapsed",
    "unacceptable",
    "contradicted",
    "unreadable",
)
IF_ANY = ("contradicted", "unreadable")  # of which none is what one expects
PLAIN_INTERVAL_S = 15.0


class Reporter(Protocol):
    """Where a run tells what it does."""

    def expect(self, stages: int) -> None: ...
    def started(self, name: str) -> None: ...
    def progress(self, done: int, total: int) -> None: ...
    def finished(self, name: str, seconds: float, metrics: Mapping[str, Any]) -> None: ...
    def skipped(self, name: str) -> None: ...


class TerminalReporter:
    """One line a finished stage; below them, on a terminal, a bar for the stage that runs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = self.number = 0
        self.name = ""
        self.begun = self.told = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def expect(self, stages: int) -> None:
        self.total = stages

    def started(self, name: str) -> None:
        self.number += 1
        self.name, self.begun = name, time.monotonic()
        self.told = self.begun
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self._bar = Bar(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(f"[{self.number}/{self.total}] {name}".replace("[", r"\["), total=None)
        else:
            self._print(f"[{self.number}/{self.total}] {name} ...")

    def progress(self, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self.told >= PLAIN_INTERVAL_S and done:
            self.told = now
            left = (now - self.begun) / done * (total - done)
            self._print(f"[{self.number}/{self.total}] {self.name} {done}/{total}, about {left:.0f} s left")

    def finished(self, name: str, seconds: float, metrics: Mapping[str, Any]) -> None:
        self.close()
        shown = ", ".join(_told(key, metrics[key]) for key in SHOWN if _is_worth_it(key, metrics.get(key, False)))
        self._print(f"[{self.number}/{self.total}] {name} done in {seconds:.1f} s" + (f" ({shown})" if shown else ""))

    def skipped(self, name: str) -> None:
        self.number += 1
        self._print(f"[{self.number}/{self.total}] {name} already complete")

    def close(self) -> None:
        """Take the bar off the screen; harmless when there is none."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)


def _is_worth_it(key: str, value: Any) -> bool:
    return value is not False and not (key in IF_ANY and value == 0)


def _told(key: str, value: Any) -> str:
    if value is True:
        return key
    return f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
