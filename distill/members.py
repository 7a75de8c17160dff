"""Members of the reward ensemble: each a scorer, trained on pairs with TRL's RewardTrainer.

With LoRA they share one backbone: `backbone/` is the agent's merged weights with the extra layers, written once, and
`member-0/`, `member-1/`, ... hold an adapter and a head each. Otherwise each of them is a whole model.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, PrinterCallback
from trl import RewardConfig as TrlRewardConfig
from trl import RewardTrainer

from distill.config import AdapterConfig, RewardConfig
from distill.imitation import PART, ProgressCallback, lesson_optimizer
from distill.in_parts import Batch, InParts
from distill.pairs import bound_losses, pair_losses
from distill.progress import Progress
from distill.trainer_arguments import lesson_arguments, on_one_device
from distill.tree import Tree, ends_of, rows_of, tree_of
from distill.weights import (
    CHECKPOINT_ABOVE,
    answer_ids,
    load_merged,
    load_tokenizer,
    lora_config,
    parameters,
    prompt_ids,
    save_adapter,
    scorer_from,
    scorer_trained_by,
)

BACKBONE = "backbone"


class Lesson(NamedTuple):
    """All that members have in common; what differs is the seed."""

    base: str
    agent: str | None
    pairs: list[Mapping[str, Any]]
    adapter: AdapterConfig
    settings: RewardConfig
    carried_on: str | None = None  # the ensemble whose members are trained further, instead of new ones


def train_members(lesson: Lesson, out: Path, seed: int, progress: Progress) -> list[tuple[int, int]]:
    """Train all members; the tokens that each was trained on, and its parameters.

    Side by side on a CPU where a model computes with one thread: OpenMP's others do not live on in a forked process,
    which would wait for them forever. A process of its own writes into a folder of its own, so that one left over by a
    kill can do no harm.
    """
    out.mkdir(parents=True, exist_ok=True)
    if lesson.adapter.method == "lora":
        _write_backbone(lesson, out / BACKBONE, seed)
    folders = [member_folder(out, member) for member in range(lesson.settings.members)]
    if torch.cuda.is_available() or torch.get_num_threads() > 1 or len(folders) == 1:
        return [_train_member(lesson, folder, n, seed, progress) for n, folder in enumerate(folders)]
    aside = [Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=out)) for folder in folders[1:]]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as pool:
        others = [pool.submit(_train_member, lesson, place, n, seed) for n, place in enumerate(aside, start=1)]
        counts = [_train_member(lesson, folders[0], 0, seed, progress), *(other.result() for other in others)]
    for place, folder in zip(aside, folders[1:], strict=True):
        place.rename(folder)
    return counts


def member_folder(ensemble: Path, member: int) -> Path:
    """Where a member lies."""
    return ensemble / f"member-{member}"


def _write_backbone(lesson: Lesson, out: Path, seed: int) -> None:
    """What all members have in common, once."""
    if lesson.carried_on is not None:
        shutil.copytree(Path(lesson.carried_on) / BACKBONE, out, dirs_exist_ok=True)
        return
    tokenizer = load_tokenizer(lesson.base)
    torch.manual_seed(seed)
    start, layers = load_merged(lesson.base, lesson.agent), lesson.settings.extra_layers
    scorer = scorer_from(start, int(tokenizer.pad_token_id), AdapterConfig(method="full"), extra_layers=layers)
    scorer.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))


def _scorer(lesson: Lesson, ensemble: Path, member: int, seed: int, pad_token_id: int) -> Any:
    """The scorer that a member begins as, with what its lesson trains left trainable."""
    base, agent, _, adapter, settings, carried_on = lesson
    torch.manual_seed(seed)
    if adapter.method == "lora":
        plain: Any = AutoModelForSequenceClassification.from_pretrained(str(ensemble / BACKBONE), use_safetensors=True)
        if carried_on is not None:
            return PeftModel.from_pretrained(plain, str(member_folder(Path(carried_on), member)), is_trainable=True)
        torch.nn.init.normal_(plain.score.weight, std=plain.config.initializer_range)
        return get_peft_model(plain, lora_config(adapter, "SEQ_CLS"))
    if carried_on is not None:
        place = member_folder(Path(carried_on), member)
        kept: Any = AutoModelForSequenceClassification.from_pretrained(str(place), use_safetensors=True)
        return scorer_trained_by(kept, adapter)
    start = load_merged(base, agent)
    torch.manual_seed(seed)  # loading may have drawn
    return scorer_from(start, pad_token_id, adapter, extra_layers=settings.extra_layers)


def _train_member(
    lesson: Lesson, out: Path, member: int, seed: int, progress: Progress | None = None
) -> tuple[int, int]:
    """Train one member, write it into `out`; returns the tokens it was trained on, and its parameters.

    `out` lies in the ensemble's folder.
    """
    base, _, pairs, adapter, settings, _ = lesson
    tokenizer, seed = load_tokenizer(base), seed * 100 + member
    collator = PairCollator()
    model = _scorer(lesson, out.parent, member, seed, int(tokenizer.pad_token_id))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = PairTrainer(
            model=model,
            args=on_one_device(
                TrlRewardConfig(
                    **lesson_arguments(scratch, seed, settings.steps, settings.batch),
                    max_length=None,
                    bf16=False,  # TRL's default is True; a member computes in the precision of its weights
                    gradient_checkpointing=parameters(model) > CHECKPOINT_ABOVE,
                )
            ),
            data_collator=collator,
            train_dataset=tokenised_pairs(tokenizer, pairs),
            processing_class=tokenizer,
            bounded=any(row["chosen"] is None for row in pairs),
            callbacks=[ProgressCallback(progress)] if progress else [],
            optimizers=lesson_optimizer(model, adapter, settings.learning_rate, settings.steps),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if isinstance(model, PeftModel):
        save_adapter(model, out)
    else:
        model.save_pretrained(str(out))
        tokenizer.save_pretrained(str(out))
    return collator.tokens, parameters(model)


class LaidPair(NamedTuple):
    """A pair as it goes through a model: what both answers begin with, once, and behind it the tree of the two.

    A bound has no chosen answer; the rejected one stands in its place, too, and its pair counts for nothing.
    """

    given: list[int]
    tree: Tree
    margin: float
    bound: bool
    accepted: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> LaidPair:
        """From a row of `tokenised_pairs`."""
        chosen, rejected = row["chosen_ids"] or row["rejected_ids"], row["rejected_ids"]
        shared = _common(chosen, rejected)
        tree = tree_of([chosen[shared:], rejected[shared:]], whole=True)
        return cls(chosen[:shared], tree, float(row["margin"]), not row["chosen_ids"], bool(row["accepted"]))


class PairCollator:
    """Rows of `tokenised_pairs`, sorted by length, as pairs that go through a model. Counts tokens."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Batch]:
        """A batch of `LaidPair`."""
        pairs = [LaidPair.of(row) for row in sorted(rows, key=lambda row: len(row["rejected_ids"]))]
        self.tokens += sum(len(pair.given) + len(pair.tree.tokens) for pair in pairs)
        return {"batch": Batch(pairs)}


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two rows begin with alike; not the last one, which is where they are read."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return min(sum(1 for _ in alike), len(first) - 1, len(second) - 1)


class PairTrainer(InParts, RewardTrainer):  # type: ignore[misc]
    """RewardTrainer that takes a batch in parts of similar length and keeps no running statistics.

    `bounded`: there are bounds among the rows, so acceptable answers get a loss of their own.
    """

    def __init__(self, *args: Any, bounded: bool, **kwargs: Any) -> None:
        self.bounded = bounded
        super().__init__(*args, part=PART // 2, **kwargs)

    def count(self, rows: Sequence[LaidPair]) -> int:
        """The pairs."""
        return len(rows)

    def loss_of(self, model: Any, rows: Sequence[LaidPair]) -> torch.Tensor:
        """The losses of pairs (see `distill.pairs`), summed up."""
        trees = [pair.tree for pair in rows]
        laid = rows_of([pair.given for pair in rows], trees, int(self.processing_class.pad_token_id)).to(model.device)
        margin, bound, accepted = (
            torch.tensor([getattr(pair, name) for pair in rows], device=model.device)
            for name in ("margin", "bound", "accepted")
        )
        # The head at the answers' ends alone.
        scorer = model.get_base_model() if isinstance(model, PeftModel) else model
        hidden = scorer.base_model(input_ids=laid.ids, use_cache=False, **laid.extra).last_hidden_state
        ends = laid.states[torch.tensor(ends_of(trees), device=model.device)]
        scores = scorer.score(hidden.flatten(0, 1)[ends]).squeeze(-1).float()
        chosen, rejected = scores.unbind(1)
        total = torch.where(bound, bound_losses(rejected, False), pair_losses(chosen, rejected, margin)).sum()
        if self.bounded:
            total = total + (bound_losses(chosen, True) * accepted).sum()
        return total


def tokenised_pairs(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """Columns chosen_ids and rejected_ids (prompt, answer and end of sequence; none chosen for a bound), margin and
    accepted."""
    prompts = prompt_ids(tokenizer, [row["question"] for row in rows])
    columns: dict[str, list[Any]] = {}
    for name in ("chosen", "rejected"):
        answers = answer_ids(tokenizer, [row[name] or "" for row in rows])
        ids = [p + a for p, a in zip(prompts, answers, strict=True)]
        columns[f"{name}_ids"] = [each if row[name] is not None else [] for row, each in zip(rows, ids, strict=True)]
    columns["margin"] = [float(row.get("margin", 0.0)) for row in rows]
    columns["accepted"] = [row["chosen"] is not None and row.get("accepted", True) for row in rows]
    return Dataset.from_dict(columns)
