"""The reward: pairs from H^A's labels, and an ensemble of reward models trained on them with TRL's RewardTrainer.

Scores are centred and scaled on the held-out pairs: on average +1 for H^A's answer and -1 for another one, so that a
KL coefficient means the same in every generation. What PPO gets is a conservative aggregate of the members.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import RewardConfig as TrlRewardConfig
from trl import RewardTrainer

from amplification.errors import InputError
from amplification.question import Answer
from amplification.tasks.base import NONSENSE, Task
from distill.config import AdapterConfig, RewardConfig
from distill.ensemble import Calibration, RewardEnsemble, save_calibration
from distill.imitation import PART, ProgressCallback, lesson_optimizer
from distill.judgement import Judgement
from distill.progress import Progress
from distill.weights import (
    CHECKPOINT_ABOVE,
    answer_ids,
    load_merged,
    load_scorer,
    load_tokenizer,
    padded,
    parameters,
    prompt_ids,
    quiet,
    scorer_from,
    scorer_trained,
)

# Questions with candidate answers -> H^A's judgements, None where it came to none.
Judging = Callable[[Sequence[tuple[str, Sequence[str]]]], Sequence[Judgement | None]]

# Share of the labels for which `nonsense` may be rejected before other answers are.
NONSENSE_SHARE = 0.3


def make_pairs(
    tasks: Mapping[str, Task],
    labels: Sequence[Mapping[str, Any]],
    ask: Callable[[Sequence[str]], Sequence[Answer]],
    settings: RewardConfig,
    seed: int,
    judge: Judging | None = None,
) -> list[dict[str, str]]:
    """Rows with question, chosen (H^A's answer), rejected (another answer) and part.

    `judge` has H^A say which candidates are acceptable; without it, what says the same as its answer is, and nothing
    else. A label whose own answer H^A does not find acceptable when it judges gives no pairs.

    `ask` is the agent. Its answer is the first to be rejected where it is not H^A's; then come others of the right
    form (for a question that makes no sense: answers to other questions) and `nonsense`, in a random order.
    """
    rng = random.Random(f"{seed}/pairs")
    questions = [str(row["question"]) for row in labels]
    everyone = [str(row["answer"]) for row in labels]
    asked: list[tuple[str, list[str]]] = []
    for row, question, answer in zip(labels, questions, ask(questions), strict=True):
        task = tasks.get(str(row["task"]))
        other = list(task.valid_answers(question)) if task else rng.sample(everyone, min(len(everyone), 16))
        rng.shuffle(other)
        other.insert(rng.randrange(len(other) + 1) if rng.random() < NONSENSE_SHARE else len(other), NONSENSE)
        own = [answer.text] if answer.ok and answer.text else []
        asked.append((question, list(dict.fromkeys([*own, *other]))))
    pairs: list[dict[str, str]] = []
    for row, judgement in zip(labels, _judged(asked, everyone, settings, judge), strict=True):
        rejected = judgement.rejected()[: settings.pairs_per_label] if judgement else []
        common = {"question": str(row["question"]), "chosen": str(row["answer"]), "part": str(row["part"])}
        pairs += [common | {"rejected": text} for text in rejected]
    return pairs


def _judged(
    asked: Sequence[tuple[str, list[str]]], answers: Sequence[str], settings: RewardConfig, judge: Judging | None
) -> Sequence[Judgement | None]:
    """A judgement of the candidates of each label, None where H^A does not stand by its own answer."""
    if judge is None:
        return [Judgement.by(answer, *each) for each, answer in zip(asked, answers, strict=True)]
    # A model's step is dear, and one alternative more than is needed leaves room for one that is acceptable.
    most = settings.pairs_per_label + 1
    shown = [
        (q, [answer, *(t for t in texts if t != answer)][: most + 1])
        for (q, texts), answer in zip(asked, answers, strict=True)
    ]
    return [found if found and found.acceptable[0] else None for found in judge(shown)]


class PairCollator:
    """Pairs of token ids -> parts of similar length, each `chosen` rows then `rejected` rows, padded on the right."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self.tokens = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[torch.Tensor]]:
        """Input ids of each part, and where each row's last token is."""
        ordered = sorted(rows, key=lambda row: len(row["chosen_ids"]))
        ids, last = [], []
        for start in range(0, len(ordered), PART // 2):
            part = ordered[start : start + PART // 2]
            both = [row["chosen_ids"] for row in part] + [row["rejected_ids"] for row in part]
            self.tokens += sum(map(len, both))
            ids.append(padded(both, self.pad_token_id))
            last.append(torch.tensor([len(row) - 1 for row in both]))
        return {"input_ids": ids, "last": last}


class PairTrainer(RewardTrainer):  # type: ignore[misc]
    """RewardTrainer that takes a batch in parts of similar length and keeps no running statistics."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean Bradley-Terry loss over the pairs of all parts. `return_outputs` is not supported."""
        total, pairs = torch.zeros((), device=model.device), 0
        for ids, last in zip(inputs["input_ids"], inputs["last"], strict=True):
            # The head at the last token alone, found by the collator. No attention mask: padding is on the right.
            scorer = model.get_base_model() if isinstance(model, PeftModel) else model
            hidden = scorer.base_model(input_ids=ids, use_cache=False).last_hidden_state
            scores = scorer.score(hidden[torch.arange(len(ids), device=ids.device), last]).squeeze(-1).float()
            chosen, rejected = scores.chunk(2)
            total = total - functional.logsigmoid(chosen - rejected).sum()
            pairs += len(chosen)
        return total / pairs

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None counted here: the ledger counts tokens."""
        return 0


def train_reward(
    base: str | Path,
    agent: str | Path | None,
    pairs: Sequence[Mapping[str, str]],
    adapter_config: AdapterConfig,
    settings: RewardConfig,
    out: str | Path,
    seed: int,
    progress: Progress,
    earlier: str | Path | None = None,
) -> dict[str, Any]:
    """Train the members from the agent's merged weights and write `out`/member-0, member-1, ...

    `earlier` is an ensemble of as many members that training carries on from instead, heads and all.

    Members differ in their initial head and in the order of the data; of each, what `adapter_config` says is trained,
    and the head. Metrics: heldout_accuracy (share of the held-out
    pairs that the aggregate orders like H^A), each member's, tokens, parameters of one member, pairs_per_second.
    Raises InputError if the training or the held-out part is empty.
    """
    with quiet():
        tokenizer = load_tokenizer(base)
        train, heldout = ([row for row in pairs if row["part"] == part] for part in ("train", "heldout"))
        for name, part in (("training", train), ("held-out", heldout)):
            if not part:
                raise InputError("labels", f"no pair is of the {name} part", "ask H^A more questions")
        begun = time.monotonic()
        lesson = _Lesson(str(base), str(agent) if agent else None, train, adapter_config, settings, seed, earlier)
        counts = _train_members(lesson, Path(out), progress)
        seconds = time.monotonic() - begun
        metrics = calibrate(base, Path(out), heldout, settings)
        scored = tokenised_pairs(tokenizer, heldout)
        tokens = sum(len(row) for name in ("chosen_ids", "rejected_ids") for row in scored[name])
    return metrics | {
        "pairs": len(train),
        "forward_tokens": tokens * settings.members,
        "train_tokens": sum(tokens for tokens, _ in counts),
        "parameters": counts[0][1],
        "pairs_per_second": settings.steps * settings.batch * settings.members / max(seconds, 1e-9),
    }


def tokenised_pairs(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, str]]) -> Dataset:
    """Columns chosen_ids and rejected_ids: prompt, answer and end of sequence."""
    prompts = prompt_ids(tokenizer, [row["question"] for row in rows])
    columns: dict[str, list[list[int]]] = {}
    for name in ("chosen", "rejected"):
        answers = answer_ids(tokenizer, [row[name] for row in rows])
        columns[f"{name}_ids"] = [p + a for p, a in zip(prompts, answers, strict=True)]
    return Dataset.from_dict(columns)


class _Lesson(NamedTuple):
    """All that members have in common; `earlier` is the ensemble that each carries on from."""

    base: str
    agent: str | None
    pairs: list[Mapping[str, str]]
    adapter: AdapterConfig
    settings: RewardConfig
    seed: int
    earlier: str | Path | None = None


def _train_members(lesson: _Lesson, out: Path, progress: Progress) -> list[tuple[int, int]]:
    """Train all members, on a CPU side by side; the tokens that each was trained on, and its parameters.

    A process of its own writes into a folder of its own, so that one left over by a kill can do no harm.
    """
    out.mkdir(parents=True, exist_ok=True)
    folders = [out / f"member-{member}" for member in range(lesson.settings.members)]
    if torch.cuda.is_available() or len(folders) == 1:
        return [_train_member(lesson, folder, member, progress) for member, folder in enumerate(folders)]
    aside = [Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=out)) for folder in folders[1:]]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as pool:
        others = [pool.submit(_train_member, lesson, place, member) for member, place in enumerate(aside, 1)]
        counts = [_train_member(lesson, folders[0], 0, progress), *(other.result() for other in others)]
    for place, folder in zip(aside, folders[1:], strict=True):
        place.rename(folder)
    return counts


def _train_member(lesson: _Lesson, out: Path, member: int, progress: Progress | None = None) -> tuple[int, int]:
    base, agent, pairs, adapter, settings, seed, earlier = lesson
    tokenizer = load_tokenizer(base)
    collator = PairCollator(int(tokenizer.pad_token_id))
    start = load_merged(base, agent) if earlier is None else load_scorer(Path(earlier) / f"member-{member}")
    torch.manual_seed(seed * 100 + member)
    if earlier is None:
        model: Any = scorer_from(start, collator.pad_token_id, adapter, extra_layers=settings.extra_layers)
    else:
        model = scorer_trained(start, adapter)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = PairTrainer(
            model=model,
            args=TrlRewardConfig(
                output_dir=scratch,
                max_steps=settings.steps,
                per_device_train_batch_size=settings.batch,
                max_grad_norm=1.0,
                seed=seed,
                data_seed=seed,
                max_length=None,
                bf16=torch.cuda.is_available(),
                gradient_checkpointing=parameters(model) > CHECKPOINT_ABOVE,
                dataloader_pin_memory=False,
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            data_collator=collator,
            train_dataset=tokenised_pairs(tokenizer, pairs),
            processing_class=tokenizer,
            callbacks=[ProgressCallback(progress)] if progress else [],
            optimizers=lesson_optimizer(model, adapter, settings.learning_rate, settings.steps),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    merged = model.merge_and_unload() if isinstance(model, PeftModel) else model
    merged.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
    return collator.tokens, parameters(merged)


def calibrate(
    base: str | Path, folder: Path, heldout: Sequence[Mapping[str, str]], settings: RewardConfig
) -> dict[str, Any]:
    """Write each member's centre and scale, measured on the held-out pairs; returns the ensemble's accuracies there."""
    count = settings.members
    save_calibration(folder, Calibration((0.0,) * count, (1.0,) * count, settings.aggregate))
    ensemble = RewardEnsemble.load(base, folder)
    questions = [row["question"] for row in heldout]
    chosen = ensemble.scores(questions, [row["chosen"] for row in heldout])
    rejected = ensemble.scores(questions, [row["rejected"] for row in heldout])
    centre = (chosen.mean(dim=1) + rejected.mean(dim=1)) / 2
    # A member that orders nothing must not be blown up to look as if it did.
    scale = ((chosen.mean(dim=1) - rejected.mean(dim=1)) / 2).clamp(min=0.1)
    save_calibration(folder, Calibration(tuple(centre.tolist()), tuple(scale.tolist()), settings.aggregate))
    chosen, rejected = ((s - centre[:, None]) / scale[:, None] for s in (chosen, rejected))
    right = ensemble.aggregate(chosen) > ensemble.aggregate(rejected)
    return {
        "heldout_accuracy": float(right.float().mean()),
        "member_accuracy": [float(a) for a in (chosen > rejected).float().mean(dim=1)],
        "heldout_pairs": len(heldout),
    }
