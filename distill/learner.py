"""Learner: what the labels so far would make of the agent, with reward models of it, to choose the next questions by.

It is trained for a few steps a round and thrown away with the stage. Nobody is asked for it: what says the same as
H^A's answer is acceptable, and nothing else.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amplification.question import Answer
from amplification.tasks.base import Task
from distill.config import DistillConfig
from distill.drawn import drawn_answers, likeliest_answers
from distill.ensemble import RewardEnsemble
from distill.imitation import warm_start
from distill.progress import silent
from distill.reward import make_pairs, train_reward
from distill.selection import value_of

# The agent's own answers to a candidate: draws at this temperature, so that a nearly sure agent shows its second guess.
DRAWS = 6
TEMPERATURE = 1.5
AGENT = "agent"
COUNTED = ("parameters", "forward_tokens", "train_tokens")

Metrics = dict[str, Any]


class Learner:
    """Begins as `start`, an agent over `base` (None: the base itself). `folder` keeps what it learns in each round."""

    def __init__(
        self, base: Path, start: Path | None, tasks: Mapping[str, Task], distill: DistillConfig, folder: Path, seed: int
    ) -> None:
        self.base, self.start, self.tasks, self.folder, self.seed = base, start, tasks, folder, seed
        self.selection = distill.labels.selection
        steps = {"steps": self.selection.steps}
        self.warm = distill.warm_start.model_copy(update={**steps, "more_steps": 0})
        self.reward = distill.reward.model_copy(update=steps)
        self.adapter, self.answer_tokens = distill.adapter, distill.ppo.answer_tokens

    def values(
        self, number: int, rows: Sequence[Mapping[str, Any]], questions: Sequence[str]
    ) -> tuple[list[float], list[Metrics]]:
        """Learn from `rows` in round `number`, after the rounds before it; what each question is worth, and the cost.

        The cost is a list of counts as the ledger reads them. Raises InputError where the rows teach no reward model.
        """
        folder = self.folder / f"learner-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        agent, learning = self.start, list[Metrics]()
        if self.warm.enabled:
            before, learned, seed = self._agent(number - 1), folder / AGENT, self.seed + number
            learning.append(warm_start(self.base, before, rows, self.adapter, self.warm, learned, seed, silent))
            agent = learned
        pairs = make_pairs(self.tasks, rows, lambda texts: self._likeliest(agent, texts), self.reward, self.seed)
        reward = folder / "reward"
        learning.append(
            train_reward(self.base, agent, pairs, self.adapter, self.reward, reward, self.seed + number, silent)
        )
        values, asked = self._judged(agent, reward, number, questions)
        shutil.rmtree(reward)
        return values, [{key: each[key] for key in COUNTED} for each in [*learning, *asked]]

    def _agent(self, number: int) -> Path | None:
        """The learner as it was after round `number`; before the first it is what it begins as."""
        return self.folder / f"learner-{number}" / AGENT if number > 0 else self.start

    def _likeliest(self, agent: Path | None, questions: Sequence[str]) -> list[Answer]:
        said = likeliest_answers(self.base, agent, questions, self.answer_tokens)
        return [Answer(text) if text else Answer.failed("it did not end") for text in said]

    def _judged(
        self, agent: Path | None, reward: Path, number: int, questions: Sequence[str]
    ) -> tuple[list[float], list[Metrics]]:
        """What each question is worth by the members' scores of the agent's answers."""
        rng, ensemble = random.Random(f"{self.seed}/selection/{number}"), RewardEnsemble.load(self.base, reward)
        found, drawn = drawn_answers(
            self.base, agent, questions, DRAWS, self.answer_tokens, TEMPERATURE, self.seed + number
        )
        rows = [(question, answer) for question, answers in zip(questions, found, strict=True) for answer in answers]
        scores = ensemble.scores([question for question, _ in rows], [answer for _, answer in rows])
        each = scores.split([len(answers) for answers in found], dim=1)
        values = [value_of(self.selection.by, part, rng) for part in each]
        scored = sum(len(question.split()) + len(answer.split()) for question, answer in rows)
        size = ensemble.parameters_of_member()
        counts = ((size, drawn), (size, scored * len(scores)))
        return values, [{"parameters": p, "forward_tokens": t, "train_tokens": 0} for p, t in counts]
