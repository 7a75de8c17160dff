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
from distill.lessons import LessonSampler
from distill.optimizer import lesson_schedule, optimizer_for, trainable
from distill.progress import Progress
from distill.trainer_arguments import lesson_arguments
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
# Rows that go through the model together; a batch is sorted by length and cut into such parts. A processor caches few,
# a GPU is faster with many.
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
    """Rows of token ids with the number of prompt tokens -> parts of similar length, padded on the right."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self.tokens = self.examples = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Input ids, labels and places of each part; labels are `IGNORED` except on answers and their ends."""
        ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
        parts = [ordered[start : start + PART] for start in range(0, len(ordered), PART)]
        self.tokens += sum(len(row["input_ids"]) for row in rows)
        self.examples += len(rows)
        return {
            "input_ids": [padded([row["input_ids"] for row in part], self.pad_token_id) for part in parts],
            "labels": [padded([row["labels"] for row in part], IGNORED) for part in parts],
            "rows": [[row["row"] for row in part] for part in parts],
        }


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with logits at answers alone, a batch taken in parts of similar length, and lessons by their loss."""

    def __init__(self, *args: Any, sampler: LessonSampler, **kwargs: Any) -> None:
        self.sampler = sampler
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> LessonSampler:
        return self.sampler

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean cross-entropy over the answers' tokens of all parts. `return_outputs` is not supported."""
        total, count = torch.zeros((), device=model.device), 0
        for ids, labels, rows in zip(inputs["input_ids"], inputs["labels"], inputs["rows"], strict=True):
            targets = labels[:, 1:]
            # Columns in which some row has an answer token; position t predicts token t + 1.
            columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(-1)
            # No attention mask: padding is on the right, where a causal model does not look.
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=columns).logits
            wanted = targets[:, columns]
            losses = functional.cross_entropy(logits.flatten(0, 1).float(), wanted.reshape(-1), reduction="none")
            total = total + losses.sum()
            count += int((wanted != IGNORED).sum())
            self.sampler.learned(rows, losses.detach().view(len(rows), -1).sum(dim=1).tolist())
        return total / count

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None counted here: the ledger counts tokens."""
        return 0


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
        collator = Collator(tokenizer.pad_token_id)
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
    return SFTConfig(
        **lesson_arguments(scratch, seed, settings.steps, settings.batch),
        bf16=torch.cuda.is_available(),
        gradient_checkpointing=size > CHECKPOINT_ABOVE,
        dataset_kwargs={"skip_prepare_dataset": True},
        average_tokens_across_devices=False,
    )
