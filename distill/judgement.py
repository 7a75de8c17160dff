"""Judgement: H^A's view of candidate answers to one question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from amplification.amplified import Amplified
from amplification.episode import Cost, Episode
from amplification.overseers.judging import judging, view_from
from amplification.question import Answer, Question
from amplification.verdict import verdict
from distill.progress import Progress

AT_ONCE = 2_048


@dataclass(frozen=True)
class Judgement:
    """`acceptable[i]` says whether `candidates[i]` is acceptable; acceptable answers rank above all others.

    `best` is the place of the best candidate, None where none is good. `scores`: one a candidate, where H^A gave any;
    higher is better, and only differences within one judgement mean something.
    """

    question: str
    candidates: tuple[str, ...]
    acceptable: tuple[bool, ...]
    best: int | None = None
    scores: tuple[float, ...] | None = None

    @classmethod
    def by(cls, answer: str, question: str, candidates: Sequence[str]) -> Judgement:
        """H^A's judgement given its own answer: a candidate is acceptable when it says the same."""
        acceptable = tuple(candidate == answer for candidate in candidates)
        return cls(question, tuple(candidates), acceptable, acceptable.index(True) if any(acceptable) else None)

    def chosen(self) -> str | None:
        """The best candidate, the first acceptable one where none is said to be best, None where none is acceptable."""
        if not any(self.acceptable):
            return None
        stated = self.best is not None and self.acceptable[self.best]
        return self.candidates[self.best if stated and self.best is not None else self.acceptable.index(True)]

    def rejected(self) -> list[str]:
        """The candidates that are not acceptable, in order."""
        return [text for text, good in zip(self.candidates, self.acceptable, strict=True) if not good]


@dataclass(frozen=True)
class Answers:
    """H^A's verdicts on a list of questions, in order, and what they cost together. None: it came to no answer."""

    answers: tuple[str | None, ...]
    cost: Cost


class Judge:
    """H^A asked for labels: answers questions and judges candidate answers, and keeps count of what it cost."""

    def __init__(self, amplified: Amplified, scope: str) -> None:
        self.amplified, self.scope = amplified, scope
        self.cost = Cost()  # of everything this judge was asked
        self.unreadable = 0  # judgements that were not in the form that the question asks for

    def answer(self, texts: Sequence[str], progress: Progress | None = None) -> Answers:
        """H^A's answers; episodes are stored as they end."""
        answers = asyncio.run(self._answer(texts, progress))
        self.cost.add(answers.cost)
        return answers

    async def _answer(self, texts: Sequence[str], progress: Progress | None) -> Answers:
        cost = Cost()
        answers: list[str | None] = []
        store = self.amplified.dispatcher.memo.store
        for start in range(0, len(texts), AT_ONCE):
            batch = [Question(text) for text in texts[start : start + AT_ONCE]]
            episodes = [episode async for episode in self.amplified.answer_all(batch)]
            if store is not None:
                store.add_episodes(self.scope, episodes)
            for episode in episodes:
                cost.add(episode.cost)
                answers.append(verdict(episode))
            if progress is not None:
                progress(len(answers), len(texts))
        return Answers(tuple(answers), cost)

    def judge(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[Judgement | None]:
        """H^A's judgement of the candidate answers to each question, as an episode each (see `overseers.judging`).

        None where it came to none, or said something that is no judgement; the latter are counted (`unreadable`).
        """
        return asyncio.run(self._judge(asked))

    async def _judge(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[Judgement | None]:
        found: list[Judgement | None] = []
        store = self.amplified.dispatcher.memo.store
        for start in range(0, len(asked), AT_ONCE):
            batch = asked[start : start + AT_ONCE]
            waits = [self.amplified.answer(*judging(Question(q), list(map(Answer, texts)))) for q, texts in batch]
            episodes = await asyncio.gather(*waits)
            if store is not None:
                store.add_episodes(self.scope, episodes)
            for episode, (question, texts) in zip(episodes, batch, strict=True):
                self.cost.add(episode.cost)
                found.append(self._judgement(episode, question, tuple(texts)))
        return found

    def _judgement(self, episode: Episode, question: str, candidates: tuple[str, ...]) -> Judgement | None:
        if not episode.answer.ok:
            return None
        try:
            view = view_from(episode.answer.text, len(candidates))
        except ValueError:
            self.unreadable += 1
            return None
        return Judgement(question, candidates, view.acceptable, view.best, view.scores)

    def verdicts(self, texts: Sequence[str]) -> list[str | None]:
        """H^A's answers alone."""
        return list(self.answer(texts).answers)

    def ask(self, texts: Sequence[str]) -> list[Answer]:
        """H^A as an Answerer: a function from questions to answers."""
        verdicts = self.answer(texts).answers
        return [Answer(said) if said is not None else Answer.failed("H^A came to no answer") for said in verdicts]
