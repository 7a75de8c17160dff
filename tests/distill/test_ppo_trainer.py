"""The training loop: TRL's own as an oracle, and what goes wrong is found out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from amplification.errors import StageError
from distill.actor_critic import ActorCritic, ValueHead
from distill.config import PPOSettings
from distill.ensemble import RewardEnsemble
from distill.ppo import Parts, make_optimizer, make_trainer, train_ppo, trl_arguments
from distill.ppo_trainer import PPOTrainer, TrlPPOTrainer, trl_ppo
from distill.rollout import Rollout, at_states, chosen, roll_out, uniform
from distill.weights import load_merged, load_policy, load_tokenizer, prompt_ids, quiet, scorer_from
from tests.distill.training import LINEAR, digits, silent, spread

SETTINGS = PPOSettings(
    episodes=96, batch=16, minibatches=1, epochs=2, critic_warmup=0, learning_rate=2e-3, kl_coefficient=0.1
)


class Setting:
    """Everything that a trainer is made of, the same each time."""

    def __init__(self, base: Path, start: Path, reward: Path, settings: PPOSettings) -> None:
        self.tokenizer = load_tokenizer(base)
        self.ensemble = RewardEnsemble.load(base, reward)
        self.policy: Any = load_policy(base, start, LINEAR, 1)
        self.reference: Any = load_merged(base, start).requires_grad_(False)
        self.settings = settings

    def ours(self, scratch: Path) -> PPOTrainer:
        return make_trainer(self._parts(ValueHead(self.reference.config.hidden_size), self.settings, scratch))

    def theirs(self, scratch: Path) -> Any:
        """TRL's trainer, with a critic that says 0 and learns nothing."""
        value: Any = scorer_from(self.reference, int(self.tokenizer.pad_token_id), LINEAR, zero_head=True)
        settings = self.settings.model_copy(update={"value_learning_rate": 1e-12})
        return TrlPPOTrainer(**trl_arguments(self._parts(value, settings, scratch)))

    def _parts(self, value: Any, settings: PPOSettings, scratch: Path) -> Parts:
        optimizers = make_optimizer(self.policy, value, LINEAR, settings)
        prompts = prompt_ids(self.tokenizer, digits())
        return Parts(
            *(self.policy, self.reference, value, self.ensemble, prompts),
            *(self.tokenizer, optimizers, settings, str(scratch), 1),
        )


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.filterwarnings("ignore")
def test_trls_own_loop_gives_the_same_numbers(
    base: Path, warm: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same prompts and the same draws: then the same scores, KL, losses and, after all updates, the same weights."""
    settings = SETTINGS.model_copy(update={"value_learning_rate": 1e-12})
    with quiet():
        mine = Setting(base, warm, reward, settings)
        trainer = mine.ours(tmp_path / "ours")
        rollouts: list[Rollout] = []
        sample = trainer.sample

        def remembered() -> Rollout:
            rollouts.append(sample())
            return rollouts[-1]

        monkeypatch.setattr(trainer, "sample", remembered)
        trainer.train()

        other = Setting(base, warm, reward, settings)
        oracle = other.theirs(tmp_path / "theirs")
        pad = int(other.tokenizer.pad_token_id)
        batches: Any = [_left_padded(rollout.prompts, pad) for rollout in rollouts]
        oracle.dataloader = DataLoader(batches, batch_size=None)
        waiting = iter(rollouts)

        def generation(model: Any, queries: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
            rollout = next(waiting)
            whole = torch.cat([queries, rollout.answers], dim=1)
            with torch.no_grad():
                out = trl_ppo.forward(model, whole, pad)
            return whole, out.logits[:, queries.shape[1] - 1 : -1] / settings.temperature

        monkeypatch.setattr(trl_ppo, "batch_generation", generation)
        logged: list[dict[str, float]] = []
        monkeypatch.setattr(oracle, "log", logged.append)
        monkeypatch.setattr(oracle.accelerator, "print", lambda *_: None)
        oracle.train()
    assert len(logged) == len(trainer.history) == 6
    for update, (theirs, ours) in enumerate(zip(logged, trainer.history, strict=True)):
        # Muon's steps are as long whatever the gradient, so rounding in small gradients shows after some steps.
        near = 2e-4 if update < 2 else 5e-3
        for name in ("objective/scores", "objective/kl", "objective/entropy"):
            assert ours[name] == pytest.approx(theirs[name], abs=near), name
        assert ours["loss/policy"] == pytest.approx(theirs["loss/policy_avg"], abs=2e-4)
        assert ours["entropy"] == pytest.approx(theirs["policy/entropy_avg"], abs=0.05)  # theirs counts padding, too
    start = weights(load_merged(base, warm))
    moved = float((weights(mine.policy) - start).norm())
    assert moved > 0.1
    assert float((weights(mine.policy) - weights(other.policy)).norm()) < 0.15 * moved


def _left_padded(prompts: Any, pad: int) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    return {"input_ids": torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts])}


def test_draws_have_the_log_probabilities_of_a_plain_forward_pass(base: Path, warm: Path) -> None:
    """Prompts of many lengths in one part: padding in front of an answer must not be looked at."""
    tokenizer = load_tokenizer(base)
    policy = load_merged(base, warm)
    texts = ["sum of 3", "sum of 1 2 3 4 5 6 7 8", "True and False is", "add up 1 2"]
    prompts = prompt_ids(tokenizer, texts)
    model = ActorCritic(policy, ValueHead(policy.config.hidden_size))
    # No token ends an answer.
    together = roll_out(model, prompts, uniform(3 * len(prompts), 4, 1), 1.7, -1, int(tokenizer.pad_token_id), 8)
    assert together.mask.all()
    for place, (answer, logprobs) in enumerate(zip(together.answers, together.logprobs, strict=True)):
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([[*prompts[place // 3], *answer]])).logits[0, -5:-1]
        expected = torch.log_softmax(logits / 1.7, dim=-1)[torch.arange(4), answer]
        assert logprobs.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_what_is_shown_is_the_first_answer_with_the_policys_own_log_probability(base: Path, warm: Path) -> None:
    tokenizer, policy = load_tokenizer(base), load_merged(base, warm)
    end, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    prompts = prompt_ids(tokenizer, ["sum of 3", "sum of 1 2 3", "add up 1 2"])
    word = int(tokenizer.get_vocab()["7"])
    model = ActorCritic(policy, ValueHead(policy.config.hidden_size))
    draws = uniform(4 * len(prompts), 2, 1)
    shown = [(word, end), None, (word, word, end)]  # the last is longer than what is explored
    alone, with_it = (roll_out(model, prompts, draws, 1.7, end, pad, 8, shown=each) for each in (None, shown))
    assert alone.own.all()
    assert with_it.own.tolist() == [False] + [True] * 11
    assert torch.equal(with_it.answers[1:], alone.answers[1:])
    assert torch.equal(with_it.logprobs[1:], alone.logprobs[1:])
    assert with_it.answers[0].tolist() == [word, end]
    assert with_it.ended[0]
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([[*prompts[0], word]])).logits[0, -2:]
    expected = torch.log_softmax(logits / 1.7, dim=-1)[torch.arange(2), torch.tensor([word, end])]
    assert with_it.logprobs[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_tree_of_answers_has_the_log_probabilities_of_each_alone(base: Path, warm: Path) -> None:
    """What answers share stands once in a row, and none of them sees another one's tokens."""
    tokenizer, policy = load_tokenizer(base), load_merged(base, warm)
    prompts = prompt_ids(tokenizer, ["sum of 3", "sum of 1 2 3 4 5 6 7 8"])
    model = ActorCritic(policy, ValueHead(policy.config.hidden_size))
    pad = int(tokenizer.pad_token_id)
    together = roll_out(model, prompts, uniform(2 * 40, 3, 1), 2.0, int(tokenizer.eos_token_id), pad, 8)
    texts = together.distinct.texts
    assert sum(len(tree.tokens) for tree in together.trees) < sum(
        len(text) - 1 for text in texts
    )  # something is shared
    assert {len(text) for text in texts} == {1, 2, 3}
    (ids, kept, extra), states = together.batch([0, 1], pad)
    with torch.no_grad():
        logits = at_states(policy, ids, kept, **extra)
    found = chosen(logits, states, together.answers, 2.0)
    assert torch.where(together.mask, found.logprobs - together.logprobs, 0.0).abs().max() < 1e-4


def test_rewards_that_are_no_numbers_end_training(
    base: Path, warm: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        RewardEnsemble, "rewards", lambda self, prompts, answers: torch.full((len(answers),), float("nan"))
    )
    with pytest.raises(StageError, match="no numbers"):
        train_ppo(base, warm, reward, digits(), LINEAR, SETTINGS, tmp_path, 1, silent)


def test_a_sampler_with_other_weights_is_found_out(base: Path, warm: Path, reward: Path, tmp_path: Path) -> None:
    with quiet():
        trainer = Setting(base, warm, reward, SETTINGS).ours(tmp_path)
        trainer.choose()
        rollout = trainer.sample()
        with torch.no_grad():
            for parameter in trainer.inner.policy.parameters():
                parameter.mul_(1.01)
        with pytest.raises(StageError, match="differ from the sampler's"):
            trainer.improve(trainer.assess(rollout))


def test_the_throttle_bounds_the_kl(base: Path, reward: Path, tmp_path: Path) -> None:
    """From the base's even spread, from which the reward leads far away."""
    settings = SETTINGS.model_copy(update={"episodes": 960, "batch": 32, "learning_rate": 5e-3, "kl_coefficient": 0.0})
    free = train_ppo(base, None, reward, digits(), LINEAR, settings, tmp_path / "free", 1, silent)
    bound = settings.model_copy(update={"max_kl": 0.05})
    held = train_ppo(base, None, reward, digits(), LINEAR, bound, tmp_path / "held", 1, silent)
    assert held["throttled"]
    assert not free["throttled"]
    # The trainer sees an estimate from one batch; this is the divergence itself, of the answers' first tokens.
    assert 0 < _divergence(base, tmp_path / "held", None) < 0.15 < 0.5 < _divergence(base, tmp_path / "free", None)


def test_the_last_update_is_throttled_too(base: Path, warm: Path, reward: Path, tmp_path: Path) -> None:
    """No update comes after it; with one alone, training began within the bound and goes back to there."""
    settings = SETTINGS.model_copy(update={"episodes": 32, "batch": 32, "learning_rate": 1e-1, "max_kl": 1e-3})
    held = train_ppo(base, warm, reward, digits(), LINEAR, settings, tmp_path / "held", 1, silent)
    assert held["throttled"]
    assert held["episodes"] == held["prompts"] == 32
    assert _divergence(base, tmp_path / "held", warm) < 1e-6
    wide = settings.model_copy(update={"max_kl": 1e3})
    free = train_ppo(base, warm, reward, digits(), LINEAR, wide, tmp_path / "free", 1, silent)
    assert not free["throttled"]
    assert _divergence(base, tmp_path / "free", warm) > 1e-2
    # Two rollouts, of which one is trained on, and the reference for both.
    assert free["forward_tokens"] == pytest.approx(4 * free["train_tokens"] / settings.epochs, rel=0.1)


def test_a_throttled_training_that_is_cut_off_carries_on(base: Path, warm: Path, reward: Path, tmp_path: Path) -> None:
    """Cut off right after the update that goes beyond the bound, whose weights the newest state has."""
    settings = SETTINGS.model_copy(
        update={"episodes": 640, "batch": 32, "learning_rate": 1e-2, "max_kl": 0.02, "checkpoint_seconds": 0}
    )
    whole = train_ppo(base, warm, reward, digits(), LINEAR, settings, tmp_path / "whole", 1, silent)
    assert whole["throttled"]

    class CutOffError(Exception): ...

    def cut(done: int, total: int) -> None:
        raise CutOffError

    # Each time for an update more: the state of an update is written after it is told of.
    state = tmp_path / "state"
    cut_off = train_ppo(base, warm, reward, digits(), LINEAR, settings, tmp_path / "cut", 1, silent, state)
    assert cut_off["throttled"]
    ours, theirs = (tmp_path / name / "adapter_model.safetensors" for name in ("cut", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


def _divergence(base: Path, agent: Path, reference: Path | None) -> float:
    """KL divergence of one agent's answers from another's in nats, mean over the questions."""
    total = 0.0
    for ours, theirs in zip(spread(base, agent, digits()), spread(base, reference, digits()), strict=True):
        total += sum(p * math.log(p / theirs[word]) for word, p in ours.items() if p > 0)
    return total / len(digits())


def test_the_kl_penalty_is_moved_to_its_target(base: Path, warm: Path, reward: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"episodes": 960, "batch": 32, "kl_target": 1e-6})
    with quiet():
        trainer = Setting(base, warm, reward, settings).ours(tmp_path)
        trainer.train()
    coefficients = [entry["kl_coefficient"] for entry in trainer.history]
    assert coefficients[-1] > coefficients[2] > 0
