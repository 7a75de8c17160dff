"""PPOTrainer: TRL's, with a training loop of our own in small steps: sample, score, advantages, update.

All that this project takes from TRL's experimental parts is imported in this module. TRL's set-up, configuration and
numerics are used. Its loop is not: it pads every row to the longest of its batch, computes logits and hidden states for
every token, takes one optimizer step where minibatches are asked for and gradients are not accumulated, cannot resume,
clips no gradient, and collects garbage twice an update. tests/distill/test_ppo_trainer.py holds it up as an oracle.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import PrinterCallback

from amplification.errors import StageError
from amplification.serving.rollouts import Drawing
from distill import resume
from distill.actor_critic import ActorCritic
from distill.advantage import (
    KLController,
    Throttle,
    advantages_of,
    among_answers,
    kl_of,
    policy_losses,
    rewards_of,
    value_losses,
    whitened,
)
from distill.collapse import Collapse
from distill.draws import Draws, Share
from distill.experience import Counted, Experience, Settings
from distill.memory import Part
from distill.monitor import Action, Monitor
from distill.practice import Practice
from distill.rollout import Rollout, Shown, at_states, chosen, parts, roll_out
from distill.served import Served, as_rollout
from distill.sharding import forget_copies, pieces, settle
from distill.tree import Rows

with warnings.catch_warnings():
    # Known and wanted: the project pins the last TRL that has PPO, and keeps it behind this module.
    warnings.filterwarnings("ignore", message="You are importing from 'trl.experimental'")
    from trl.experimental.ppo import PPOConfig
    from trl.experimental.ppo import PPOTrainer as TrlPPOTrainer
    from trl.experimental.ppo import ppo_trainer as trl_ppo

__all__ = ["PPOConfig", "PPOTrainer", "TrlPPOTrainer", "trl_ppo"]

# How far the trainer's own log-probabilities may be from those that answers were drawn with, in nats: in single
# precision, and where one of the two is computed in less.
DRIFT, DRIFT_MIXED = 1e-2, 0.5
# What an update's history says of its losses, each a mean over the tokens of answers.
LOSSES = "loss/policy", "loss/value", "entropy", "approx_kl"
# Where training asks for no distance from the reference, it is measured for the record, in every so many updates.
REFERENCE_EVERY = 16


class Score(Protocol):
    """Rates answers. `tokens`: how many have gone through a model for it (through each of an ensemble)."""

    tokens: int

    def __call__(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """Scores [n] of token ids, each answer with its prompt."""
        ...


class _Piece(NamedTuple):
    """A few prompts with their answers: rows for a model, which state predicts each answer's tokens [m, K, R], and the
    places of the answers in the rollout."""

    rows: Rows
    states: torch.Tensor
    places: torch.Tensor


class PPOTrainer(TrlPPOTrainer):  # type: ignore[misc]
    """TRL's PPOTrainer with its own loop. `prompts` are token ids; `score` rates finished answers."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        score: Score,
        settings: Settings,
        on_update: Callable[[int], None] = lambda episodes: None,
        state_folder: Path | None = None,
        keep_state: Callable[[int], bool] = lambda update: False,
        monitor: Monitor | None = None,
        practice: Practice | None = None,
        engine: Served | None = None,
        known: Mapping[tuple[int, ...], Sequence[int]] | None = None,
        **trl: Any,
    ) -> None:
        """`keep_state(update)` says whether to write the state after so many updates; `engine` draws the rollouts,
        which the policy itself does without; `known` are good answers by prompt, as token ids with the end, of which
        each is shown to the policy among the answers to its prompt; `trl` goes to TRL's trainer.

        TRL's batch sizes are in episodes, of which each prompt gives `settings.answers`.
        """
        self._make_ready(settings, **trl)
        with _our_wrapper():
            super().__init__(**trl)
        self.remove_callback(PrinterCallback)
        if isinstance(self.model, DistributedDataParallel):
            self.model.broadcast_buffers = False  # rotations are constants; by default they are sent in every step
        self.prompts, self.score, self.settings, self.on_update = prompts, score, settings, on_update
        self.state_folder, self.keep_state, self.monitor, self.engine = state_folder, keep_state, monitor, engine
        self.known = known or {}
        self.controller = KLController(self.args.kl_coef, settings.kl_target, settings.kl_horizon)
        self.throttle, self.collapse = Throttle(settings.max_kl), Collapse()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.part = Part(settings.part, alone=world == 1)
        self.practice = practice or Practice([""] * len(prompts), self.args.seed)
        self.draws = Draws(self.args.seed, self.args.batch_size // settings.answers, settings.answers, rank, world)
        self.history: list[dict[str, float]] = []
        # This process's: through the policy in rollouts, those of prompts that are attacks, and through the reference.
        self.tokens = self.attack_tokens = self.reference_tokens = 0
        self.update = 0
        self.places: list[int] = []  # of the update's prompts, this process's share
        self.throttled = self.collapsed = self.state_due = False
        self.identity = ""  # of the training, by which its states are known

    @staticmethod
    def _make_ready(settings: Settings, model: Any, ref_model: Any, reward_model: Any, **_: Any) -> None:
        """Have all models compute as the settings say."""
        settings.precision.prepare(model)
        settings.precision.prepare(ref_model)
        reward_model.compute_in(settings.precision)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def inner(self) -> ActorCritic:
        """The policy and the critic without what accelerate wraps them in."""
        model: ActorCritic = self.accelerator.unwrap_model(self.model)
        return model

    @property
    def trained(self) -> list[torch.Tensor]:
        """What training changes of the policy, as far as it lies on this process."""
        settle(self.inner)
        return pieces(self.inner.policy)

    def _held(self, distance: float | None) -> bool:
        """Whether the policy went beyond the throttle's bound at this distance; if so, it is back within."""
        passed = distance is not None and self.throttle.passed(distance, self.trained)
        if passed:
            forget_copies(self.inner.policy)
        return passed

    def train(self) -> None:
        """All updates that are not done yet. Raises StageError for rewards or weights that are no numbers."""
        resume.carry_on(self)
        self.throttle.begin(self.trained)
        if self.monitor is not None:
            self.monitor.begin(self.update)
        self.model.train()
        self.collapse.remember(self.trained)
        while self.update < self.args.num_total_batches and not (self.throttled or self.collapsed):
            self.choose()
            rollout = self.part.fitting(self.sample)
            self._count(rollout)
            experience = self.part.fitting(partial(self.assess, rollout))
            distance = self._distance(rollout, experience.reference)
            self.throttled = self._held(distance)
            if self.throttled:
                break
            action = self.monitor(experience, self.update) if self.monitor is not None else None
            if action is Action.STOP:
                break
            if action is Action.RESCORE:
                experience = self.part.fitting(partial(self.assess, rollout))
            losses = self.improve(experience)
            self._record(experience, losses)
            if distance is not None:
                self.controller.observe(distance, self.args.batch_size)
            self._watch_entropy()
            self.lr_scheduler.step()
            self.update += 1
            self.on_update(self.update * self.args.batch_size)
            resume.keep(self)
        if self.update == self.args.num_total_batches and not self.collapsed:
            self._throttle_the_last()

    def _throttle_the_last(self) -> None:
        """Measure the weights that the last update left, too, by a rollout that counts for nothing else.

        Its tokens, through the policy and the reference, count as the reference's.
        """
        if self.throttle.most is None:
            return
        practised = self.practice.state()
        self.choose()
        self.practice.restore(practised)
        rollout = self.part.fitting(self.sample)
        reference = self.part.fitting(partial(self._reference, rollout))
        self.throttled = self._held(self._distance(rollout, reference))
        self.reference_tokens += 2 * rollout.tokens()

    def choose(self) -> None:
        """Which prompts the update has: this process's share. Once an update, as it is counted what came."""
        places = self.practice.places(self.update, self.draws.prompts)
        # By length, so that processes which share a batch have as much to do and wait little for each other.
        share = slice(self.draws.rank, None, self.draws.world)
        self.places = sorted(places, key=lambda place: len(self.prompts[place]))[share]

    def sample(self) -> Rollout:
        """The update's prompts at `places`, answered by the policy; where a good answer is known, one of them is it.

        A policy that is certain of a wrong answer never draws another one, and would learn nothing of the prompt. To
        show it one of its K answers is what Yan et al., "Learning to reason under off-policy guidance" (arXiv
        2504.14945, 2025) do.
        """
        prompts = [self.prompts[place] for place in self.places]
        # An answer that nothing is compared with would be learned whatever it earned.
        shown = [self.known.get(tuple(prompt)) if self.draws.each > 1 else None for prompt in prompts]
        rollout = self._drawn(prompts, shown) if self.engine is None else self._served(self.engine, prompts, shown)
        return replace(rollout, version=self.update)

    def _count(self, rollout: Rollout) -> None:
        """What goes through the models of a rollout that is learned from."""
        attacked = [number for number, place in enumerate(self.places) if self.practice.is_attack(place)]
        self.tokens, self.attack_tokens = self.tokens + rollout.tokens(), self.attack_tokens + rollout.tokens(attacked)
        self.reference_tokens += rollout.tokens() if self._asks_reference else 0

    def _drawn(self, prompts: Sequence[Sequence[int]], shown: Shown) -> Rollout:
        tokenizer = self.processing_class
        # Where activations are recomputed, transformers' layers keep no cache of keys and values while they train.
        self.model.eval()
        rollout = roll_out(
            self.inner,
            prompts,
            self.draws.answers(self.update, self.args.response_length),
            self.args.temperature,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
            self.part.rows,
            together=self.draws.world > 1,
            shown=shown,
        )
        self.model.train()
        return rollout

    @torch.no_grad()
    def _served(self, engine: Served, prompts: Sequence[Sequence[int]], shown: Shown) -> Rollout:
        """Answers by a serving engine, with the log-probabilities and values of the policy here, which learns by them.

        Raises StageError where the engine's log-probabilities are others.
        """
        tokenizer, longest, heat = self.processing_class, self.args.response_length, self.args.temperature
        end, seeds = tokenizer.eos_token_id, self.draws.seeds(self.update)
        drawn = engine.draw(self.update, prompts, seeds, Drawing(self.draws.each, heat, longest, end))
        theirs = as_rollout(prompts, drawn, longest, end, tokenizer.pad_token_id, shown)
        logprobs, values = torch.zeros_like(theirs.logprobs), torch.zeros_like(theirs.values)
        for (ids, kept, extra), states, places in self._parts(theirs):
            logits, critic = self.inner(ids, kept, **extra)
            logprobs[places] = chosen(logits, states, theirs.answers[places].to(logits.device), heat).logprobs.cpu()
            values[places] = critic[states].view(-1, longest).cpu()
        logprobs, values = (torch.where(theirs.mask, each, 0.0) for each in (logprobs, values))
        change = torch.where(theirs.drawn, logprobs - theirs.logprobs, 0.0)
        # On a GPU an engine's kernels are others, and its numbers may be of 16 bits where the trainer's are not.
        self._check_drift(change, coarse=self.accelerator.device.type == "cuda")
        return replace(theirs, logprobs=logprobs, values=values, drift=float(change.abs().max()))

    def counted(self) -> Counted:
        """What has gone through the models so far, in all processes."""
        own = Counted(self.tokens, self.attack_tokens, self.reference_tokens, self.score.tokens)
        return Counted(*self._total(torch.tensor(own)).tolist())

    @torch.no_grad()
    def assess(self, rollout: Rollout) -> Experience:
        """Scores, the reference's log-probabilities, and the advantages that follow."""
        args, mask, drawn, values = self.args, rollout.mask, rollout.drawn, rollout.values
        scores = self._scores(rollout)
        reference = self._reference(rollout) if self._asks_reference else None
        kl = torch.zeros_like(rollout.logprobs)
        if reference is not None:
            kl = torch.where(drawn, kl_of(rollout.logprobs, reference, args.kl_estimator), kl)
        if rollout.each > 1:
            earned = scores - self.controller.coefficient * kl.sum(1)
            advantages = torch.where(mask, among_answers(earned, scores > 0, rollout.each)[:, None], 0.0)
            return Experience(rollout, reference, values, scores, kl, advantages, values)
        rewards = rewards_of(scores, kl, mask, self.controller.coefficient)
        if args.whiten_rewards:
            mean = self._total((rewards * mask).sum()) / self._total(mask.sum().float())
            rewards = torch.where(mask, whitened(rewards, mask, self._total) + mean, 0.0)
        advantages = advantages_of(rewards, values, mask, args.gamma, args.lam)
        returns = advantages + torch.where(mask, values, 0.0)
        return Experience(rollout, reference, values, scores, kl, whitened(advantages, mask, self._total), returns)

    @property
    def _asks_reference(self) -> bool:
        """Whether this update needs the reference: for a penalty, a target or a bound, or now and then to be told."""
        needed = self.controller.coefficient > 0 or self.controller.target or self.throttle.most is not None
        return bool(needed) or (self.args.num_total_batches - 1 - self.update) % REFERENCE_EVERY == 0

    @torch.no_grad()
    def _reference(self, rollout: Rollout) -> torch.Tensor:
        """The reference's log-probabilities [n, R] of the answers."""
        found = torch.zeros_like(rollout.logprobs)
        for part in self._parts(rollout):
            ids, kept, extra = part.rows
            logits = at_states(self.ref_model, ids, kept, **extra)
            answers = rollout.answers[part.places].to(logits.device)
            found[part.places] = chosen(logits, part.states, answers, self.args.temperature).logprobs.cpu()
        return found

    def _scores(self, rollout: Rollout) -> torch.Tensor:
        """The score [n] of each answer, less where it has no end. Raises StageError for what is no number."""
        distinct = rollout.distinct
        scores = self.score([rollout.prompts[i] for i in distinct.owners], distinct.texts).float()[distinct.which]
        if not torch.isfinite(scores).all():
            raise StageError("the reward model gives rewards that are no numbers; train it again (distill.reward)")
        penalty = self.args.missing_eos_penalty
        return scores if penalty is None else torch.where(rollout.ended, scores, scores - penalty)

    def improve(self, experience: Experience) -> torch.Tensor:
        """Epochs of minibatches, an optimizer step each. Returns this process's part of the mean of each of LOSSES."""
        steps, size = list[torch.Tensor](), self.args.mini_batch_size // self.settings.answers
        for epoch in range(self.args.num_ppo_epochs):
            for share in self.draws.minibatches(self.update, epoch, size):
                steps.append(self._step(experience, share, check=not steps))
        return torch.stack(steps).mean(0)

    def _step(self, experience: Experience, share: Share, check: bool) -> torch.Tensor:
        """One optimizer step on this process's prompts. `check`: against the sampler's log-probabilities."""
        rollout = experience.rollout
        count = self._total(rollout.mask[rollout.rows_of(share.mine)].sum().float())
        totals = self.part.fitting(lambda: self._gradients(experience, share, count, check))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return totals / count.cpu()

    def _gradients(self, experience: Experience, share: Share, count: torch.Tensor, check: bool) -> torch.Tensor:
        """Gradients of the mean loss over `count` tokens of all processes; sums [4] of losses over this one's."""
        rollout, args = experience.rollout, self.args
        # Where memory did not suffice for an earlier piece, accelerate still thinks that gradients are being added up,
        # and would keep them.
        self.accelerator.sync_gradients = True
        self.optimizer.zero_grad()
        totals = torch.zeros(len(LOSSES))
        pieces = list(self._parts(rollout, share.mine))
        # Processes wait for each other in each piece, so all have as many; what they lack is a row that counts nothing.
        lacking = -(-share.most // self.part.rows) - len(pieces)
        spare = [next(self._parts(rollout, [0]))] * lacking if lacking else []
        for number, ((ids, kept, extra), states, places) in enumerate([*pieces, *spare]):
            with self._accumulating(last=number + 1 == len(pieces) + lacking):
                logits, values = self.model(ids, kept, **extra)
                device = logits.device
                answers, mask = rollout.answers[places].to(device), rollout.mask[places].to(device)
                if number >= len(pieces):
                    mask = torch.zeros_like(mask)
                logprobs, entropy = chosen(logits, states, answers, args.temperature)
                change = torch.where(mask, logprobs - rollout.logprobs[places].to(device), 0.0)
                # What was not drawn can be so unlikely that its log-probability differs by more, and moves further.
                moved = torch.where(rollout.drawn[places].to(device), change.detach(), 0.0)
                if check:
                    self._check_drift(moved)
                surrogate = policy_losses(change.exp(), experience.advantages[places].to(device), args.cliprange)
                old, returns = experience.values[places].to(device), experience.returns[places].to(device)
                values = values[states].view(mask.shape)
                error = value_losses(values, old, returns, args.cliprange_value)
                sums = [(each * mask).sum() for each in (surrogate, error, entropy)]
                loss = (sums[0] + args.vf_coef * sums[1] - self.settings.entropy_bonus * sums[2]) / count
                # Gradients are averaged over processes, and `count` is that of all of them.
                self.accelerator.backward(loss * self.accelerator.num_processes)
                squares = 0.5 * moved.square().sum()
                totals += torch.stack([*(s.detach() for s in sums), squares]).cpu()
        return totals

    def _accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are added up, and shared with the other processes with the last piece; with FSDP2, where each would
        keep them whole until then, with every piece."""
        self.accelerator.sync_gradients = last  # all that DeepSpeed goes by, which then makes the optimizer's step, too
        return nullcontext() if last or self.accelerator.is_fsdp2 else self.accelerator.no_sync(self.model)

    def _parts(self, rollout: Rollout, among: Sequence[int] | None = None) -> Iterator[_Piece]:
        """Prompts with the trees of their answers, those of similar length together, on the device."""
        device = self.accelerator.device
        lengths = [len(p) + len(tree.tokens) for p, tree in zip(rollout.prompts, rollout.trees, strict=True)]
        for part in parts(lengths, self.part.rows, among):
            rows, states = rollout.batch(part, self.processing_class.pad_token_id)
            yield _Piece(rows.to(device), states.to(device), rollout.rows_of(part))

    def _total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.accelerator.num_processes == 1:
            return tensor
        total: torch.Tensor = self.accelerator.reduce(tensor.to(self.accelerator.device), "sum").to(tensor.device)
        return total

    def _totals(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Their sums over all processes, which meet once: each meeting costs a millisecond or more."""
        together = self._total(torch.cat([tensor.flatten() for tensor in tensors]))
        sums = together.split([tensor.numel() for tensor in tensors])
        return [total.view_as(tensor) for total, tensor in zip(sums, tensors, strict=True)]

    def _check_drift(self, change: torch.Tensor, coarse: bool = False) -> None:
        drift = float(change.abs().max()) if change.numel() else 0.0
        limit = DRIFT_MIXED if coarse or self.settings.precision.mixed else DRIFT
        if math.isnan(drift):
            raise StageError("PPO diverged: its log-probabilities are no numbers; lower distill.ppo.learning_rate")
        if not drift <= limit:
            raise StageError(
                f"the trainer's log-probabilities differ from the sampler's by {drift:.3g} nats (at most {limit}); "
                "the two do not hold the same weights or do not compute alike"
            )

    def _distance(self, rollout: Rollout, reference: torch.Tensor | None) -> float | None:
        """KL from the reference in nats an episode, by the estimator that is never negative; None if it was not asked.

        What the penalty uses has so much spread that a batch of 32 showed -0.1 where the divergence was 0.37.
        """
        if reference is None:
            return None
        distances = torch.where(rollout.drawn, kl_of(rollout.logprobs, reference, "k3"), 0.0)
        distance, own = self._totals(distances.sum(), rollout.own.sum().float())
        return float(distance / own)

    def _record(self, experience: Experience, losses: torch.Tensor) -> None:
        """What an update came to, over all processes: for the history, and for who chooses prompts.

        What was shown is no feat of the policy's and counts in none of it.
        With it goes whether the state is written after it, which the main process's clock decides.
        """
        rollout, own = experience.rollout, experience.rollout.own
        rows = experience.scores, experience.kl.sum(1), -(rollout.logprobs * rollout.mask).sum(1), ~rollout.ended
        sums = torch.stack([own.float().sum(), *(each[own].float().sum() for each in rows)])
        of_prompt = (experience.scores * own).view(-1, rollout.each).sum(1) / own.view(-1, rollout.each).sum(1)
        earned = self.practice.earned(self.places, of_prompt)
        due = torch.tensor([float(self.accelerator.is_main_process and self.keep_state(self.update + 1))])
        due, sums, losses, earned = self._totals(due, sums, losses, earned)
        self.state_due = bool(due)
        self.practice.learned(earned)
        scores, kl, entropy, unfinished = (sums[1:] / sums[0]).tolist()
        entry = {
            "objective/scores": scores,
            "objective/kl": kl,
            "objective/entropy": entropy,
            "objective/unfinished": unfinished,
            "kl_coefficient": self.controller.coefficient,
            "rollout/version": rollout.version,
            "rollout/drift": rollout.drift,
            **dict(zip(LOSSES, losses.tolist(), strict=True)),
        }
        if experience.reference is None:
            del entry["objective/kl"]
        if not all(abs(value) < float("inf") for value in entry.values()):
            rates = "distill.ppo.learning_rate or distill.ppo.value_learning_rate"
            raise StageError(f"PPO diverged: its losses are no numbers; lower {rates}")
        self.history.append(entry)

    def _watch_entropy(self) -> None:
        """A policy that has no entropy left and answers badly ends the training, with the last good weights."""
        if self.collapse.complete(self.history):
            self.collapsed = True
            self.collapse.go_back(self.trained)
            forget_copies(self.inner.policy)
        elif not self.collapse.begun(self.history):
            self.collapse.remember(self.trained)


@contextmanager
def _our_wrapper() -> Iterator[None]:
    """TRL's set-up wraps policy and critic in a class of its module; inside, in ours.

    And with DeepSpeed it makes engines of the models that are not trained; here they stay what they are.
    """
    theirs = trl_ppo.PolicyAndValueWrapper, trl_ppo.prepare_deepspeed
    trl_ppo.PolicyAndValueWrapper = ActorCritic
    trl_ppo.prepare_deepspeed = lambda model, accelerator: model.to(accelerator.device)
    try:
        yield
    finally:
        trl_ppo.PolicyAndValueWrapper, trl_ppo.prepare_deepspeed = theirs
