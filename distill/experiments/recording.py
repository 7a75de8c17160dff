"""What experiments with overseers share: an exact agent, episodes recorded with it, and how well H^A does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Cost, Episode
from amplification.overseer import Overseer
from amplification.question import Question
from amplification.serving.base import ModelRef, SamplingParams
from amplification.serving.scripted import ScriptedSampler
from amplification.store import Store
from amplification.tasks.base import Split, Task, questions, split_of

LIMITS = Limits()
AT_ONCE = 64


class Outcomes(NamedTuple):
    """How H^A did on some questions: share answered right, and the cost of all episodes together."""

    accuracy: float
    cost: Cost
    episodes: list[Episode]


def exact_agent(task: Task) -> tuple[Agent, Dispatcher]:
    """An agent that knows the truth of a task, so that what goes wrong is the overseer's doing."""
    sampler = ScriptedSampler(answers=lambda call: task.truth(call.prompt.removesuffix(" :")))
    return Agent("exact", ModelRef("exact"), "exact", SamplingParams(max_tokens=16)), Dispatcher(sampler)


def sampled_questions(task: Task, split: Split, each: int, seed: int) -> list[str]:
    """Up to `each` distinct questions of every level that has such."""
    return [text for level in task.levels for text in islice(questions(task, level, split, seed), each)]


def between_levels(task: Task, each: int, seed: int) -> list[str]:
    """Held-out questions of sizes that are no level of the task, and so are in no recording."""
    rng = random.Random(f"{seed}/between/{task.name}")
    sizes = [size for size in range(1, task.levels[-1]) if size not in task.levels]
    found = dict.fromkeys(text for size in sizes for text in (task.sample(size, rng) for _ in range(2 * each)))
    return [text for text in found if split_of(task, text) == "held_out"][: each * len(sizes)]


def answered(task: Task, overseer: Overseer, texts: Sequence[str], store: Store | None = None) -> Outcomes:
    """H^A's answers with an exact agent; the episodes go into the store, if there is one."""
    agent, dispatcher = exact_agent(task)
    amplified = Amplified(overseer, agent, dispatcher, LIMITS, at_once=AT_ONCE)

    async def run() -> list[Episode]:
        return [episode async for episode in amplified.answer_all(map(Question, texts))]

    episodes, cost = asyncio.run(run()), Cost()
    for episode in episodes:
        cost.add(episode.cost)
    if store is not None:
        store.add_episodes("recorded", episodes)
    right = sum(episode.answer.text == task.truth(episode.question.text) for episode in episodes)
    return Outcomes(right / max(len(episodes), 1), cost, episodes)
