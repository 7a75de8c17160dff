"""Resume: a PPO trainer's state is written while it trains, and a killed training carries on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amplification.errors import StageError
from amplification.question import digest
from distill import ppo_state
from distill.experience import Counted
from distill.precision import SINGLE
from distill.sharding import shared_out

if TYPE_CHECKING:
    from distill.ppo_trainer import PPOTrainer

WITHIN = "within"  # the throttle's bound


def keep(trainer: PPOTrainer) -> None:
    """Write the state if it is time to, and if it is worth it. Raises StageError if the disk is full.

    From where the policy has begun to collapse nothing is kept: the last good state is what is gone back to.
    """
    if trainer.state_folder is None or trainer.is_deepspeed_enabled:
        return  # DeepSpeed's optimizer state is in a shape of its own: such a training begins again
    if not trainer.state_due or trainer.collapse.begun(trainer.history):
        return
    values = {
        "update": trainer.update,
        "rates": [group["lr"] for group in trainer.optimizer.param_groups],
        "kl_coefficient": trainer.controller.coefficient,
        "history": trainer.history,
        **trainer.counted()._asdict(),
        "practice": trainer.practice.state(),
        "training": trainer.identity,
        "precision": trainer.settings.precision.name,
    }
    within = {WITHIN: trainer.throttle.within}
    main = trainer.accelerator.is_main_process  # but putting weights together takes all
    state = ppo_state.collect(trainer.inner, trainer.optimizer, values, within, keep=main)
    if main:
        ppo_state.write(trainer.state_folder, trainer.update, state)


def carry_on(trainer: PPOTrainer) -> None:
    """Put the newest state back, if there is one. Raises StageError if it is of another model, training or version."""
    if trainer.state_folder is None or trainer.is_deepspeed_enabled:
        return
    trainer.identity = _identity(trainer)
    state = ppo_state.latest(trainer.state_folder)
    if state is None:
        return
    try:
        written, now = state.values.get("precision", SINGLE.name), trainer.settings.precision.name
        if written != now:
            raise ValueError(f"the state was written by a training in {written}, and this one is in {now}")
        if state.values.get("training") != trainer.identity:
            raise ValueError("the state is of another training")
        values = ppo_state.apply(state, trainer.inner, trainer.optimizer)
        _put_back(trainer, values)
    except (ValueError, KeyError) as error:
        problem = f"the state is of another version ({error} is missing)" if isinstance(error, KeyError) else error
        raise StageError(f"{trainer.state_folder}: {problem}; delete this folder to begin again") from error
    within = ppo_state.listed(state, WITHIN)
    trainer.throttle.within = [shared_out(kept, own) for kept, own in zip(within, trainer.trained, strict=False)]


def _put_back(trainer: PPOTrainer, values: Mapping[str, Any]) -> None:
    trainer.update, trainer.history = values["update"], values["history"]
    # They are of all processes together, of which one goes on from there.
    own = [values[name] if trainer.accelerator.is_main_process else 0 for name in Counted._fields]
    trainer.tokens, trainer.attack_tokens, trainer.reference_tokens, trainer.score.tokens = own
    trainer.practice.restore(values["practice"])
    trainer.controller.coefficient = values["kl_coefficient"]
    trainer.lr_scheduler.last_epoch = trainer.update
    for group, rate in zip(trainer.optimizer.param_groups, values["rates"], strict=True):
        group["lr"] = rate


def _identity(trainer: PPOTrainer) -> str:
    """A digest of what is trained, from which agent on, on what, by which reward: shapes alone would fit many.

    Of a training that begins: what it learns by may be refreshed on the way.
    """
    models = (trainer.ref_model, trainer.reward_model)
    weights = [f"{name} {p.shape} {p.flatten()[:8].tolist()}" for m in models for name, p in m.named_parameters()]
    practice = repr(trainer.prompts), repr(trainer.practice.group_of), repr(sorted(trainer.known.items()))
    return digest(str(trainer.args.seed), str(trainer.args.batch_size), *practice, *weights)
