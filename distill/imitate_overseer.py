"""Imitating an overseer: from its recorded steps, a model that takes them itself. Supervised, with TRL's SFTTrainer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import PrinterCallback

from amplification.episode import Step
from amplification.overseers.imitator import TEMPLATE
from amplification.overseers.notation import workspace_text, write_action
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


class Lesson(NamedTuple):
    """One recorded step as text: what the overseer was shown, what it did there, and of which kind that is."""

    prompt: str
    action: str
    kind: str


def lessons_from(steps: Iterable[tuple[Workspace, Step]], by: str) -> list[Lesson]:
    """The steps that the overseer named `by` decided, as the imitator will be shown and is to write them; equal
    workspaces once."""
    found: dict[str, Lesson] = {}
    for workspace, step in steps:
        if step.by == by:
            prompt = render(TEMPLATE, workspace=workspace_text(workspace))
            kind = type(step.action).__name__
            found[prompt] = Lesson(prompt, write_action(step.action, workspace, "json"), kind)
    return list(found.values())


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
        collator = Collator(tokenizer.pad_token_id)
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
