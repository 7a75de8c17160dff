"""Imitating an overseer: from its recorded steps, a model that takes them itself. Supervised, with TRL's SFTTrainer."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import PrinterCallback

from amplification.episode import Episode, Step
from amplification.episodes import Wanted, found, listed
from amplification.errors import InputError
from amplification.messages import Messages
from amplification.overseers.imitator import IMITATOR, IMITATOR_FILE, TEMPLATE, imitator_agent
from amplification.overseers.notation import workspace_text, write_action
from amplification.question import digest
from amplification.replay import all_workspaces
from amplification.serving.base import Call, Sampler
from amplification.store import Store
from amplification.workspace import Workspace
from distill.base import make_model
from distill.config import ImitatorTraining, WarmStartConfig
from distill.imitation import IGNORED, AnswerTrainer, Collator, ProgressCallback, sft_arguments
from distill.lessons import LessonSampler
from distill.optimizer import lesson_schedule
from distill.overseer_model import byte_tokenizer
from distill.progress import Progress
from distill.weights import parameters, quiet
from prompts import render

# Share of the recorded questions whose steps are kept aside, to set the threshold by.
KEPT_ASIDE = 0.1
# Of the kept-aside steps that the imitator takes, so many may be mistakes; and of those that it would take rightly, so
# many are left to the real overseer all the same, since what comes later may be stranger than what was recorded.
MISTAKES = 0.001
LEFT = 0.04


class Lesson(NamedTuple):
    """One recorded step as text: what the overseer was shown, what it did there, of which kind that is, and whether it
    is kept aside. A kind that is learned badly comes up more often in training."""

    prompt: str
    action: str
    kind: str
    aside: bool


class Tried(NamedTuple):
    """What became of a kept-aside step: how probable the imitator found what it wrote, and whether that was right."""

    probability: float
    right: bool


def recorded(store: Store, scope: str = "") -> Iterator[tuple[Workspace, Step]]:
    """Every step of the episodes in a store (of one scope), with the workspace in which it was taken."""
    for summary in listed([store], Wanted(scope)):
        _, episode = found([store], summary.id)
        yield from episode_steps(episode)


def episode_steps(episode: Episode) -> Iterator[tuple[Workspace, Step]]:
    """Every step in an episode's tree, with its workspace."""
    return all_workspaces(episode.tree, Messages(episode.messages.values()))


def lessons_from(steps: Iterable[tuple[Workspace, Step]]) -> list[Lesson]:
    """The steps that no imitator decided, each as it will be shown and is to be written; equal workspaces once.

    The steps of one question are all kept aside or none of them.
    """
    lessons: dict[str, Lesson] = {}
    for workspace, step in steps:
        if step.by.startswith(IMITATOR):
            continue
        prompt = render(TEMPLATE, workspace=workspace_text(workspace))
        aside = int(digest("aside", workspace.question.text)[:8], 16) < KEPT_ASIDE * 2**32
        try:
            action = write_action(step.action, workspace, "json")
        except ValueError:
            continue  # it pointed to what was not there, and was refused
        lessons[prompt] = Lesson(prompt, action, type(step.action).__name__, aside)
    return list(lessons.values())


def imitate(
    lessons: Sequence[Lesson],
    settings: ImitatorTraining,
    sampler: Sampler,
    out: Path,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train an imitator on the lessons that are not kept aside, set its threshold by those that are, and write it.

    Metrics: those of the training; lessons kept aside, share of them that it takes and of these that are right; the
    threshold. Raises InputError where there is nothing to learn from or to set the threshold by.
    """
    taught, aside = ([lesson for lesson in lessons if lesson.aside is kept] for kept in (False, True))
    if not taught or not aside:
        problem = f"{len(lessons)} recorded steps are too few to learn from"
        raise InputError("the store", problem, "record more episodes with the real overseer")
    out.mkdir(parents=True, exist_ok=True)
    metrics = train_imitator(taught, settings, out, seed, progress)
    _write_record(out, 1.0, settings.max_tokens)
    agent, _ = imitator_agent(out)
    written = sampler.sample([Call(agent.model, lesson.prompt, agent.params) for lesson in aside])
    tried = [
        Tried(math.exp(w.logprob if w.logprob is not None else -math.inf), w.finished and w.text == lesson.action)
        for w, lesson in zip(written, aside, strict=True)
    ]
    threshold = threshold_from(tried)
    _write_record(out, threshold, settings.max_tokens)
    taken = [one.right for one in tried if one.probability >= threshold]
    return metrics | {
        "aside": len(aside),
        "aside_right": sum(one.right for one in tried) / len(tried),
        "aside_taken": len(taken) / len(tried),
        "aside_taken_right": sum(taken) / max(len(taken), 1),
        "threshold": threshold,
    }


def threshold_from(tried: Sequence[Tried]) -> float:
    """The least probability of a step that is taken (see MISTAKES and LEFT); 1 if mistakes cannot be kept out."""
    ordered = sorted(tried, key=lambda one: -one.probability)
    threshold, mistakes = 1.0, 0
    for number, one in enumerate(ordered, start=1):
        mistakes += not one.right
        # Steps of one probability are taken together or not at all.
        last = number == len(ordered) or ordered[number].probability < one.probability
        if last and mistakes <= MISTAKES * number:
            threshold = one.probability
    right = sorted(one.probability for one in tried if one.right)
    return max(threshold, right[int(LEFT * len(right))]) if right else 1.0


def _write_record(out: Path, threshold: float, max_tokens: int) -> None:
    text = json.dumps({"threshold": threshold, "max_tokens": max_tokens}, indent=1)
    (out / IMITATOR_FILE).write_text(text, encoding="utf-8")


def train_imitator(
    lessons: Sequence[Lesson], settings: ImitatorTraining, out: str | Path, seed: int, progress: Progress
) -> dict[str, Any]:
    """Train a model from scratch on `lessons` and write it with its tokenizer into `out`.

    Metrics: lessons, loss of the last steps, tokens, parameters, seconds.
    """
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        tokenizer = byte_tokenizer([text for lesson in lessons for text in lesson[:2]], settings.vocabulary)
        model = make_model(settings.model, tokenizer, seed)
        rows = tokenised_lessons(tokenizer, lessons)
        sampler = LessonSampler([lesson.kind for lesson in lessons], settings.steps * settings.batch, seed)
        collator = Collator()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        lesson = WarmStartConfig(steps=settings.steps, batch=settings.batch, learning_rate=settings.learning_rate)
        trainer = AnswerTrainer(
            model=model,
            args=sft_arguments(lesson, parameters(model), scratch, seed),
            data_collator=collator,
            train_dataset=rows,
            sampler=sampler,
            processing_class=tokenizer,
            callbacks=[ProgressCallback(progress)],
            optimizers=(optimizer, lesson_schedule(optimizer, settings.steps)),
        )
        trainer.remove_callback(PrinterCallback)
        begun = time.monotonic()
        result = trainer.train()
        seconds = time.monotonic() - begun
        model.save_pretrained(str(out))
        tokenizer.save_pretrained(str(out))
    return {
        "lessons": len(lessons),
        "loss": result.training_loss,
        "train_tokens": collator.tokens,
        "parameters": parameters(model),
        "seconds": seconds,
    }


def tokenised_lessons(tokenizer: Any, lessons: Sequence[Lesson]) -> Dataset:
    """Columns input_ids, labels (the action and its end alone) and row (its place)."""
    prompts = tokenizer([lesson.prompt for lesson in lessons])["input_ids"]
    actions = tokenizer([lesson.action for lesson in lessons], add_special_tokens=False)["input_ids"]
    ends = [[*ids, tokenizer.eos_token_id] for ids in actions]
    return Dataset.from_dict(
        {
            "input_ids": [p + a for p, a in zip(prompts, ends, strict=True)],
            "labels": [[IGNORED] * len(p) + a for p, a in zip(prompts, ends, strict=True)],
            "row": list(range(len(lessons))),
        }
    )
