"""Keep or go back: PPO's agent counts only if H^A's held-out labels speak for it.

The reward can rise while the agent gets worse, since the reward model is no better than its labels. The held-out
labels, which trained neither, are H^A's judgement and tell the two apart without the truth.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amplification.question import Answer

Ask = Callable[[Sequence[str]], Sequence[Answer]]


def agreements(ask: Ask, labels: Sequence[Mapping[str, Any]]) -> list[bool]:
    """For each held-out label, whether an agent says what H^A said."""
    held_out = [row for row in labels if row["part"] == "heldout"]
    answers = ask([str(row["question"]) for row in held_out])
    return [answer.ok and answer.text == row["answer"] for answer, row in zip(answers, held_out, strict=True)]


def better(before: Sequence[bool], after: Sequence[bool]) -> bool:
    """Whether more agreements were gained than lost, by more than chance would often do.

    One standard deviation of a fair coin tossed for every label that changed sides: a smaller gain on a few hundred
    labels is a loss elsewhere about as often as not.
    """
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    return gained - lost > math.sqrt(gained + lost)


def go_back(out: Path, start: Path) -> None:
    """Put the agent that training started from in the place of the trained one."""
    for file in out.iterdir():
        if file.is_file():
            file.unlink()
    for file in start.iterdir():
        if file.is_file() and file.name != "done.json":
            shutil.copy2(file, out / file.name)
