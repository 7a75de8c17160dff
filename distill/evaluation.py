"""What the iteration asks of whoever measures its agents: an interface, so that training knows nothing of measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from amplification.tasks.base import Task
from distill.judgement import Judge
from distill.models import Ask
from distill.stage import Metrics

# A cap on calls of the agent -> how many an attacker needed until its first failure, None if that was not enough.
Attacker = Callable[[int], int | None]


class Evaluator(Protocol):
    """What measures agents and writes the report; the composition root hands it in."""

    def measure(self, tasks: Mapping[str, Task], answerers: Mapping[str, Ask], seed: int) -> Metrics:
        """Accuracy of each answerer on held-out questions of every task and level."""
        ...

    def attack(
        self, tasks: Mapping[str, Task], before: Ask, after: Ask, judge: Judge, attacker: Attacker, seed: int
    ) -> Metrics:
        """Unacceptable answers to held-out attack families, by the agent before and after its training."""
        ...

    def report(self, results: Mapping[str, Any], folder: Path) -> Path:
        """Write report.json, report.md and report.html into the run folder; returns the last one's path."""
        ...
