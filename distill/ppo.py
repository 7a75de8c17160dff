"""PPO with TRL's PPOTrainer. All that this project takes from TRL's experimental parts is imported in this module.

TRL's own loop runs unchanged. What it lacks comes in through the optimizer and the scheduler that it is given:
gradient clipping (a hook before each step), a learning rate of the critic's own, and a critic that learns alone at
first. What slows it down (two full garbage collections an update) is made cheap from outside by `frozen_garbage`.
"""

from __future__ import annotations

import gc
import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from amplification.errors import InputError, StageError
from distill.config import AdapterConfig, PPOSettings
from distill.ensemble import RewardEnsemble
from distill.optimizer import optimizer_for, trainable
from distill.progress import Progress
from distill.weights import (
    load_merged,
    load_policy,
    load_tokenizer,
    parameters,
    prompt_ids,
    quiet,
    save_policy,
    scorer_from,
)

with warnings.catch_warnings():
    # Known and wanted: the project pins the last TRL that has PPO, and keeps it behind this module.
    warnings.filterwarnings("ignore", message="You are importing from 'trl.experimental'")
    from trl.experimental.ppo import PPOConfig, PPOTrainer

MAX_GRADIENT_NORM = 1.0
# Taken off an answer that does not end; H^A's answers and others lie 2 apart on average.
UNFINISHED_PENALTY = 2.0
# Batches whose prompts are sorted by length together.
BUCKETS = 8
# Share of the updates over which what a run began and ended with is averaged: one batch has prompts of one length.
ENDS = 0.25


@contextmanager
def frozen_garbage() -> Iterator[None]:
    """Full garbage collections inside look only at what was made inside: TRL asks for two of them an update.

    Without this they take most of the time with a tiny model, walking over every object of every library.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Watch(TrainerCallback):
    """Keeps each update's metrics and tells a `Progress` how many episodes are done."""

    def __init__(self, progress: Progress, episodes: int) -> None:
        self.progress, self.episodes = progress, episodes
        self.history: list[dict[str, float]] = []

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.history.append(dict(logs or {}))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress(min(int(getattr(state, "episode", 0)), self.episodes), self.episodes)

    def mean(self, key: str, updates: slice) -> float:
        values = [entry[key] for entry in self.history[updates] if key in entry]
        return sum(values) / len(values)


class PromptCollator:
    """Prompts as one batch, padded on the left, which is where `generate` wants it. Counts the prompts' tokens."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self.tokens = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        self.tokens += sum(map(len, ids))
        width = max(map(len, ids))
        return {"input_ids": torch.tensor([[self.pad_token_id] * (width - len(row)) + row for row in ids])}


class Buckets:
    """Batches of prompts of similar length, in a random order, each epoch another: a third of the time of mixed ones.

    Sorting is within `BUCKETS` batches' worth of shuffled prompts, so that who is beside whom stays random.
    """

    def __init__(self, prompts: Dataset, collator: PromptCollator, batch: int, seed: int) -> None:
        self.rows, self.collator, self.batch = prompts.to_list(), collator, batch
        self.rng = random.Random(f"{seed}/buckets")

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """One epoch; what is left over of a batch waits for the next one."""
        rows, batches = self.rows[:], []
        self.rng.shuffle(rows)
        # Left over before sorting: after it, what is left would always be the longest prompts.
        del rows[len(rows) // self.batch * self.batch :]
        for start in range(0, len(rows), BUCKETS * self.batch):
            part = sorted(rows[start : start + BUCKETS * self.batch], key=lambda row: len(row["input_ids"]))
            batches += [part[place : place + self.batch] for place in range(0, len(part), self.batch)]
        self.rng.shuffle(batches)
        for rows in batches:
            yield self.collator(rows)


def train_ppo(
    base: str | Path,
    adapter_in: str | Path | None,
    reward_folder: str | Path,
    questions: Sequence[str],
    adapter_config: AdapterConfig,
    settings: PPOSettings,
    out: str | Path,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train the agent on the reward ensemble's reward of its own answers to `questions`; write it into `out`.

    The KL penalty is to the agent it starts from, `adapter_in`. Metrics: episodes, reward_before, reward_after
    (means of sampled answers' conservative reward), kl and entropy at the end in nats an episode, tokens and parameters
    of the agent and (reward_tokens, reward_parameters) of the ensemble, tokens_per_episode, episodes_per_second.
    Raises InputError for unusable inputs and StageError if training diverged.
    """
    if not questions:
        raise InputError("questions", "there is nothing to practise on", "give at least one question")
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        tokenizer = load_tokenizer(base)
        ensemble = RewardEnsemble.load(base, reward_folder)
        policy = load_policy(base, adapter_in, adapter_config, seed)
        collator = PromptCollator(int(tokenizer.pad_token_id))
        watch = Watch(progress, settings.episodes)
        begun = time.monotonic()
        if settings.episodes:
            reference = load_merged(base, adapter_in).requires_grad_(False)
            value = scorer_from(reference, int(tokenizer.pad_token_id), adapter_config, zero_head=True)
            prompts = practice(tokenizer, questions, settings.batch, seed)
            optimizers = make_optimizer(policy, value, adapter_config, settings)
            trainer = make_trainer(
                policy, reference, value, ensemble, prompts, tokenizer, collator, optimizers, settings, scratch, seed
            )
            trainer.add_callback(watch)
            with frozen_garbage():
                trainer.train()
        seconds = time.monotonic() - begun
        if any(not torch.isfinite(p).all() for p in policy.parameters()):
            raise StageError("PPO diverged: the agent's weights are not finite; lower distill.ppo.learning_rate")
        save_policy(policy, base, adapter_config, out)
    members = len(ensemble.centre)
    return summary(watch, settings, collator.tokens, members, seconds) | {
        "parameters": parameters(policy),
        "reward_parameters": parameters(ensemble) // members,
    }


def practice(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], batch: int, seed: int) -> Dataset:
    """The prompts' token ids; repeated where they do not fill a batch, which TRL would wait for without end."""
    rows = prompt_ids(tokenizer, questions)
    random.Random(f"{seed}/practice").shuffle(rows)
    return Dataset.from_dict({"input_ids": rows * (-(-batch // len(rows)))})


def make_trainer(
    policy: Any,
    reference: Any,
    value: Any,
    ensemble: RewardEnsemble,
    prompts: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    collator: PromptCollator,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR],
    settings: PPOSettings,
    scratch: str,
    seed: int,
) -> Any:
    """TRL's trainer with everything off that prints, saves or samples for show."""
    # A model's own sampling settings (a repetition penalty, say) would make rollouts differ from what is trained.
    policy.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=scratch,
            total_episodes=settings.episodes,
            # One batch at once, without accumulation: only then does every minibatch make an optimizer step.
            per_device_train_batch_size=settings.batch,
            local_rollout_forward_batch_size=settings.batch,
            gradient_accumulation_steps=1,
            num_mini_batches=settings.minibatches,
            num_ppo_epochs=settings.epochs,
            num_sample_generations=0,
            response_length=settings.answer_tokens + 1,
            stop_token="eos",
            missing_eos_penalty=UNFINISHED_PENALTY,
            temperature=settings.temperature,
            kl_coef=settings.kl_coefficient,
            # An episode is one action and an end: nothing to be gained by trusting the critic about the end.
            lam=1.0,
            cliprange_value=1.0,
            gradient_checkpointing=False,
            bf16=False,
            seed=seed,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=ensemble,
        value_model=value,
        train_dataset=prompts,
        data_collator=collator,
        optimizers=optimizers,
    )
    trainer.dataloader = Buckets(prompts, collator, settings.batch, seed)
    trainer.remove_callback(PrinterCallback)
    trainer.accelerator.print = lambda *args, **kwargs: None
    return trainer


def make_optimizer(
    policy: torch.nn.Module, value: torch.nn.Module, adapter: AdapterConfig, settings: PPOSettings
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """Clipped gradients, two learning rates, and a schedule whose first updates move the critic alone."""
    ours, critics = trainable(policy), trainable(value)
    groups = [(ours, settings.learning_rate), (critics, settings.value_learning_rate)]
    optimizer = optimizer_for(groups, adapter, weight_decay=0.0)

    def clip(*_: Any) -> None:
        for group in (ours, critics):
            torch.nn.utils.clip_grad_norm_(group, MAX_GRADIENT_NORM)

    optimizer.register_step_pre_hook(clip)
    updates = max(1, -(-settings.episodes // settings.batch))
    warm = settings.critic_warmup

    def policy_rate(update: int) -> float:
        return 0.0 if update < warm else max(0.1, 1 - (update - warm) / max(1, updates - warm))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, [policy_rate, lambda _: 1.0])


def summary(watch: Watch, settings: PPOSettings, prompt_tokens: int, members: int, seconds: float) -> dict[str, Any]:
    """The metrics of a training run; zeros where there were no episodes."""
    episodes = len(watch.history) * settings.batch
    # An answer's tokens and its end; what an unfinished answer has more is not counted.
    tokens = prompt_tokens + episodes * (settings.answer_tokens + 1)
    some = max(1, round(len(watch.history) * ENDS))
    began, ended = slice(0, some), slice(-some, None)
    return {
        "episodes": episodes,
        "reward_before": watch.mean("objective/scores", began) if episodes else 0.0,
        "reward_after": watch.mean("objective/scores", ended) if episodes else 0.0,
        "kl": watch.mean("objective/kl", ended) if episodes else 0.0,
        "entropy": watch.mean("objective/entropy", ended) if episodes else 0.0,
        # The policy's rollouts, the reference and the critic; each epoch trains the policy and the critic.
        "forward_tokens": tokens * 3,
        "train_tokens": tokens * 2 * settings.epochs,
        "reward_tokens": tokens * members,
        "tokens_per_episode": tokens / max(episodes, 1),
        "episodes_per_second": episodes / max(seconds, 1e-9),
    }
