"""The reward: pairs from H^A's labels, and an ensemble of reward models trained on them with TRL's RewardTrainer.

Every form of label counts: an order, scores, and that no answer is acceptable (`distill.pairs`). Scores are centred and
scaled on the held-out pairs: on average +1 for H^A's answer and -1 for another one, so that a KL coefficient means the
same in every generation. What PPO gets is a conservative aggregate of the members.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch

from amplification.errors import InputError
from amplification.question import Answer
from amplification.tasks.base import NONSENSE, Task
from distill.calibration import Calibration, calibrated, save_calibration
from distill.config import AdapterConfig, RewardConfig
from distill.ensemble import RewardEnsemble
from distill.judgement import Judgement
from distill.members import Lesson, train_members
from distill.pairs import Row, pairs_of, require_two_sides, settled
from distill.progress import Progress
from distill.tree import answered
from distill.utilisation import device
from distill.weights import answer_ids, load_tokenizer, prompt_ids, quiet

# Questions with candidate answers -> H^A's judgements, None where it came to none.
Judging = Callable[[Sequence[tuple[str, Sequence[str]]]], Sequence[Judgement | None]]

# Share of the labels for which `nonsense` may be rejected before other answers are.
NONSENSE_SHARE = 0.3
# Held-out labels that the reward model is measured and calibrated on, at most.
HELD_OUT = 500


def enough_labels(labels: Sequence[Mapping[str, Any]], settings: RewardConfig, seed: int) -> list[Mapping[str, Any]]:
    """As many labels of either part as are of use: the agent, and perhaps H^A, is asked about each of them.

    Members that see a pair once see no more than steps x batch; `HELD_OUT` labels measure a share to two points.
    """
    most = {"train": ceil(settings.steps * settings.batch / settings.pairs_per_label), "heldout": HELD_OUT}
    rng = random.Random(f"{seed}/labels")
    kept: set[int] = set()
    for part, count in most.items():
        places = [place for place, row in enumerate(labels) if row["part"] == part]
        kept.update(rng.sample(places, min(count, len(places))))
    return [row for place, row in enumerate(labels) if place in kept]


def make_pairs(
    tasks: Mapping[str, Task],
    labels: Sequence[Mapping[str, Any]],
    ask: Callable[[Sequence[str]], Sequence[Answer]],
    settings: RewardConfig,
    seed: int,
    judge: Judging | None = None,
    left_out: Counter[str] | None = None,
) -> list[Row]:
    """Rows as in `distill.pairs`, from H^A's answer to each question and other answers.

    `judge` has H^A say which candidates are acceptable; without it, what says the same as its answer is, and nothing
    else. A label whose own answer H^A does not find acceptable when it judges, though it does another one, contradicts
    itself and gives no pairs. `left_out` is told how many labels gave none: `undecided`, of which H^A came to no
    judgement, and `disowned`, which contradict themselves so.

    `ask` is the agent. Its answer is the first to be rejected where it is not H^A's (before it only what H^A answered
    to the same question another time); then come others of the right form (for a question that makes no sense: answers
    to other questions) and `nonsense`, in a random order.
    """
    rng = random.Random(f"{seed}/pairs")
    questions = [str(row["question"]) for row in labels]
    everyone = [str(row["answer"]) for row in labels]
    given: dict[str, list[str]] = {}
    for question, said in zip(questions, everyone, strict=True):
        given.setdefault(question, []).append(said)
    asked: list[tuple[str, list[str]]] = []
    for row, question, answer in zip(labels, questions, ask(questions), strict=True):
        task = tasks.get(str(row["task"]))
        other = list(task.valid_answers(question)) if task else rng.sample(everyone, min(len(everyone), 16))
        rng.shuffle(other)
        other.insert(rng.randrange(len(other) + 1) if rng.random() < NONSENSE_SHARE else len(other), NONSENSE)
        own = [answer.text] if answer.ok and answer.text else []
        asked.append((question, list(dict.fromkeys([str(row["answer"]), *given[question], *own, *other]))))
    judgements = _judged(asked, settings, judge, Counter() if left_out is None else left_out)
    rows = [
        pairs_of(judgement, str(row["part"]), settings.pairs_per_label) if judgement else []
        for row, judgement in zip(labels, judgements, strict=True)
    ]
    return [pair for pairs in rows for pair in pairs]


def _judged(
    asked: Sequence[tuple[str, list[str]]], settings: RewardConfig, judge: Judging | None, left_out: Counter[str]
) -> Sequence[Judgement | None]:
    """A judgement of the candidates of each label, of which the first is its answer; None where H^A contradicts it."""
    if judge is None:
        return [Judgement.by(texts[0], question, texts) for question, texts in asked]
    # A model's step is dear, and one alternative more than is needed leaves room for one that is acceptable.
    most = settings.pairs_per_label + 2
    found = judge([(question, texts[:most]) for question, texts in asked])
    stood_by = [each is not None and (each.acceptable[0] or not any(each.acceptable)) for each in found]
    undecided = sum(each is None for each in found)
    left_out.update(undecided=undecided, disowned=len(found) - undecided - sum(stood_by))
    return [each if stands else None for each, stands in zip(found, stood_by, strict=True)]


def train_reward(
    base: str | Path,
    agent: str | Path | None,
    pairs: Sequence[Mapping[str, Any]],
    adapter_config: AdapterConfig,
    settings: RewardConfig,
    out: str | Path,
    seed: int,
    progress: Progress,
    carried_on: str | Path | None = None,
) -> dict[str, Any]:
    """Train the members from the agent's merged weights and write them into `out`.

    `carried_on`: an ensemble of as many members, each of which is trained on instead, head and all.

    Members differ in their initial head and in the order of the data; of each, what `adapter_config` says is trained,
    and the head. Metrics: heldout_accuracy (share of the held-out pairs that the aggregate orders like H^A), each
    member's, how well probabilities fit (see `calibrated`), contradictory_pairs (left out), bounds, tokens, parameters
    of one member, pairs_per_second.
    Raises InputError if the training or the held-out part is empty, or if the labels contradict each other or show one
    kind of answer alone.
    """
    with quiet():
        tokenizer = load_tokenizer(base)
        pairs, contradictory = settled(pairs)
        train, heldout = _in_parts(pairs)
        begun = time.monotonic()
        start, earlier = (str(folder) if folder else None for folder in (agent, carried_on))
        lesson = Lesson(str(base), start, train, adapter_config, settings, earlier)
        counts = train_members(lesson, Path(out), seed, progress)
        seconds = time.monotonic() - begun
        metrics = calibrate(base, Path(out), heldout, settings)
        asked = prompt_ids(tokenizer, [row["question"] for row in (*heldout, *heldout)])
        rated = answer_ids(tokenizer, [row[name] for name in ("chosen", "rejected") for row in heldout])
        tokens = answered(asked, rated).tokens()
    bounds = sum(row["chosen"] is None for row in train)
    return metrics | {
        "pairs": len(train) - bounds,
        "bounds": bounds,
        "contradictory_pairs": contradictory,
        "forward_tokens": tokens * settings.members,
        "train_tokens": sum(tokens for tokens, _ in counts),
        "parameters": counts[0][1],
        "pairs_per_second": settings.steps * settings.batch * settings.members / max(seconds, 1e-9),
    }


def _in_parts(pairs: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The training rows, and the held-out pairs (a bound orders nothing, so it measures nothing)."""
    if not pairs:
        remedy = "'amplify episodes --run' with this run shows what it said; another 'overseer' may judge better"
        raise InputError("labels", "no pair came of H^A's judgements", remedy)
    train = [row for row in pairs if row["part"] == "train"]
    heldout = [row for row in pairs if row["part"] == "heldout" and row["chosen"] is not None]
    for name, part in (("training", train), ("held-out", heldout)):
        if not part:
            raise InputError("labels", f"no pair is of the {name} part", "ask H^A more questions")
    require_two_sides(train)
    return train, heldout


def calibrate(
    base: str | Path, folder: Path, heldout: Sequence[Mapping[str, Any]], settings: RewardConfig
) -> dict[str, Any]:
    """Write what the ensemble's scores mean, measured on the held-out pairs; returns how well it does on them."""
    count = settings.members
    save_calibration(folder, Calibration((0.0,) * count, (1.0,) * count, settings.aggregate))
    questions = [row["question"] for row in heldout]
    ensemble = RewardEnsemble.load(base, folder).to(device())
    answers = [row[name] for name in ("chosen", "rejected") for row in heldout]
    chosen, rejected = ensemble.scores([*questions, *questions], answers).chunk(2, dim=1)
    calibration, metrics = calibrated(questions, chosen, rejected, settings.aggregate)
    save_calibration(folder, calibration)
    centre, scale = (torch.tensor(values)[:, None] for values in (calibration.centre, calibration.scale))
    chosen, rejected = ((scores - centre) / scale for scores in (chosen, rejected))
    right = ensemble.aggregate(chosen) > ensemble.aggregate(rejected)
    return metrics | {
        "heldout_accuracy": float(right.float().mean()),
        "member_accuracy": [float(a) for a in (chosen > rejected).float().mean(dim=1)],
        "heldout_pairs": len(heldout),
    }
