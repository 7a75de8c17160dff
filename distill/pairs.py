"""Pairs: what each form of judgement teaches a reward model, and labels that it cannot be taught from.

A row has question, chosen, rejected and part. It may have `margin`, by how much the chosen answer is better (in units
of the spread of H^A's scores), and `accepted`, False where H^A finds the chosen answer unacceptable, too.
A row without `chosen` (None) is a bound: H^A finds no answer that it was shown acceptable, so there is nothing to put
above `rejected`. A refusal there would teach the agent to refuse questions that make sense, so the row bounds the score
itself: below that of what is acceptable (`bound_losses`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from amplification.errors import InputError
from distill.judgement import Judgement

Row = dict[str, Any]

PAIRS_FILE = "pairs.json"

# Scores nearer to each other than this share of their spread give no pair: H^A did not tell the two apart.
LEAST_MARGIN = 0.1


def pairs_of(judgement: Judgement, part: str, most: int) -> list[Row]:
    """At most `most` rows from one judgement, in the order of its candidates.

    Scores: each two that differ, best first. An order: the best candidate (the first acceptable one where none is best)
    over each that is not acceptable. None acceptable: a bound for each candidate.
    """
    common = {"question": judgement.question, "part": part}
    if judgement.scores is not None:
        return [common | row for row in _by_score(judgement)][:most]
    rejected = judgement.rejected()[:most]
    chosen = judgement.chosen()
    if chosen is None:
        return [common | {"chosen": None, "rejected": text} for text in rejected]
    return [common | {"chosen": chosen, "rejected": text} for text in rejected]


def _by_score(judgement: Judgement) -> list[Row]:
    assert judgement.scores is not None
    scores = dict(zip(judgement.candidates, judgement.scores, strict=True))
    good = dict(zip(judgement.candidates, judgement.acceptable, strict=True))
    spread = max(scores.values()) - min(scores.values())
    ranked = sorted(scores, key=lambda text: -scores[text])
    rows: list[Row] = []
    for place, chosen in enumerate(ranked):
        for rejected in ranked[place + 1 :]:
            margin = (scores[chosen] - scores[rejected]) / spread if spread else 0.0
            if margin >= LEAST_MARGIN:
                rows.append({"chosen": chosen, "rejected": rejected, "margin": margin, "accepted": good[chosen]})
    bounds = [{"chosen": None, "rejected": text} for text in ranked] if not any(good.values()) else []
    return rows + bounds


def write_pairs(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write pairs.json, which a refresh of the reward model needs."""
    (folder / PAIRS_FILE).write_text(json.dumps(list(rows)), encoding="utf-8")


def read_pairs(folder: Path) -> list[Row]:
    """The rows that `write_pairs` wrote."""
    rows: list[Row] = json.loads((folder / PAIRS_FILE).read_text(encoding="utf-8"))
    return rows


class Settled(NamedTuple):
    """Pairs without contradictions, and how many were taken out for them."""

    pairs: list[Mapping[str, Any]]
    contradictory: int


def settled(pairs: Sequence[Mapping[str, Any]]) -> Settled:
    """Take out pairs that say the opposite of each other, one for one: what is left is the majority's.

    As many for as against say nothing of an order, and a model would only learn to be unsure from them; where labels
    differ on which answer is best, the pairs that put each above a third are kept.
    Raises InputError if more than half of the pairs contradict each other.
    """
    counts = Counter((row["question"], row["chosen"], row["rejected"]) for row in pairs)
    against = {(q, c, r): min(n, counts.get((q, r, c), 0)) for (q, c, r), n in counts.items() if c is not None}
    left, kept = dict(against), list[Mapping[str, Any]]()
    for row in pairs:
        key = (row["question"], row["chosen"], row["rejected"])
        if left.get(key, 0) > 0:
            left[key] -= 1
        else:
            kept.append(row)
    out = len(pairs) - len(kept)
    if out > len(pairs) / 2:
        problem = f"{out} of {len(pairs)} pairs contradict each other"
        raise InputError("labels", problem, "ask an overseer that says the same when it is asked again")
    return Settled(kept, out)


def require_two_sides(pairs: Sequence[Mapping[str, Any]]) -> None:
    """Raises InputError where the pairs of one part (not empty) show only one kind of answer."""
    chosen = {row["chosen"] for row in pairs} - {None}
    if not chosen:
        problem = "H^A found no answer acceptable, so nothing says what a good one is like"
        raise InputError("labels", problem, "ask about more questions, or show H^A better answers")
    rejected = {row["rejected"] for row in pairs}
    # Whatever the question, the one is good and the rest is not: the reward would be a constant of the answer.
    if len(chosen) == 1 and not chosen & rejected and len({row["question"] for row in pairs}) > 1:
        problem = f"every question has the same acceptable answer, '{next(iter(chosen)):.40}'"
        raise InputError("labels", problem, "ask H^A about questions with different answers")


def pair_losses(chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """Bradley-Terry losses [n] of raw scores; a margin is what the difference should exceed.

    Source: Touvron et al., "Llama 2" (arXiv 2307.09288, 2023), section 3.2.2, equation 2.
    """
    return -functional.logsigmoid(chosen - rejected - margin)


def bound_losses(scores: torch.Tensor, acceptable: bool) -> torch.Tensor:
    """Losses [n] of raw scores that must lie above 0 (acceptable) or below it.

    Pairs fix no zero. Where there are bounds, acceptable answers of the pairs get a loss of their own, too, so that 0
    lies between the two kinds.
    """
    return -functional.logsigmoid(scores if acceptable else -scores)
