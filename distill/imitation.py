"""Warm start: supervised learning on H^A's answers, with TRL's SFTTrainer.

The trainer is TRL's; what is replaced is how a batch reaches the model. Its default pads every row of a mixed batch
to the longest, computes logits for every position, and keeps an entropy and an accuracy that nobody reads.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from amplification.errors import InputError
from distill.config import AdapterConfig, WarmStartConfig
from distill.in_parts import Batch, InParts
from distill.lessons import LessonSampler
from distill.optimizer import lesson_schedule, optimizer_for, trainable
from distill.progress import Progress
from distill.trainer_arguments import lesson_arguments, on_one_device
from distill.weights import (
    CHECKPOINT_ABOVE,
    answer_ids,
    load_policy,
    load_tokenizer,
    padded,
    parameters,
    prompt_ids,
    quiet,
    require_finite,
    save_policy,
)

IGNORED = -100
WEIGHT_DECAY = 0.1
# Rows that go through the model together at first; a batch is sorted by length and cut into such parts. A processor
# caches few, a GPU is faster with many.
PART = 256 if torch.cuda.is_available() else 32


# The lessons of questions that make no sense. They are of many kinds, so these lessons are never nearly over.
NO_SENSE = "no sense"
NO_SENSE_FLOOR = 0.1


class ProgressCallback(TrainerCallback):
    """Tells a `Progress` about each optimizer step."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps)


class Collator:
    """Rows of token ids with labels and their place, sorted by length. Counts tokens and examples."""

    def __init__(self) -> None:
        self.tokens = self.examples = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Batch]:
        """Labels are `IGNORED` except on answers and their ends."""
        self.tokens += sum(len(row["input_ids"]) for row in rows)
        self.examples += len(rows)
        return {"batch": Batch(sorted(rows, key=lambda row: len(row["input_ids"])))}


class AnswerTrainer(InParts, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with logits at answers alone, a batch taken in parts of similar length, and lessons by their loss."""

    def __init__(self, *args: Any, sampler: LessonSampler, **kwargs: Any) -> None:
        self.sampler = sampler
        self.told: list[tuple[list[int], torch.Tensor]] = []  # rows of the newest batch and their losses
        super().__init__(*args, part=PART, **kwargs)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> LessonSampler:
        return self.sampler

    def count(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """The answers' tokens."""
        return sum(label != IGNORED for row in rows for label in row["labels"][1:])

    def loss_of(self, model: Any, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """Cross-entropy, summed up over the answers' tokens."""
        ids, labels = padded_part(rows, int(self.processing_class.pad_token_id))
        targets = labels[:, 1:]
        # Columns in which some row has an answer token; position t predicts token t + 1.
        columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(-1)
        wanted = targets[:, columns].to(model.device)
        # No attention mask: padding is on the right, where a causal model does not look.
        logits = model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=columns.to(model.device)).logits
        losses = functional.cross_entropy(logits.flatten(0, 1).float(), wanted.reshape(-1), reduction="none")
        self.told.append(([row["row"] for row in rows], losses.detach().view(len(rows), -1).sum(dim=1)))
        return losses.sum()

    def begin(self, model: Any) -> None:
        """And what the sampler would have been told."""
        super().begin(model)
        self.told.clear()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As `InParts` does it; the sampler learns of the losses."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        rows = [row for part, _ in reversed(self.told) for row in part]
        losses = torch.cat([each for _, each in reversed(self.told)]).tolist()
        # Always so many together, since how many there are decides how fast the sampler learns.
        for start in range(0, len(rows), PART):
            self.sampler.learned(rows[start : start + PART], losses[start : start + PART])
        return loss


def padded_part(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and labels [rows, longest], padded on the right."""
    return padded([row["input_ids"] for row in rows], pad_token_id), padded([row["labels"] for row in rows], IGNORED)


def warm_start(
    base: str | Path,
    adapter_in: str | Path | None,
    labels: Sequence[Mapping[str, Any]],
    adapter_config: AdapterConfig,
    settings: WarmStartConfig,
    out: str | Path,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train the agent on the labels' training part and write it into `out`; the loss is on answers and ends alone.

    `labels` are rows with question, answer and part. Starts from `adapter_in`, or from the base.
    Metrics: examples, loss of the last steps, tokens, parameters, examples_per_second.
    Raises InputError if there is nothing to train on or `adapter_in` is of another kind.
    """
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        tokenizer = load_tokenizer(base)
        taught = training_part(labels)
        rows = tokenised(tokenizer, taught)
        draws = settings.steps * settings.batch
        groups = list(map(lesson_of, taught))
        floors = {group: NO_SENSE_FLOOR for group in groups if group.startswith(NO_SENSE)}
        sampler = LessonSampler(groups, draws, seed, floors)
        policy = load_policy(base, adapter_in, adapter_config, seed)
        collator = Collator()
        trainer = AnswerTrainer(
            model=policy,
            args=sft_arguments(settings, parameters(policy), scratch, seed),
            data_collator=collator,
            train_dataset=rows,
            sampler=sampler,
            processing_class=tokenizer,
            callbacks=[ProgressCallback(progress)],
            optimizers=lesson_optimizer(policy, adapter_config, settings.learning_rate, settings.steps),
        )
        trainer.remove_callback(PrinterCallback)
        begun = time.monotonic()
        result = trainer.train()
        seconds = time.monotonic() - begun
        require_finite(policy, "distill.warm_start.learning_rate")
        save_policy(policy, base, adapter_config, out)
    return {
        "examples": len(rows),
        "loss": result.training_loss,
        "steps": result.global_step,
        "forward_tokens": 0,
        "train_tokens": collator.tokens,
        "parameters": parameters(policy),
        "examples_per_second": collator.examples / max(seconds, 1e-9),
    }


def lesson_of(row: Mapping[str, Any]) -> str:
    """The group in which a label is learned: its task and level, or that it makes no sense and of what it was made."""
    made_from = str(row["source"]).rpartition("/")[2]
    return f"{row['task']} {row['level']}" if row["task"] else f"{NO_SENSE}: {made_from}"


def training_part(labels: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The labels to learn from, those that measure the reward model left out. Raises InputError if there are none."""
    rows = [row for row in labels if row["part"] == "train"]
    if not rows:
        raise InputError("labels", "no label is of the training part", "ask H^A more questions or hold out fewer")
    return rows


def tokenised(tokenizer: Any, labels: Sequence[Mapping[str, Any]]) -> Dataset:
    """Columns input_ids, labels and row (its place)."""
    prompts = prompt_ids(tokenizer, [str(row["question"]) for row in labels])
    answers = answer_ids(tokenizer, [str(row["answer"]) for row in labels])
    return Dataset.from_dict(
        {
            "input_ids": [p + a for p, a in zip(prompts, answers, strict=True)],
            "labels": [[IGNORED] * len(p) + a for p, a in zip(prompts, answers, strict=True)],
            "row": list(range(len(labels))),
        }
    )


def lesson_optimizer(
    model: torch.nn.Module, adapter: AdapterConfig, rate: float, steps: int
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Optimizer and schedule for a lesson of so many steps."""
    optimizer = optimizer_for([(trainable(model), rate)], adapter, WEIGHT_DECAY)
    return optimizer, lesson_schedule(optimizer, steps)


def sft_arguments(settings: WarmStartConfig, size: int, scratch: str, seed: int) -> SFTConfig:
    """TRL's settings with everything off that writes, logs or asks the network."""
    return on_one_device(
        SFTConfig(
            **lesson_arguments(scratch, seed, settings.steps, settings.batch),
            bf16=torch.cuda.is_available(),
            gradient_checkpointing=size > CHECKPOINT_ABOVE,
            dataset_kwargs={"skip_prepare_dataset": True},
            average_tokens_across_devices=False,
        )
    )
