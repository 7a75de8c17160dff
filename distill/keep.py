"""Keep or go back: PPO's agent counts only if H^A's held-out labels do not speak against it.

The reward can rise while the agent gets worse, since the reward model is no better than its labels. The held-out
labels, which trained neither, are H^A's judgement and tell the two apart without the truth.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amplification.question import Answer

Ask = Callable[[Sequence[str]], Sequence[Answer]]


def agreement(ask: Ask, labels: Sequence[Mapping[str, Any]]) -> float:
    """Share of the held-out labels on which an agent says what H^A said; 0 if there are none."""
    held_out = [row for row in labels if row["part"] == "heldout"]
    answers = ask([str(row["question"]) for row in held_out])
    agreed = sum(answer.ok and answer.text == row["answer"] for answer, row in zip(answers, held_out, strict=True))
    return agreed / len(held_out) if held_out else 0.0


def go_back(out: Path, start: Path) -> None:
    """Put the agent that training started from in the place of the trained one."""
    for file in out.iterdir():
        if file.is_file():
            file.unlink()
    for file in start.iterdir():
        if file.is_file() and file.name != "done.json":
            shutil.copy2(file, out / file.name)
