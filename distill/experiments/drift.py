"""Drift in the collapsed scheme: does an agent that defines its own reward come to be rewarded for a fault of its own?

H asks the agent the question itself in three wordings and takes a refusal in any of them for a reason to refuse. Once,
by a round's labels that are partly wrong, the agent comes to refuse a share of good questions. From then on H^A's
labels are its own again, and H's caution makes more of each refusal than there was: refusing is what is rewarded.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.overseers.alone import LoneOverseer
from amplification.overseers.program import ProgramOverseer
from amplification.question import Answer, digest
from amplification.serving import open_sampler
from amplification.serving.base import ModelRef, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.tasks.base import NONSENSE, Task, questions
from amplification.tasks.counting import Counting
from distill.alone import PartlyAlone
from distill.averaging import save_between
from distill.base import train_base
from distill.collapsed import consulted
from distill.config import (
    AdapterConfig,
    BaseConfig,
    ModelConfig,
    PPOSettings,
    RewardConfig,
    Settings,
    WarmStartConfig,
)
from distill.experiments.base import Arm, ExperimentConfig
from distill.experiments.cautious import CautiousOverseer
from distill.imitation import warm_start
from distill.judgement import Judge
from distill.ppo import train_ppo
from distill.progress import Progress, silent
from distill.reward import make_pairs, train_reward
from distill.throttle import bound_step
from distill.weights import load_merged, load_tokenizer, padded, prompt_ids, quiet

ADAPTER = AdapterConfig(method="linear")
LEVEL = 2
# Share of a round's labels that measure the reward model and train nothing.
HELD_OUT = 8
# Questions on which the throttle measures a step, and held-out ones on which the agent is measured.
MEASURED_ON, MEASURED = 200, 200

Label = dict[str, Any]


class Remedies(Settings):
    """One arm: whether the fault is planted, and the settings of the collapsed scheme that are on."""

    planted: bool = True
    lag: int = Field(default=0, ge=0)
    average: float | None = Field(default=None, gt=0, lt=1)
    judge_without_agent: float = Field(default=0.0, ge=0, le=1)
    max_kl: float | None = Field(default=None, gt=0)


class Config(ExperimentConfig):
    """What configs/experiments/drift.yaml may hold.

    rounds: after the one with the fault. labels: questions a round. fault: share of that one round's labels that say
    `nonsense`. teaching, slipping: how the agent was trained before, and in the round with the fault.
    """

    rounds: int = Field(default=9, ge=1)
    labels: int = Field(default=200, ge=16)
    questions: int = Field(default=1_200, ge=16)
    fault: float = Field(default=0.4, ge=0, le=1)
    model: ModelConfig = ModelConfig(width=64, heads=2, layers=2)
    base: BaseConfig = BaseConfig(steps=100, batch=48, learning_rate=3e-3)
    teaching: WarmStartConfig = WarmStartConfig(steps=600, batch=32, learning_rate=2e-3)
    slipping: WarmStartConfig = WarmStartConfig(steps=150, batch=32, learning_rate=2e-3)
    first_reward_steps: int = Field(default=120, ge=1)
    reward: RewardConfig = RewardConfig(members=1, pairs_per_label=3, steps=40, batch=32, extra_layers=0)
    ppo: PPOSettings = PPOSettings(episodes=512, batch=128, minibatches=4, critic_warmup=0)
    arms: dict[str, Remedies] = Field(min_length=1)


@dataclass(frozen=True)
class Start:
    """What all arms of a seed begin with: an agent that knows the task, the one after the faulty round, a reward."""

    seed: int
    task: Counting
    base: Path
    clean: Path
    slipped: Path
    reward: Path
    train: Sequence[str]
    measured: Sequence[str]
    right: Mapping[str, str]  # what H alone says

    def tasks(self) -> Mapping[str, Task]:
        return {self.task.name: self.task}


@dataclass
class State:
    """Where an arm has come to: its agents and what H consulted of them, oldest first, its reward, its curves."""

    agents: list[Path | None]
    copies: list[Path | None]
    reward: Path
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def note(self, round_: int, **values: float) -> None:
        for name, value in values.items():
            self.curves.setdefault(name.replace("_", " "), []).append((float(round_), value))


def run(config: Config, seed: int, folder: Path, progress: Progress) -> dict[str, Arm]:
    """All arms with one seed, each from the same start."""
    with quiet():
        start = _start(config, seed, folder / "start")
        arms = {}
        for place, (name, remedies) in enumerate(config.arms.items()):
            arms[name] = _arm(config, remedies, start, folder / f"arm-{place}")
            progress(place + 1, len(config.arms))
    return arms


def _start(config: Config, seed: int, folder: Path) -> Start:
    task = Counting()
    tasks: dict[str, Task] = {task.name: task}
    base, clean, slipped, reward = (folder / name for name in ("base", "clean", "slipped", "reward"))
    train_base(tasks, (*task.words(), NONSENSE), config.model, config.base, base, seed, silent)
    everything = [
        text for level in task.levels[:2] for text in islice(questions(task, level, "train", seed), config.questions)
    ]
    measured = list(islice(questions(task, LEVEL, "held_out", seed), MEASURED))
    alone = _judge(seed, task, base, None, alone=True)
    right = {text: str(said) for text, said in _answered(alone, [*everything, *measured]).items()}
    known = _labels(task, {text: right[text] for text in everything})
    taught = [{**row, "part": "train"} for row in known]
    warm_start(base, None, taught, ADAPTER, config.teaching, clean, seed, silent)
    # Each question many times, each time with the fault or without: what is learned is how often, not on which.
    rng = random.Random(f"{seed}/fault")
    faulty = [{**row, "answer": NONSENSE if rng.random() < config.fault else row["answer"]} for row in taught * 20]
    warm_start(base, clean, faulty, ADAPTER, config.slipping, slipped, seed, silent)
    first = config.reward.model_copy(update={"steps": config.first_reward_steps})
    pairs = make_pairs(tasks, known, partial(_greedy, base, clean), first, seed)
    train_reward(base, clean, pairs, ADAPTER, first, reward, seed, silent)
    train = [text for text in everything if task.level_of(text) == LEVEL]
    return Start(seed, task, base, clean, slipped, reward, train, measured, right)


def _arm(config: Config, remedies: Remedies, start: Start, folder: Path) -> Arm:
    folder.mkdir(parents=True)
    state = State([start.clean], [start.clean], start.reward)
    _measure(state, start, 0)
    _arrive(state, start, remedies, _first_round(start, remedies, folder), folder)
    _measure(state, start, 1)
    for number in range(2, config.rounds + 2):
        _arrive(state, start, remedies, _round(config, remedies, start, state, number, folder), folder)
        _measure(state, start, number)
    last = {name: points[-1][1] for name, points in state.curves.items()}
    refused = [y for _, y in state.curves["refused"]]
    return Arm(
        {f"{name} at the end": value for name, value in last.items()} | {"most refused": max(refused)}, state.curves
    )


def _first_round(start: Start, remedies: Remedies, folder: Path) -> Path:
    """The round with the fault, or the agent as it was. The throttle bounds this round like any other."""
    if not remedies.planted:
        return start.clean
    if remedies.max_kl is None:
        return start.slipped
    agent = folder / "agent-1"
    shutil.copytree(start.slipped, agent)
    bound_step(start.base, start.clean, agent, start.train[:MEASURED_ON], remedies.max_kl, ADAPTER, 1)
    return agent


def _arrive(state: State, start: Start, remedies: Remedies, agent: Path, folder: Path) -> None:
    """A round is over: its agent, and the copy of it that can be consulted."""
    copy = agent
    if remedies.average is not None:
        copy = folder / f"average-{len(state.agents)}"
        save_between(start.base, state.copies[-1], agent, 1 - remedies.average, ADAPTER, copy)
    state.agents.append(agent)
    state.copies.append(copy)


def _round(config: Config, remedies: Remedies, start: Start, state: State, number: int, folder: Path) -> Path:
    """Labels by H and the copy it consults, the reward trained on, a slice of PPO, the throttle. Returns the agent."""
    base, seed, before = start.base, start.seed * 1_000 + number, state.agents[-1]
    rng = random.Random(f"{seed}/questions")
    judge = _judge(seed, start.task, base, consulted(state.copies, remedies.lag))
    alone = _judge(seed, start.task, base, None, alone=True)
    labeller = PartlyAlone(judge, alone, remedies.judge_without_agent, seed)
    rows = _labels(start.task, _answered(labeller, rng.sample(list(start.train), config.labels)))
    reward, agent = state.reward, folder / f"agent-{number}"
    # Labels that all say the same tell answers apart for no question, and no reward model is trained on them: the one
    # there is stays. In a run this ends the training with an error; here the drift is followed to its end.
    if len({row["answer"] for row in rows if row["part"] == "train"}) > 1:
        pairs = make_pairs(start.tasks(), rows, partial(_greedy, base, before), config.reward, seed)
        reward = folder / f"reward-{number}"
        train_reward(base, None, pairs, ADAPTER, config.reward, reward, seed, silent, state.reward)
    prompts = rng.choices(list(start.train), k=config.ppo.episodes)
    train_ppo(base, before, reward, prompts, ADAPTER, config.ppo, agent, seed, silent)
    if remedies.max_kl is not None:
        bound_step(base, before, agent, start.train[:MEASURED_ON], remedies.max_kl, ADAPTER, 1)
    state.reward = reward
    state.note(number, labels_that_refuse=sum(row["answer"] == NONSENSE for row in rows) / len(rows))
    return agent


def _measure(state: State, start: Start, number: int) -> None:
    """On held-out questions: how often the agent refuses, is right, and is what H^A with this same agent accepts."""
    agent, texts = state.agents[-1], list(start.measured)
    chances = _chances(start.base, agent, texts)
    judged = _answered(_judge(start.seed * 1_000 + 500 + number, start.task, start.base, agent), texts)
    each = list(zip(texts, chances, strict=True))
    state.note(
        number,
        refused=sum(row[NONSENSE] for row in chances) / len(texts),
        right=sum(row[start.right[text]] for text, row in each) / len(texts),
        own_reward=sum(row.get(judged[text] or "", 0.0) for text, row in each) / len(texts),
    )


def _judge(seed: int, task: Counting, base: Path, agent: Path | None, alone: bool = False) -> Judge:
    """The cautious H with an agent that draws its answers, or the task's own program without one."""
    sampler = open_sampler(ServingConfig(backend="transformers", seed=seed))
    overseer = LoneOverseer(ProgramOverseer({task.name: task})) if alone else CautiousOverseer(task)
    model = ModelRef(str(base), str(agent) if agent else None)
    drawing = Agent.load("agent", model, SamplingParams(temperature=1.0))
    return Judge(Amplified(overseer, drawing, Dispatcher(sampler), Limits()), "drift")


def _answered(labeller: Judge | PartlyAlone, texts: Sequence[str]) -> dict[str, str | None]:
    return dict(zip(texts, labeller.answer(texts).answers, strict=True))


def _labels(task: Counting, answers: Mapping[str, str | None]) -> list[Label]:
    """Rows as `distill.labels` writes them; a question without an answer has none."""
    return [
        {
            "question": text,
            "answer": answer,
            "task": task.name,
            "level": task.level_of(text),
            "source": "task",
            "part": "train" if int(digest("part", text)[:8], 16) % HELD_OUT else "heldout",
        }
        for text, answer in answers.items()
        if answer is not None
    ]


@torch.no_grad()
def _chances(base: Path, agent: Path | None, texts: Sequence[str]) -> list[dict[str, float]]:
    """The probability of each word as the agent's answer to each question."""
    tokenizer, model = load_tokenizer(base), load_merged(base, agent).eval()
    rows = prompt_ids(tokenizer, texts)
    ids, last = padded(rows, int(tokenizer.pad_token_id)), torch.tensor([len(row) - 1 for row in rows])
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    logits = model(input_ids=ids).logits[torch.arange(len(rows)), last]
    return [dict(zip(words, row.tolist(), strict=True)) for row in logits.softmax(-1)]


def _greedy(base: Path, agent: Path | None, texts: Sequence[str]) -> list[Answer]:
    return [Answer(max(row, key=lambda word: row[word])) for row in _chances(base, agent, texts)]
