"""PPO: the agent practises on the reward ensemble's view of its own answers."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, GenerationConfig, PreTrainedTokenizerBase

from amplification.errors import InputError, StageError
from amplification.serving.config import ServingConfig
from amplification.serving.vllm_rollouts import VLLMRollouts
from distill.actor_critic import ValueHead
from distill.config import AdapterConfig, PPOSettings
from distill.ensemble import RewardEnsemble
from distill.experience import Settings
from distill.known import KnownReward
from distill.optimizer import LAST_RATE, optimizer_for, trainable
from distill.ppo_trainer import PPOConfig, PPOTrainer
from distill.practice import Hardest, Practice, Prompt, capped
from distill.precision import Precision
from distill.progress import Progress
from distill.refresh import Watched
from distill.served import Served
from distill.sharding import whole_weights
from distill.trainer_arguments import quiet_arguments
from distill.watch import Parts as WatchParts
from distill.watch import Watch
from distill.weights import (
    answer_ids,
    load_merged,
    load_policy,
    load_tokenizer,
    parameters,
    prompt_ids,
    quiet,
    save_policy,
)

MAX_GRADIENT_NORM = 1.0
# Taken off an answer that does not end; H^A's answers and others lie 2 apart on average.
UNFINISHED_PENALTY = 2.0
# Share of the updates over which what a run began and ended with is averaged.
ENDS = 0.25


def train_ppo(
    base: str | Path,
    adapter_in: str | Path | None,
    reward_folder: str | Path,
    questions: Sequence[str | Prompt],
    adapter_config: AdapterConfig,
    settings: PPOSettings,
    out: str | Path,
    seed: int,
    progress: Progress,
    state: Path | None = None,
    watched: Watched | None = None,
    attack_share: float = 0.5,
    serving: ServingConfig | None = None,
) -> dict[str, Any]:
    """Train the agent on the reward ensemble's reward of its own answers to `questions`; write it into `out`.

    A `Prompt` with H^A's answer is rewarded by it (`distill.known`), and it is one of its answers if there are several.
    The KL penalty is to the agent it starts from, `adapter_in`. `state` is a folder from which a killed training
    carries on. With `watched`, and if `settings.watch` says so, H^A looks at the training (`distill.watch`).
    `attack_share`: at most so many of the prompts are attacks. `serving`: how vLLM runs where `settings.rollouts` come
    from it.
    Metrics: episodes, reward_before, reward_after (means of sampled answers' conservative reward), kl and
    entropy at the end in nats an episode, throttled, prompts and attacks among them, attack_share (that of the tokens),
    tokens and parameters of the agent and (reward_tokens, reward_parameters) of the ensemble, tokens_per_episode,
    episodes_per_second (of this process's own time), precision (what linear layers computed in), and the watch's.
    Raises InputError for unusable inputs and StageError if training diverged.
    """
    if not questions:
        raise InputError("questions", "there is nothing to practise on", "give at least one question")
    prompts = [each if isinstance(each, Prompt) else Prompt(each) for each in questions]
    if settings.prompts == "even":
        prompts = capped(prompts, attack_share)
    random.Random(f"{seed}/practice").shuffle(prompts)
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        tokenizer = load_tokenizer(base)
        ensemble = RewardEnsemble.load(base, reward_folder)
        policy = load_policy(base, adapter_in, adapter_config, seed)
        begun = time.monotonic()
        trainer, watch, engine = None, None, None
        if settings.episodes:
            reference = load_merged(base, adapter_in).requires_grad_(False)
            value = ValueHead(reference.config.hidden_size)
            texts = [prompt.question for prompt in prompts]
            ids = prompt_ids(tokenizer, texts)
            optimizers = make_optimizer(policy, value, adapter_config, settings)
            parts = Parts(*(policy, reference, value, ensemble, ids, tokenizer, optimizers, settings, scratch, seed))
            if watched is not None and settings.watch.every:
                begin = (base, policy, ensemble, reward_folder, tokenizer, texts, settings, seed)
                watch = Watch(WatchParts(*begin), watched, (state or Path(scratch)) / "watch")
            if settings.rollouts == "vllm":
                engine = _engine(parts, base, adapter_config, serving or ServingConfig(), state or Path(scratch))
            known = _known(tokenizer, prompts)
            trainer = make_trainer(
                parts,
                monitor=watch,
                engine=engine,
                score=KnownReward(watch.score if watch else ensemble.rewards, known),
                known=known,
                practice=_practice(prompts, settings, seed, attack_share),
                on_update=lambda episodes: progress(min(episodes, settings.episodes), settings.episodes),
                state_folder=state,
                keep_state=_every(settings.checkpoint_seconds),
            )
            try:
                trainer.train()
            finally:
                if engine is not None:
                    engine.close()
        seconds = time.monotonic() - begun
        _publish(policy, trainer, base, adapter_config, out)
    return _metrics(trainer, watch, settings, len(ensemble.centre), seconds) | {
        "precision": Precision.of(settings.precision).name,
        "parameters": parameters(policy),
        "reward_parameters": ensemble.parameters_of_member(),
    }


def _known(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """H^A's answers by prompt, as token ids, the end included."""
    known = {prompt.question: prompt.answer for prompt in prompts if prompt.answer is not None}
    asked, given = prompt_ids(tokenizer, list(known)), answer_ids(tokenizer, list(known.values()))
    return {tuple(question): tuple(answer) for question, answer in zip(asked, given, strict=True)}


def _practice(prompts: Sequence[Prompt], settings: PPOSettings, seed: int, attack_share: float) -> Practice:
    groups = [prompt.group for prompt in prompts]
    return Hardest(groups, seed, attack_share) if settings.prompts == "hardest" else Practice(groups, seed)


def _engine(parts: Parts, base: str | Path, adapter: AdapterConfig, serving: ServingConfig, folder: Path) -> Served:
    """A vLLM engine of this process's own, and what writes the policy for it."""

    def write(out: Path) -> None:
        save_policy(parts.policy, base, adapter, out, whole_weights(parts.policy))

    longest = max(map(len, parts.prompts)) + parts.settings.answer_tokens + 1
    sampler = VLLMRollouts(serving, str(base), longest, parts.settings.rollouts_sleep)
    return Served(sampler, write, folder / "rollouts" / f"process-{os.environ.get('RANK', '0')}")


def _publish(
    policy: Any, trainer: PPOTrainer | None, base: str | Path, adapter_config: AdapterConfig, out: str | Path
) -> None:
    """Write the agent, by the main process alone. Raises StageError for weights that are no numbers."""
    weights = whole_weights(policy)
    if any(not torch.isfinite(p).all() for p in (weights.values() if weights else policy.parameters())):
        raise StageError("PPO diverged: the agent's weights are not finite; lower distill.ppo.learning_rate")
    if trainer is None or trainer.accelerator.is_main_process:
        save_policy(policy, base, adapter_config, out, weights)
    if trainer is not None:
        trainer.accelerator.wait_for_everyone()


def _metrics(
    trainer: PPOTrainer | None, watch: Watch | None, settings: PPOSettings, members: int, seconds: float
) -> dict[str, Any]:
    """What a training and its watch tell; without a trainer there were no episodes."""
    if trainer is None:
        nothing: dict[str, Any] = {"throttled": False, "collapsed": False, "part": settings.part}
        nothing |= {"prompts": 0, "attacks": 0, "attack_share": 0.0}
        return summary([], settings, 0, 0, 0, seconds) | nothing
    counted = trainer.counted()
    tokens = counted.tokens, counted.reference_tokens, counted.scored_tokens * members
    metrics = summary(trainer.history, settings, *tokens, seconds)
    ended = {"throttled": trainer.throttled, "collapsed": trainer.collapsed, "part": trainer.part.rows}
    practice = trainer.practice
    metrics |= {"prompts": sum(practice.drawn.values()), "attacks": practice.attacks}
    metrics["attack_share"] = counted.attack_tokens / max(counted.tokens, 1)
    seen = watch.metrics() if watch else {}
    # Looks and refreshes go through the policy and the members, which are of one size.
    metrics["reward_tokens"] += seen.get("watch_tokens", 0)
    return metrics | seen | ended


def processes() -> int:
    """How many processes share this training, as their launcher tells each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _every(seconds: float) -> Callable[[int], bool]:
    """Whether it is time to write a state again. When that is changes no result."""
    last = time.monotonic()

    def due(update: int) -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due


class Parts(NamedTuple):
    """What a trainer is made of. `prompts` are token ids; `scratch` is a folder for what TRL may want to write."""

    policy: Any
    reference: Any
    value: Any
    ensemble: RewardEnsemble
    prompts: Sequence[Sequence[int]]
    tokenizer: PreTrainedTokenizerBase
    optimizers: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]
    settings: PPOSettings
    scratch: str
    seed: int


def make_trainer(parts: Parts, **ours: Any) -> PPOTrainer:
    """The trainer with everything off that prints, logs or samples for show; `ours` goes to its own part."""
    ppo = parts.settings
    settings = Settings(
        ppo.entropy_bonus,
        ppo.kl_target,
        max_kl=ppo.max_kl,
        part=ppo.part,
        answers=ppo.answers,
        precision=Precision.of(ppo.precision),
        gradient_checkpointing=ppo.gradient_checkpointing,
    )
    ours = {"score": KnownReward(parts.ensemble.rewards, {}), **ours}
    return PPOTrainer(prompts=parts.prompts, settings=settings, **ours, **trl_arguments(parts))


def trl_arguments(parts: Parts) -> dict[str, Any]:
    """What TRL's own trainer is given, too, where the two are compared."""
    policy, reference, value, ensemble, prompts, tokenizer, optimizers, settings, scratch, seed = parts
    # A model's own sampling settings (a repetition penalty, say) would make rollouts differ from what is trained.
    policy.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )
    # TRL takes full batches only, from a dataset of at least one.
    enough = -(-settings.batch // len(prompts))
    return {
        "args": PPOConfig(
            **quiet_arguments(scratch, seed),
            total_episodes=settings.episodes,
            # One batch at once, without accumulation: only then does TRL make an optimizer step for each minibatch.
            per_device_train_batch_size=settings.batch // processes(),
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
            # Neither does anything in TRL's loop; ours has settings of its own (see `distill.precision`).
            gradient_checkpointing=False,
            bf16=False,
        ),
        "processing_class": tokenizer,
        "model": policy,
        "ref_model": reference,
        "reward_model": ensemble,
        "value_model": value,
        "train_dataset": Dataset.from_dict({"input_ids": [list(row) for row in prompts] * enough}),
        "data_collator": DataCollatorWithPadding(tokenizer),
        "optimizers": optimizers,
    }


def make_optimizer(
    policy: torch.nn.Module, value: torch.nn.Module, adapter: AdapterConfig, settings: PPOSettings
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """Clipped gradients, two learning rates, and a schedule whose first updates move the critic alone."""
    ours, critics = trainable(policy), trainable(value)
    groups = [(ours, settings.learning_rate), (critics, settings.value_learning_rate)]
    optimizer = optimizer_for(groups, adapter, weight_decay=0.0, processes=processes())

    def clip(stepping: torch.optim.Optimizer, *_: Any) -> None:
        # Not the lists above: where weights are sharded, others have taken their places.
        for group in stepping.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], MAX_GRADIENT_NORM)

    optimizer.register_step_pre_hook(clip)
    updates = max(1, -(-settings.episodes // settings.batch))
    warm = settings.critic_warmup if settings.answers == 1 else 0  # answers that are compared need no critic

    def policy_rate(update: int) -> float:
        return 0.0 if update < warm else max(LAST_RATE, 1 - (update - warm) / max(1, updates - warm))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, [policy_rate, lambda _: 1.0])


def summary(
    history: Sequence[Mapping[str, float]],
    settings: PPOSettings,
    tokens: int,
    reference_tokens: int,
    reward_tokens: int,
    seconds: float,
) -> dict[str, Any]:
    """The metrics of a training run from what each update recorded; zeros where there were no episodes.

    tokens: of the rollouts; reference_tokens, reward_tokens: those of them that went through these models.
    """
    episodes = len(history) * settings.batch
    some = max(1, round(len(history) * ENDS))

    def mean(key: str, updates: slice) -> float:
        values = [entry[key] for entry in history[updates] if key in entry]
        return sum(values) / len(values) if values else 0.0

    began, ended = slice(0, some), slice(-some, None)
    return {
        "episodes": episodes,
        "reward_before": mean("objective/scores", began),
        "reward_after": mean("objective/scores", ended),
        "kl": mean("objective/kl", ended),
        "entropy": mean("objective/entropy", ended),
        # The policy's rollouts and the reference; each epoch trains the policy. The critic is a row of numbers on top.
        # A serving engine's answers go through the policy once more.
        "forward_tokens": tokens * (1 if settings.rollouts == "transformers" else 2) + reference_tokens,
        "train_tokens": tokens * settings.epochs,
        "reward_tokens": reward_tokens,
        # Who answered, with how many versions of the policy (one an update), and how far the two were apart.
        "rollouts": settings.rollouts,
        "versions": len({entry.get("rollout/version") for entry in history}),
        "drift": max((entry.get("rollout/drift", 0.0) for entry in history), default=0.0),
        "tokens_per_episode": tokens / max(episodes, 1),
        "episodes_per_second": episodes / max(seconds, 1e-9),
    }
