"""How many questions must H^A be asked for the same accuracy: at random, or chosen by what a reward ensemble doubts?

The agent knows a level of several tasks and learns the next one from labels that are asked for in rounds. After each
round an agent and a reward ensemble are made from the labels so far, the same way in each arm, and measured on held-out
questions. H is asked alone, so the arms' labels differ in what they are about and in nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import Field

from amplification.question import Answer
from amplification.tasks.base import questions
from distill.config import LabelsConfig, SelectionRule
from distill.curriculum import Chosen, choose, curriculum
from distill.drawn import likeliest_answers
from distill.ensemble import RewardEnsemble
from distill.experiments import base
from distill.experiments.hardening import HardeningConfig, Lab
from distill.imitation import warm_start
from distill.judgement import Answers
from distill.labels import label_rows, read_labels
from distill.learners import Learners
from distill.progress import Progress, silent
from distill.reward import make_pairs, train_reward
from distill.selected_labels import AtRandom, Valuer, select_labels

AGENT, REWARD = "agent: accuracy by labels", "reward model: pairs by labels"
Row = dict[str, Any]
Curve = list[tuple[float, float]]
Known = dict[frozenset[str], tuple[float, float]]  # what was measured, by the questions that were asked


class Config(HardeningConfig):
    """`level` is the level that is known; `distill.labels` says how many questions of the next one are asked, in how
    many rounds and of how many candidates, and `by` is the arm's. `measured`: held-out questions of each task.

    known: tasks of which the agent knows the next level, too, so that questions about it are wasted on H^A. accuracy:
    the agent's at which arms are compared; pairs: the reward model's.
    """

    known: tuple[str, ...] = ()
    accuracy: float = Field(default=0.9, gt=0, lt=1)
    pairs: float = Field(default=0.85, gt=0, lt=1)


class HeldOut(NamedTuple):
    """Held-out questions of the new level, each with a wrong answer of the right form; truth is for scoring alone."""

    tasks: list[str]
    questions: list[str]
    right: list[str]
    wrong: list[str]


def run(config: Config, seed: int, folder: Path, progress: Progress) -> dict[str, base.Arm]:
    """Arms: random, disagreement, double_thompson. All begin with the same random round."""
    lab = Lab(config, seed, folder)
    rules: Sequence[SelectionRule] = get_args(SelectionRule)
    found: dict[str, base.Arm] = {}
    try:
        lab.begin([*lab.ordinary(), *_known(config, lab, seed)], silent)
        held_out = _held_out(config, lab, seed)
        measured: Known = {}
        for place, rule in enumerate(rules, start=1):
            found[rule] = _arm(config, lab, rule, held_out, folder / rule, seed, measured)
            progress(place, len(rules))
    finally:
        lab.close()
    random_arm = found["random"]
    return {name: base.Arm({**arm.figures, **_beside(arm, random_arm)}, arm.curves) for name, arm in found.items()}


def _known(config: Config, lab: Lab, seed: int) -> list[Row]:
    """What is known of the next level to begin with, as labels."""
    chosen = curriculum({name: lab.tasks[name] for name in config.known}, config.level + 1, config.questions, 0, seed)
    answers = lab.alone().verdicts([choice.question for choice in chosen])
    return label_rows(chosen, answers, ["train"] * len(chosen))


class _Batches:
    """H alone, with what it was asked together."""

    def __init__(self, lab: Lab) -> None:
        self.judge = lab.alone()
        self.asked: list[Sequence[str]] = []

    def answer(self, texts: Sequence[str], progress: Progress | None = None) -> Answers:
        self.asked.append(texts)
        return self.judge.answer(texts, progress)


def _arm(
    config: Config, lab: Lab, rule: SelectionRule, held_out: HeldOut, folder: Path, seed: int, measured: Known
) -> base.Arm:
    labels = config.distill.labels
    settings = labels.model_copy(update={"selection": labels.selection.model_copy(update={"by": rule})})
    distill = config.distill.model_copy(update={"labels": settings})
    count, pool = len(_new(config, lab, settings, seed)), _new(config, lab, settings.candidates(), seed)
    folder.mkdir()
    judge, state = _Batches(lab), folder / "state"
    learner: Valuer = Learners(lab.base, None, lab.tasks, distill, state, seed)
    valuer = AtRandom() if rule == "random" else learner
    told = select_labels(judge, lab.tasks, pool, count, valuer, settings, folder, state, seed, silent)
    known: set[str] = set()
    curves: dict[str, Curve] = {AGENT: [], REWARD: []}
    for batch in judge.asked:
        known.update(batch)
        rows = [row for row in read_labels(folder) if row["question"] in known]
        asked = frozenset(known)
        if asked not in measured:  # the first round is the same in all arms
            measured[asked] = _measured(config, lab, rows, held_out, folder, seed)
        for curve, value in zip(curves.values(), measured[asked], strict=True):
            curve.append((float(len(known)), value))
    trained = sum(each["train_tokens"] for each in told["selection"]["learning"])
    share = sum(row["task"] in config.known for row in read_labels(folder)) / max(1, told["labels"])
    figures = {
        "share of known tasks": share,
        "mean accuracy": sum(value for _, value in curves[AGENT]) / len(judge.asked),
        "accuracy at the end": curves[AGENT][-1][1],
        "tokens trained on to choose": float(trained),
        **_reached("accuracy", curves[AGENT], config.accuracy),
        **_reached("pairs", curves[REWARD], config.pairs),
    }
    return base.Arm(figures, curves)


def _new(config: Config, lab: Lab, settings: LabelsConfig, seed: int) -> list[Chosen]:
    """What a generation that learns the next level would be asked, in a run."""
    share = config.distill.adversary.share if config.distill.adversary.enabled else 0.0
    return choose(lab.tasks, config.level + 1, settings, share, [], seed)


def _measured(
    config: Config, lab: Lab, rows: Sequence[Mapping[str, Any]], held_out: HeldOut, folder: Path, seed: int
) -> tuple[float, float]:
    """What an agent and a reward ensemble that are made from these labels are right on, task by task alike."""
    distill, place = config.distill, folder / f"from-{len(rows)}"
    agent, reward = place / "agent", place / "reward"
    warm_start(lab.base, None, rows, distill.adapter, distill.warm_start, agent, seed, silent)

    def ask(texts: Sequence[str]) -> list[Answer]:
        said = likeliest_answers(lab.base, agent, texts)
        return [Answer(text) if text else Answer.failed("it did not end") for text in said]

    pairs = make_pairs(lab.tasks, rows, ask, distill.reward, seed)
    train_reward(lab.base, agent, pairs, distill.adapter, distill.reward, reward, seed, silent)
    ensemble = RewardEnsemble.load(lab.base, reward)
    right, wrong = (ensemble.rate(held_out.questions, answers) for answers in (held_out.right, held_out.wrong))
    said = [answer.text if answer.ok else "" for answer in ask(held_out.questions)]
    return (
        _by_task(held_out.tasks, [given == truth for given, truth in zip(said, held_out.right, strict=True)]),
        _by_task(held_out.tasks, [good > bad for good, bad in zip(right, wrong, strict=True)]),
    )


def _held_out(config: Config, lab: Lab, seed: int) -> HeldOut:
    rng, found = random.Random(f"{seed}/held out"), HeldOut([], [], [], [])
    for name, task in lab.tasks.items():
        for text in islice(questions(task, task.levels[config.level + 1], "held_out", seed), config.measured):
            truth = task.truth(text)
            wrong = rng.choice([answer for answer in task.valid_answers(text) if answer != truth])
            for column, value in zip(found, (name, text, truth, wrong), strict=True):
                column.append(value)
    return found


def _by_task(tasks: Sequence[str], right: Sequence[bool]) -> float:
    """The mean over the tasks of the share that is right."""
    shares = [
        sum(good for name, good in zip(tasks, right, strict=True) if name == task) / tasks.count(task)
        for task in dict.fromkeys(tasks)
    ]
    return sum(shares) / len(shares)


def _reached(name: str, curve: Curve, level: float) -> dict[str, float]:
    """How many labels it took to reach a level, none where the curve ends below it.

    Between two points on a straight line; what was reached once counts as reached.
    """
    return {f"labels to {name} {level:g}": labels} if (labels := labels_to(curve, level)) is not None else {}


def labels_to(curve: Curve, level: float) -> float | None:
    """Where a curve first comes to a level; None if it never does."""
    if curve[0][1] >= level:
        return curve[0][0]
    for (x, y), (beyond, above) in pairwise(curve):
        if above >= level:
            return x + (beyond - x) * (level - y) / (above - y)
    return None


def _beside(arm: base.Arm, chance: base.Arm) -> dict[str, float]:
    """Labels for equal accuracy, as a share of what random questions need: F2 beside that of random questions."""
    found = {}
    for curve in (AGENT, REWARD):
        # What both have reached, as high as it goes.
        level = min(max(y for _, y in each.curves[curve]) for each in (arm, chance))
        mine, theirs = labels_to(arm.curves[curve], level), labels_to(chance.curves[curve], level)
        if mine is not None and theirs is not None:
            found[f"F2 beside random: {curve.partition(':')[0]}"] = mine / theirs
    return found
