"""Learners: what the labels so far would make of the agent, several times over, to choose the next questions by.

A learner is an agent and a reward model on top of it. Members of one ensemble that share an agent share its mistakes,
too, and are of one mind about them; so each has an agent of its own here (Seung, Opper and Sompolinsky, "Query by
committee", 1992). Learners are trained for a few steps a round, and are gone with the stage. H^A is not asked for them:
what says the same as its answer is acceptable, and nothing else.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from amplification.question import Answer
from amplification.tasks.base import Task
from distill.config import DistillConfig
from distill.drawn import drawn_answers, likeliest_answers
from distill.ensemble import RewardEnsemble
from distill.imitation import warm_start
from distill.progress import silent
from distill.reward import make_pairs, train_reward
from distill.selection import value_of

COUNTED = ("parameters", "forward_tokens", "train_tokens")

Metrics = dict[str, Any]


class Learners:
    """As many as the reward ensemble has members; each begins as `start`, an agent over `base` (None: the base itself).

    `folder` keeps their agents from round to round.
    """

    def __init__(
        self, base: Path, start: Path | None, tasks: Mapping[str, Task], distill: DistillConfig, folder: Path, seed: int
    ) -> None:
        self.base, self.start, self.tasks, self.folder, self.seed = base, start, tasks, folder, seed
        self.by, self.members = distill.labels.selection.by, distill.reward.members
        steps = {"steps": distill.labels.selection.steps}
        self.warm = distill.warm_start.model_copy(update={**steps, "more_steps": 0})
        self.reward = distill.reward.model_copy(update={**steps, "members": 1})
        self.adapter, self.answer_tokens = distill.adapter, distill.ppo.answer_tokens

    def values(
        self, number: int, rows: Sequence[Mapping[str, Any]], questions: Sequence[str]
    ) -> tuple[list[float], list[Metrics]]:
        """Learn from `rows` in round `number`, after the rounds before it; what each question is worth, and the cost.

        The cost is a list of counts as the ledger reads them. Raises InputError where the rows teach no reward model.
        """
        shutil.rmtree(self._folder(number), ignore_errors=True)
        self._folder(number).mkdir(parents=True)
        learned = [self._learn(number, member, rows) for member in range(self.members)]
        agents, costs = [agent for agent, _ in learned], [cost for _, each in learned for cost in each]
        values, asked = self._judged(number, agents, questions)
        return values, [{key: cost[key] for key in COUNTED} for cost in [*costs, *asked]]

    def _learn(self, number: int, member: int, rows: Sequence[Mapping[str, Any]]) -> tuple[Path | None, list[Metrics]]:
        """One learner's agent after this round, and what it cost with its reward model."""
        agent, seed, costs = self.start, self.seed * 100 + 10 * number + member, list[Metrics]()
        if self.warm.enabled:
            before = self._folder(number - 1) / f"agent-{member}" if number > 1 else self.start
            own = self._folder(number) / f"agent-{member}"
            costs.append(warm_start(self.base, before, rows, self.adapter, self.warm, own, seed, silent))
            agent = own

        def ask(texts: Sequence[str]) -> list[Answer]:
            said = likeliest_answers(self.base, agent, texts, self.answer_tokens)
            return [Answer(text) if text else Answer.failed("it did not end") for text in said]

        pairs, reward = make_pairs(self.tasks, rows, ask, self.reward, seed), self._reward(number, member)
        costs.append(train_reward(self.base, agent, pairs, self.adapter, self.reward, reward, seed, silent))
        return agent, costs

    def _judged(
        self, number: int, agents: Sequence[Path | None], questions: Sequence[str]
    ) -> tuple[list[float], list[Metrics]]:
        """What each question is worth by the members' scores of all learners' answers to it."""
        found: list[list[str]] = [[] for _ in questions]
        drawn = 0
        for member, agent in enumerate(agents):
            seed = self.seed * 100 + 10 * number + member
            # Its likeliest one alone. With guesses besides, a question was worth the more the more answers its task
            # has, and one that all learners know was worth as much as another (docs/log.md).
            drawn_here = drawn_answers(self.base, agent, questions, 1, self.answer_tokens, 0.0, seed)
            drawn += drawn_here[1]
            found = [list(dict.fromkeys([*old, *new])) for old, new in zip(found, drawn_here[0], strict=True)]
        rows = [(question, answer) for question, answers in zip(questions, found, strict=True) for answer in answers]
        models = [RewardEnsemble.load(self.base, self._reward(number, member)) for member in range(self.members)]
        scores = torch.cat([model.scores([q for q, _ in rows], [answer for _, answer in rows]) for model in models])
        rng = random.Random(f"{self.seed}/selection/{number}")
        values = [value_of(self.by, each, rng) for each in scores.split([len(answers) for answers in found], dim=1)]
        scored = sum(len(question.split()) + len(answer.split()) for question, answer in rows) * self.members
        size = models[0].parameters_of_member()
        return values, [{"parameters": size, "forward_tokens": tokens, "train_tokens": 0} for tokens in (drawn, scored)]

    def _folder(self, number: int) -> Path:
        return self.folder / f"learners-{number}"

    def _reward(self, number: int, member: int) -> Path:
        return self._folder(number) / f"reward-{member}"
