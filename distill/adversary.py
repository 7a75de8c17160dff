"""The mutation adversary, and what a stage and an evaluation do with adversaries.

It sees neither the truth nor a held-out question. What it finds goes among the labels and PPO's prompts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any, Protocol, get_args

from amplification.errors import StageError
from amplification.tasks.attack_families import sampled
from amplification.tasks.attacks import AttackFamily, extra_words
from amplification.tasks.base import Task
from amplification.verdict import Failure
from distill.archive import FOUND_FILE, capped, write_found
from distill.candidate import Candidate
from distill.config import AdversaryConfig
from distill.mutation import Mutator
from distill.search import Past, Progress, Search, SearchResult, Target, Tried

__all__ = ["Adversary", "MutationAdversary", "Progress", "SearchResult", "Target", "calls_to_failure", "hunt"]

# Kept as parents: the most promising of the last round that are no finds (most were not judged).
FRONTIER = 64


class Adversary(Protocol):
    """A search for failures: of several adversaries that propose (`distill.search.Search`), or of one alone."""

    name: str

    def search(self, target: Target, seed: int, progress: Progress | None = None) -> SearchResult:
        """Failures of `target`, and what finding them took. Deterministic for a seed and deterministic callables."""
        ...


class MutationAdversary:
    """Mutates training questions, finds, and what was promising and is no find.

    `tasks` at levels up to the index `up_to` give the first parents. `words`: what else to put into questions beside
    the tasks' words and the families'; `among`: other families than a run's. The rest is for a search by this adversary
    alone (see `distill.search.Search`).
    """

    name = "mutation"

    def __init__(
        self,
        tasks: Mapping[str, Task],
        settings: AdversaryConfig,
        up_to: int,
        judged_share: float = 0.5,
        cell_cap: int | None = None,
        kinds: Collection[Failure] = get_args(Failure),
        first_only: bool = False,
        words: Sequence[str] = (),
        among: Sequence[AttackFamily] | None = None,
    ) -> None:
        self.tasks, self.up_to = dict(tasks), up_to
        known = [word for task in tasks.values() for word in task.words()]
        vocabulary = tuple(dict.fromkeys([*known, *extra_words(), *words]))
        self.mutator = Mutator(tasks, up_to, vocabulary, among, settings.sweep)
        self._alone = Search((self,), settings, judged_share, cell_cap, kinds, first_only)

    def search(self, target: Target, seed: int, progress: Progress | None = None) -> SearchResult:
        """A search by this adversary alone."""
        return self._alone.search(target, seed, progress)

    def propose(self, count: int, past: Past, rng: random.Random) -> list[Candidate]:
        """New texts, half of them from fresh questions, the rest from finds and other promising ones."""
        odds, frontier = self._odds(past.last), _frontier(past.last)
        candidates: list[Candidate] = []
        for _ in range(50 * count):
            if len(candidates) == count:
                break
            parent = past.archive.draw(rng) if rng.random() < 0.25 else None
            if parent is None and frontier and rng.random() < 0.33:
                parent = rng.choice(frontier)
            made = self.mutator.mutated(parent or self._fresh(odds, rng), self._fresh(odds, rng), rng)
            if made and past.is_new(made.text):
                candidates.append(made)
        return candidates

    def metrics(self) -> dict[str, Any]:
        """Nothing beside what a search counts."""
        return {}

    def _odds(self, last: Sequence[Tried]) -> dict[str, float]:
        """How often fresh parents come from each task: by the share of failures of the round, none left out."""
        tried = Counter(each.candidate.task for each in last if each.judged)
        failed = Counter(each.candidate.task for each in last if each.found)
        return {name: (failed[name] + 1) / (tried[name] + 1) for name in self.tasks}

    def _fresh(self, odds: Mapping[str, float], rng: random.Random) -> Candidate:
        task = self.tasks[rng.choices(list(odds), list(odds.values()))[0]]
        return Candidate(sampled(task, task.levels[: self.up_to + 1], "train", rng), task.name, "question")


def _frontier(last: Sequence[Tried]) -> list[Candidate]:
    ranked = sorted(last, key=lambda each: -each.promise)
    return [each.candidate for each in ranked if not each.found][:FRONTIER]


def hunt(
    adversary: Adversary,
    target: Target,
    out: Path,
    others: int,
    share: float,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """One stage's work: search, keep at most `share` of a whole with `others` other rows, write `out`/found.parquet.

    Returns the search's metrics with `written`, the number of rows, and `kept`, that of each source. Raises StageError
    if no question was tried.
    """
    result = adversary.search(target, seed, progress)
    if not result.calls:
        raise StageError(f"the adversaries proposed no question that may be tried: {result.used}")
    rows = capped(result.found, others, share)
    write_found(rows, out / FOUND_FILE)
    metrics, kept = result.metrics(), Counter(row.source for row in rows)
    for name, source in metrics["by_source"].items():
        source["kept"] = kept[name]
    return {**metrics, "written": len(rows)}


def calls_to_failure(
    tasks: Mapping[str, Task], target: Target, up_to: int, cap: int, seed: int, batch: int = 50, attackers: int = 5
) -> int | None:
    """How many answers of the agent an attacker needs until it first gets one to a question that makes no sense.

    The median over fresh attackers, for one is mostly luck; None if `cap` calls were not enough for most of them. Each
    judges every candidate and learns from each batch of about `batch`. A wrong answer to a question with a meaning
    does not count: that is a lack of skill, and `eval.ladder` measures it.
    """
    rounds = max(1, cap // batch)
    settings = AdversaryConfig(rounds=rounds, candidates=max(1, cap // rounds))
    counted: tuple[Failure, ...] = ("answered_nonsense",)
    attacker = MutationAdversary(tasks, settings, up_to, judged_share=1.0, kinds=counted, first_only=True)
    calls = [attacker.search(target, seed + place).attacker_calls_to_first_failure for place in range(attackers)]
    middle = median_low([count if count is not None else cap + 1 for count in calls])
    return middle if middle <= cap else None
