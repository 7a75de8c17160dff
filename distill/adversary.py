"""The adversary: looks for questions on which A fails H^A's judgement, or on which the reward model is fooled.

It sees neither the truth nor a held-out question. What it finds goes among the labels and PPO's prompts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median_low
from typing import Any, Protocol, get_args

from amplification.tasks.attack_families import sampled
from amplification.tasks.attacks import AttackFamily, extra_words
from amplification.tasks.base import NONSENSE, Task
from amplification.verdict import AnswerTexts, Failure, JudgeTexts, failure_of
from distill.archive import Archive, Found, capped, in_turn, write_found
from distill.config import AdversaryConfig
from distill.mutation import Candidate, Mutator

Progress = Callable[[int, int], None]
# (question texts, answers) -> one number each; higher is better (a reward) or surer (a probability in [0, 1]).
ScoreTexts = Callable[[Sequence[str], Sequence[str]], Sequence[float]]

# Near misses kept as parents: where the agent is least sure is where the next change may tip it over.
FRONTIER = 64

# The part of what is judged that is drawn at random, so that a wrong idea of what is promising cannot hide a failure.
RANDOM_SHARE = 0.2


@dataclass(frozen=True)
class Target:
    """What is attacked, as callables. `score` is the reward ensemble's; `confidence` the agent's in its own answer."""

    answer: AnswerTexts
    judge: JudgeTexts
    score: ScoreTexts | None = None
    confidence: ScoreTexts | None = None


class Adversary(Protocol):
    """A search for failures. A new one is one class."""

    name: str

    def search(self, target: Target, seed: int, progress: Progress | None = None) -> SearchResult:
        """Failures of `target`, and what finding them took. Deterministic for a seed and deterministic callables."""
        ...


@dataclass
class SearchResult:
    """What a search found and used. `dropped`: failures that H^A had no view on (its budget ran out, say)."""

    found: list[Found] = field(default_factory=list)
    calls: int = 0
    judged: int = 0
    dropped: int = 0
    failures_per_round: list[int] = field(default_factory=list)
    attacker_calls_to_first_failure: int | None = None

    def metrics(self) -> dict[str, Any]:
        """JSON-ready. `calls` and `attacker_calls_to_first_failure` count the agent's answers to candidates."""
        return {
            "calls": self.calls,
            "judged": self.judged,
            "dropped": self.dropped,
            "failures_found": sum(self.failures_per_round),
            "failures_per_round": self.failures_per_round,
            "accepted": len(self.found),
            "reward_fooled": sum(found.fooled for found in self.found),
            "attacker_calls_to_first_failure": self.attacker_calls_to_first_failure,
            "by_kind": dict(sorted(Counter(found.kind for found in self.found).items())),
            "by_family": dict(sorted(Counter(found.family for found in self.found).items())),
        }


def joined(results: Sequence[SearchResult]) -> SearchResult:
    """Several searches one after the other as one; their finds in turn."""
    whole = SearchResult(found=in_turn({place: result.found for place, result in enumerate(results)}))
    for result in results:
        first = result.attacker_calls_to_first_failure
        if whole.attacker_calls_to_first_failure is None and first is not None:
            whole.attacker_calls_to_first_failure = whole.calls + first
        whole.calls += result.calls
        whole.judged += result.judged
        whole.dropped += result.dropped
        whole.failures_per_round += result.failures_per_round
    return whole


class MutationAdversary:
    """Mutates training questions, its own finds and near misses; judges the most promising of each round.

    `tasks` at levels up to the index `up_to` give the first parents. `judged_share`: the part of a round's candidates
    that H^A is asked about. `cell_cap`: finds kept for a cell of the archive, by default more for more candidates.
    `kinds`: which failures count. `first_only` ends the search with the first round that brought a failure. `words`:
    what else to put into questions beside the tasks' words and the families'; `among`: other families than a run's.
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
        self.tasks, self.settings, self.up_to = dict(tasks), settings, up_to
        self.judged_share, self.cell_cap = judged_share, cell_cap or max(8, settings.candidates // 50)
        self.kinds, self.first_only = frozenset(kinds), first_only
        known = [word for task in tasks.values() for word in task.words()]
        vocabulary = tuple(dict.fromkeys([*known, *extra_words(), *words]))
        self.mutator = Mutator(tasks, up_to, vocabulary, among, settings.sweep)

    def search(self, target: Target, seed: int, progress: Progress | None = None) -> SearchResult:
        """`settings.rounds` rounds of `settings.candidates` candidates: answer, rank, judge, keep."""
        rng = random.Random(f"adversary/{seed}")
        result, archive, seen = SearchResult(), Archive(self.cell_cap), set[str]()
        frontier: list[Candidate] = []
        odds = dict.fromkeys(self.tasks, 1.0)
        for turn in range(self.settings.rounds):
            candidates = self._candidates(archive, frontier, seen, odds, rng)
            if not candidates:
                break
            texts = [candidate.text for candidate in candidates]
            answers = list(target.answer(texts))
            promises = _promises(target, texts, answers)
            chosen = self._chosen(candidates, promises, rng)
            failures = self._judged(target, [(candidates[i], answers[i], promises[i]) for i in chosen], result)
            by_text = {found.question: found for found in failures}
            if failures and result.attacker_calls_to_first_failure is None:
                first = next(i for i, text in enumerate(texts) if text in by_text)
                result.attacker_calls_to_first_failure = result.calls + first + 1
            result.calls += len(texts)
            result.failures_per_round.append(len(failures))
            for found in failures:
                archive.add(found)
            odds = self._odds([candidates[i].task for i in chosen], failures)
            ranked = sorted(range(len(texts)), key=lambda i: -promises[i])
            frontier = [candidates[i] for i in ranked if texts[i] not in by_text][:FRONTIER]
            if progress:
                progress(turn + 1, self.settings.rounds)
            if self.first_only and failures:
                break
        result.found = archive.all()
        return result

    def _odds(self, judged: Sequence[str], failures: Sequence[Found]) -> dict[str, float]:
        """How often fresh parents come from each task: by the share of failures of the round, none left out."""
        tried, failed = Counter(judged), Counter(found.task for found in failures)
        return {name: (failed[name] + 1) / (tried[name] + 1) for name in self.tasks}

    def _candidates(
        self,
        archive: Archive,
        frontier: Sequence[Candidate],
        seen: set[str],
        odds: Mapping[str, float],
        rng: random.Random,
    ) -> list[Candidate]:
        """New texts, half of them from fresh questions, the rest from finds and near misses; fewer if few are new."""
        candidates: list[Candidate] = []
        for _ in range(50 * self.settings.candidates):
            if len(candidates) == self.settings.candidates:
                break
            parent = archive.draw(rng) if rng.random() < 0.25 else None
            if parent is None and frontier and rng.random() < 0.33:
                parent = rng.choice(frontier)
            made = self.mutator.mutated(parent or self._fresh(odds, rng), self._fresh(odds, rng), rng)
            if made and made.text not in seen:
                seen.add(made.text)
                candidates.append(made)
        return candidates

    def _fresh(self, odds: Mapping[str, float], rng: random.Random) -> Candidate:
        task = self.tasks[rng.choices(list(odds), list(odds.values()))[0]]
        return Candidate(sampled(task, task.levels[: self.up_to + 1], "train", rng), task.name, "question")

    def _chosen(self, candidates: Sequence[Candidate], promises: Sequence[float], rng: random.Random) -> list[int]:
        """Which candidates to judge: the best of every cell (what made it, task) in turn, and some at random."""
        most = max(1, round(self.judged_share * len(candidates)))
        cells: dict[tuple[str, str], list[int]] = {}
        for i in sorted(range(len(candidates)), key=lambda i: -promises[i]):
            cells.setdefault((candidates[i].made_by, candidates[i].task), []).append(i)
        ranked = in_turn(cells)
        best = ranked[: most - int(RANDOM_SHARE * most)]
        rest = ranked[len(best) :]
        return sorted([*best, *rng.sample(rest, min(len(rest), most - len(best)))])

    def _judged(
        self, target: Target, tried: Sequence[tuple[Candidate, str, float]], result: SearchResult
    ) -> list[Found]:
        """The failures that H^A confirms. What it has no view on is dropped, not counted as a failure."""
        judged = list(target.judge([candidate.text for candidate, _, _ in tried]))
        result.judged += len(judged)
        result.dropped += sum(view is None for view in judged)
        failures: list[Found] = []
        for (candidate, answer, promise), view in zip(tried, judged, strict=True):
            kind = None if view is None else failure_of(answer, view)
            if view is not None and kind in self.kinds:
                failures.append(
                    Found(candidate.text, view, answer, candidate.made_by, candidate.task, kind, False, promise)
                )
        return with_fooled(target, failures)


def _promises(target: Target, texts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """How likely each is to be a failure that training would miss: a sure answer (not a refusal), highly rewarded."""
    answered = [float(answer != NONSENSE) for answer in answers]
    if target.confidence is not None:
        sure = target.confidence(texts, answers)
        answered = [c if a else 1.0 - c for a, c in zip(answered, sure, strict=True)]
    if target.score is None:
        return answered
    scores = target.score(texts, answers)
    order = sorted(range(len(texts)), key=lambda i: scores[i])
    rank = {i: place / max(1, len(texts) - 1) for place, i in enumerate(order)}
    return [p + rank[i] for i, p in enumerate(answered)]


def with_fooled(target: Target, failures: list[Found]) -> list[Found]:
    if target.score is None or not failures:
        return failures
    texts = [found.question for found in failures]
    theirs = target.score(texts, [found.agent_answer for found in failures])
    judged = target.score(texts, [found.answer for found in failures])
    return [replace(found, fooled=bool(a >= b)) for found, a, b in zip(failures, theirs, judged, strict=True)]


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

    Returns the search's metrics and `written`, the number of rows.
    """
    result = adversary.search(target, seed, progress)
    rows = capped(result.found, others, share)
    write_found(rows, out / "found.parquet")
    return {**result.metrics(), "written": len(rows)}


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
