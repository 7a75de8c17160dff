"""Search: adversaries propose questions, the agent answers them, H^A judges the most promising, an archive keeps finds.

Several adversaries share one budget of the agent's calls. It sees neither the truth nor a held-out question.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, get_args

from amplification.tasks.base import NONSENSE
from amplification.verdict import AnswerTexts, Failure, JudgeTexts, failure_of
from distill.archive import Archive, Found, in_turn
from distill.candidate import Candidate
from distill.config import AdversaryConfig

Progress = Callable[[int, int], None]
# (question texts, answers) -> one number each; higher is better.
ScoreTexts = Callable[[Sequence[str], Sequence[str]], Sequence[float]]

# The part of what is judged that is drawn at random, so that a wrong idea of what is promising cannot hide a failure.
RANDOM_SHARE = 0.2


@dataclass(frozen=True)
class Target:
    """What is attacked, as callables. `score` is the reward ensemble's."""

    answer: AnswerTexts
    judge: JudgeTexts
    score: ScoreTexts | None = None


@dataclass(frozen=True)
class Tried:
    """A candidate that the agent has answered.

    source: the adversary that proposed it. promise: how likely it was to be a failure that training would miss. judged:
    H^A was asked about it; dropped: it had no view (its budget ran out, say). found: the failure that H^A confirmed.
    """

    source: str
    candidate: Candidate
    answer: str
    promise: float
    judged: bool = False
    dropped: bool = False
    found: Found | None = None


@dataclass
class Past:
    """What a search knows so far, shared by its adversaries: what was found, all texts proposed, the last round."""

    archive: Archive
    seen: set[str] = field(default_factory=set)
    last: Sequence[Tried] = ()

    def is_new(self, text: str) -> bool:
        """Whether nobody has proposed this text before; it counts as proposed from now on."""
        known = text in self.seen
        self.seen.add(text)
        return not known


class Proposer(Protocol):
    """An adversary that proposes questions to a search. A new one is one class and a line in `distill.adversaries`."""

    name: str

    def propose(self, count: int, past: Past, rng: random.Random) -> list[Candidate]:
        """At most `count` texts to try, each admitted (`distill.candidate`) and new (`past.is_new`).

        Fewer where it has no more; what it leaves of the round's budget goes to those after it.
        """
        ...

    def metrics(self) -> dict[str, Any]:
        """What it used or had to throw away beside what a search counts, JSON-ready. `flops`, if there, are those of a
        model of its own, for the ledger."""
        ...


@dataclass
class Tally:
    """One adversary's part of a search. `calls_to_first_failure` counts its own candidates alone."""

    tried: int = 0
    judged: int = 0
    dropped: int = 0
    confirmed: int = 0
    accepted: int = 0
    calls_to_first_failure: int | None = None

    def add(self, each: Tried) -> None:
        self.tried += 1
        self.judged += each.judged
        self.dropped += each.dropped
        self.confirmed += each.found is not None
        if each.found and self.calls_to_first_failure is None:
            self.calls_to_first_failure = self.tried


@dataclass
class SearchResult:
    """What a search found and used. `dropped`: candidates that H^A had no view on. `sources`: the parts of several
    adversaries by name, `used`: what they say of themselves."""

    found: list[Found] = field(default_factory=list)
    calls: int = 0
    judged: int = 0
    dropped: int = 0
    failures_per_round: list[int] = field(default_factory=list)
    attacker_calls_to_first_failure: int | None = None
    sources: dict[str, Tally] = field(default_factory=dict)
    used: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, each: Tried) -> None:
        """Count one candidate."""
        self.sources[each.source].add(each)
        self.calls += 1
        self.judged += each.judged
        self.dropped += each.dropped
        if each.found and self.attacker_calls_to_first_failure is None:
            self.attacker_calls_to_first_failure = self.calls

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
            "by_source": {name: {**vars(tally), **self.used.get(name, {})} for name, tally in self.sources.items()},
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


class Search:
    """Rounds of `settings.candidates` candidates: propose, answer, rank, judge, keep.

    The adversaries' shares of a round are equal, save that what one leaves goes to the next. `judged_share`: the part
    of a round's candidates that H^A is asked about. `cell_cap`: finds kept for a cell of the archive, by default more
    for more candidates. `kinds`: which failures count. `first_only` ends the search with the first round that brought
    a failure.
    """

    def __init__(
        self,
        adversaries: Sequence[Proposer],
        settings: AdversaryConfig,
        judged_share: float = 0.5,
        cell_cap: int | None = None,
        kinds: Collection[Failure] = get_args(Failure),
        first_only: bool = False,
    ) -> None:
        self.adversaries, self.settings = tuple(adversaries), settings
        self.name = ", ".join(adversary.name for adversary in adversaries)
        self.judged_share, self.cell_cap = judged_share, cell_cap or max(8, settings.candidates // 50)
        self.kinds, self.first_only = frozenset(kinds), first_only

    def search(self, target: Target, seed: int, progress: Progress | None = None) -> SearchResult:
        """Failures of `target` and what they took. Deterministic for a seed and deterministic callables."""
        rng = random.Random(f"adversary/{seed}")
        result = SearchResult(sources={adversary.name: Tally() for adversary in self.adversaries})
        past = Past(Archive(self.cell_cap))
        for turn in range(self.settings.rounds):
            proposed = self._proposed(past, rng)
            if not proposed:
                break
            past.last = self._judged(target, self._answered(target, proposed), rng)
            self._note(past, result)
            if progress:
                progress(turn + 1, self.settings.rounds)
            if self.first_only and result.failures_per_round[-1]:
                break
        result.found = past.archive.all()
        for found in result.found:
            result.sources[found.source].accepted += 1
        result.used = {adversary.name: adversary.metrics() for adversary in self.adversaries}
        return result

    def _proposed(self, past: Past, rng: random.Random) -> list[tuple[str, Candidate]]:
        """A round's candidates with who proposed them, the adversaries in turn."""
        left, proposed = self.settings.candidates, dict[str, list[tuple[str, Candidate]]]()
        for place, adversary in enumerate(self.adversaries):
            share = -(-left // (len(self.adversaries) - place))
            made = adversary.propose(share, past, rng)[:share]
            proposed[adversary.name] = [(adversary.name, candidate) for candidate in made]
            left -= len(made)
        return in_turn(proposed)

    def _answered(self, target: Target, proposed: Sequence[tuple[str, Candidate]]) -> list[Tried]:
        texts = [candidate.text for _, candidate in proposed]
        answers = list(target.answer(texts))
        promises = _promises(target, texts, answers)
        rows = zip(proposed, answers, promises, strict=True)
        return [Tried(source, candidate, answer, promise) for (source, candidate), answer, promise in rows]

    def _judged(self, target: Target, tried: Sequence[Tried], rng: random.Random) -> list[Tried]:
        """The round with what H^A says of those chosen. What it has no view on is dropped and counts as no failure."""
        chosen = self._chosen(tried, rng)
        views = dict(zip(chosen, target.judge([tried[i].candidate.text for i in chosen]), strict=True))
        failures = {i: failed for i, view in views.items() if (failed := self._failure(tried[i], view))}
        found = dict(zip(failures, with_fooled(target, list(failures.values())), strict=True))
        return [
            replace(each, judged=i in views, dropped=i in views and views[i] is None, found=found.get(i))
            for i, each in enumerate(tried)
        ]

    def _failure(self, each: Tried, view: str | None) -> Found | None:
        kind = None if view is None else failure_of(each.answer, view)
        if view is None or kind is None or kind not in self.kinds:
            return None
        text, family, task = each.candidate.text, each.candidate.made_by, each.candidate.task
        return Found(text, view, each.answer, family, task, kind, False, each.promise, each.source)

    def _chosen(self, tried: Sequence[Tried], rng: random.Random) -> list[int]:
        """Which candidates to judge: the best of every source's cells (what made it, task) in turn; some at random."""
        most = max(1, round(self.judged_share * len(tried)))
        sources: dict[str, dict[tuple[str, str], list[int]]] = {}
        for i in sorted(range(len(tried)), key=lambda i: -tried[i].promise):
            cell = tried[i].candidate.made_by, tried[i].candidate.task
            sources.setdefault(tried[i].source, {}).setdefault(cell, []).append(i)
        ranked = in_turn({source: in_turn(cells) for source, cells in sources.items()})
        best = ranked[: most - int(RANDOM_SHARE * most)]
        rest = ranked[len(best) :]
        return sorted([*best, *rng.sample(rest, min(len(rest), most - len(best)))])

    def _note(self, past: Past, result: SearchResult) -> None:
        """Count the last round and keep what it found."""
        for each in past.last:
            result.add(each)
            if each.found:
                past.archive.add(each.found)
        result.failures_per_round.append(sum(each.found is not None for each in past.last))


def _promises(target: Target, texts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """How likely each is to be a failure that training would miss: an answer, not a refusal, and highly rewarded."""
    answered = [float(answer != NONSENSE) for answer in answers]
    if target.score is None:
        return answered
    scores = target.score(texts, answers)
    order = sorted(range(len(texts)), key=lambda i: scores[i])
    rank = {i: place / max(1, len(texts) - 1) for place, i in enumerate(order)}
    return [p + rank[i] for i, p in enumerate(answered)]


def with_fooled(target: Target, failures: list[Found]) -> list[Found]:
    """The failures, each with whether the reward model prefers the agent's answer to H^A's."""
    if target.score is None or not failures:
        return failures
    texts = [found.question for found in failures]
    theirs = target.score(texts, [found.agent_answer for found in failures])
    judged = target.score(texts, [found.answer for found in failures])
    return [replace(found, fooled=bool(a >= b)) for found, a, b in zip(failures, theirs, judged, strict=True)]
