"""HeldOutJudge: H^A's own judgement of the policy while PPO trains on what a reward model thinks that H^A would say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from amplification.episode import Cost
from amplification.question import Answer
from amplification.tasks.base import Task
from distill.config import RewardConfig
from distill.curriculum import place_of
from distill.judgement import Judge
from distill.labels import part_of
from distill.pairs import Row
from distill.reward import make_pairs


class HeldOutJudge:
    """H^A asked about answers to `questions`, on which no reward model is ever trained, and for new labels.

    `judges`: H^A judges each answer in an episode of its own. Without it, an answer is acceptable when it says what
    H^A says, which is asked once (a program's label is its judgement). `judged` counts episodes; `first_judged` and
    `first_cost` are what that took.
    """

    def __init__(
        self,
        judge: Judge,
        tasks: Mapping[str, Task],
        questions: Sequence[str],
        settings: RewardConfig,
        heldout: float,
        judges: bool,
    ) -> None:
        """`heldout`: the share of new labels that measures the reward model."""
        self.judge, self.tasks, self.questions = judge, tasks, list(questions)
        self.settings, self.heldout, self.judges = settings, heldout, judges
        self.judged = 0
        self._said: list[str | None] = []
        if not judges:
            self._said = judge.verdicts(self.questions)
            self.judged = len(self.questions)
        self.first_judged, self.first_cost = self.judged, asdict(judge.cost)

    @property
    def cost(self) -> Cost:
        """Of everything asked so far."""
        return self.judge.cost

    @property
    def unreadable(self) -> int:
        """Judgements so far that could not be read."""
        return self.judge.unreadable if self.judges else 0

    def acceptable(self, answers: Sequence[str]) -> list[bool | None]:
        """Whether H^A finds each answer to `questions` acceptable; None where it has no view."""
        if not self.judges:
            return [None if said is None else answer == said for answer, said in zip(answers, self._said, strict=True)]
        self.judged += len(answers)
        found = self.judge.judge([(q, [answer]) for q, answer in zip(self.questions, answers, strict=True)])
        return [None if view is None else view.acceptable[0] for view in found]

    def pairs(self, questions: Sequence[str], answers: Sequence[str], seed: int, left_out: Counter[str]) -> list[Row]:
        """New labels of distinct questions, none of them held out, as rows of `distill.pairs`; the policy's answers are
        the first to be rejected.

        `left_out` is told how many questions gave none: `unanswered`, and what `make_pairs` leaves out.
        """
        own = dict(zip(questions, answers, strict=True))
        said = self.judge.verdicts(questions)
        self.judged += len(questions) * (2 if self.judges else 1)
        labels = [
            {"question": q, "answer": answer, "task": place_of(self.tasks, q)[0], "part": part_of(q, self.heldout)}
            for q, answer in zip(questions, said, strict=True)
            if answer is not None
        ]
        left_out["unanswered"] += len(said) - len(labels)
        judge = self.judge.judge if self.judges else None

        def ask(texts: Sequence[str]) -> list[Answer]:
            return [Answer(own[text]) for text in texts]

        return make_pairs(self.tasks, labels, ask, self.settings, seed, judge, left_out)
