"""Refresh: new labels on the policy's own answers, and the members of the reward ensemble trained on with them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from distill.config import AdapterConfig, RewardConfig
from distill.held_out_judge import HeldOutJudge
from distill.ledger import FORWARD, TRAINING_STEP
from distill.pairs import Row, read_pairs, write_pairs
from distill.progress import silent
from distill.reward import train_reward

REFRESH_FILE = "refresh.json"


class Watched(NamedTuple):
    """What a watch needs to know beyond PPO itself: whom to ask, and what the reward model was trained on and how."""

    judge: HeldOutJudge
    pairs: Sequence[Row]
    settings: RewardConfig
    adapter: AdapterConfig


@dataclass(frozen=True)
class Refresh:
    """What one refresh took. `episodes` and `cost`: of H^A. `tokens`: through one member, a training step's as so many
    forward passes; with `new_pairs` from `questions` questions, before the update of this number. `left_out`: questions
    that gave no pair because H^A came to nothing (`HeldOutJudge.pairs`). `unreadable`: judgements among these."""

    update: int
    questions: int
    new_pairs: int
    heldout_accuracy: float
    tokens: int
    episodes: int
    cost: dict[str, int]
    left_out: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0

    @classmethod
    def read(cls, folder: Path) -> Refresh | None:
        """What `refreshed` wrote, None if it has not."""
        file = folder / REFRESH_FILE
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def refreshed(
    base: str | Path,
    watched: Watched,
    asked: Sequence[tuple[str, str]],
    earlier: Sequence[Path],
    update: int,
    out: Path,
    seed: int,
    again: int = 0,
) -> Refresh:
    """Ask H^A about `asked` (questions with the policy's answers) and write members that know its labels into `out`.

    `earlier`: the ensembles before this one, at first the one that PPO began with; the members of the last are carried
    on. `again`: tokens of the update's rollout, which goes through the new members and the reference once more. The
    folder appears whole.
    """
    judge, settings = watched.judge, watched.settings
    episodes, cost, unreadable = judge.judged, asdict(judge.cost), judge.unreadable
    left_out = Counter[str]()
    rows = judge.pairs([question for question, _ in asked], [answer for _, answer in asked], seed + update, left_out)
    new = [row for folder in earlier[1:] for row in read_pairs(folder)] + rows
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    lesson = settings.model_copy(update={"steps": settings.refresh.steps})
    pairs = _in_halves(watched.pairs, new)
    told = train_reward(
        base, None, pairs, watched.adapter, lesson, partial, seed + update, silent, carried_on=earlier[-1]
    )
    done = Refresh(
        update,
        len(asked),
        len(rows),
        told["heldout_accuracy"],
        told["forward_tokens"] + told["train_tokens"] * TRAINING_STEP // FORWARD + again * (settings.members + 1),
        judge.judged - episodes,
        {name: value - cost[name] for name, value in asdict(judge.cost).items()},
        dict(left_out),
        judge.unreadable - unreadable,
    )
    write_pairs(rows, partial)
    (partial / REFRESH_FILE).write_text(json.dumps(asdict(done)), encoding="utf-8")
    partial.replace(out)
    return done


def _in_halves(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Old training rows and new ones so often that they are nearly half of a lesson; held-out ones once."""
    fresh = [row for row in new if row["part"] == "train"]
    more = sum(row["part"] == "train" for row in old) // max(len(fresh), 1)
    return [*old, *new, *fresh * max(0, more - 1)]
