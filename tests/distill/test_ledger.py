"""The ledger against a generation worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from distill.actor_critic import ValueHead
from distill.ensemble import RewardEnsemble
from distill.ledger import generation_cost, training_flops
from distill.results import generation_result
from distill.weights import load_merged, parameters

COST = {"overseer_steps": 30, "calls": 20, "memo_hits": 5, "tokens": 200, "tokens_saved": 50}
LABELS = {"labels": 9, "unanswered": 1, "cost": COST}
WARM = {"parameters": 10, "forward_tokens": 0, "train_tokens": 100}
REWARD = {"parameters": 20, "forward_tokens": 10, "train_tokens": 50}
PPO = {
    "parameters": 10,
    "forward_tokens": 300,
    "train_tokens": 100,
    "reward_parameters": 20,
    "reward_tokens": 40,
    "episodes": 50,
    "attack_share": 0.2,
    "tokens_per_episode": 8.0,
}


def test_a_forward_pass_is_2_and_a_training_step_6_flops_a_parameter_and_token() -> None:
    assert training_flops(REWARD) == 20 * (2 * 10 + 6 * 50)


def test_a_generation_without_an_adversary() -> None:
    cost = generation_cost(LABELS, WARM, REWARD, None, {**PPO, "attack_share": 0.0})
    ppo = 10 * (2 * 300 + 6 * 100)
    learning = 10 * 6 * 100 + 20 * (2 * 10 + 6 * 50) + 2 * 20 * 40
    assert cost["plain_rl_flops"] == ppo
    assert cost["reward_learning_flops"] == learning
    assert cost["robustness_flops"] == 0
    assert (cost["amplified_episodes"], cost["training_episodes"]) == (10, 50)
    assert cost["amplified_tokens_per_episode"] == 20
    assert cost["amplified_tokens_per_episode_without_memo"] == 25
    assert cost["flops"] == ppo + learning + 2 * 10 * 200


def test_an_adversarys_rollouts_and_judgements_are_its_own_cost() -> None:
    adversary = {"tokens": 70, "judge_cost": {**COST, "tokens": 100}, "judged": 10}
    cost = generation_cost(LABELS, WARM, REWARD, adversary, PPO)
    ppo = 10 * (2 * 300 + 6 * 100)
    assert cost["plain_rl_flops"] == pytest.approx(0.8 * ppo)
    assert cost["robustness_flops"] == pytest.approx(0.2 * ppo + 2 * 10 * 70)
    assert cost["amplified_episodes"] == 20
    assert cost["amplified_tokens_per_episode"] == 15
    without = generation_cost(LABELS, WARM, REWARD, None, {**PPO, "attack_share": 0.0})
    assert cost["flops"] == without["flops"] + 2 * 10 * (70 + 100)


def test_the_agents_own_answers_and_what_the_adversary_scores_are_counted() -> None:
    adversary = {"tokens": 70, "scored_tokens": 90, "judge_cost": {**COST, "tokens": 100}, "judged": 10}
    without = generation_cost(LABELS, WARM, REWARD, {**adversary, "scored_tokens": 0}, PPO)
    cost = generation_cost(LABELS, WARM, {**REWARD, "own_tokens": 30}, adversary, {**PPO, "kept_tokens": 12})
    assert cost["reward_learning_flops"] - without["reward_learning_flops"] == 2 * 10 * 30
    assert cost["robustness_flops"] - without["robustness_flops"] == pytest.approx(2 * 10 * 12 + 2 * 20 * 90)
    assert cost["flops"] - without["flops"] == 2 * 10 * (30 + 12) + 2 * 20 * 90


def test_what_is_paid_once_is_what_does_not_grow_with_the_episodes() -> None:
    adversary = {"tokens": 70, "judge_cost": COST, "judged": 10}
    cost = generation_cost(LABELS, WARM, REWARD, adversary, PPO)
    each_episode = 0.2 * training_flops(PPO) + 2 * 20 * 40  # attacks, and the reward model's forward passes
    assert cost["once_flops"] == pytest.approx(cost["reward_learning_flops"] + cost["robustness_flops"] - each_episode)


def test_an_overseers_own_model_costs_by_its_own_size() -> None:
    own = {"overseer_tokens": 40, "overseer_work": 40 * 500, "overseer_work_saved": 10 * 500, "overseer_unpriced": 0}
    cost = generation_cost({**LABELS, "cost": {**COST, **own}}, WARM, REWARD, None, PPO)
    without = generation_cost(LABELS, WARM, REWARD, None, PPO)
    assert cost["flops"] - without["flops"] == 2 * 500 * 40
    assert cost["overseer_tokens_per_episode"] == 40 * 500 / 10 / 10  # of a model of 10 parameters, in 10 episodes
    assert cost["overseer_tokens_per_episode_without_memo"] == 50 * 500 / 10 / 10
    assert cost["amplified_tokens_per_episode"] == without["amplified_tokens_per_episode"]


def test_tokens_of_a_model_of_unknown_size_are_not_lost() -> None:
    reward = {**REWARD, "judge_cost": {**COST, "overseer_unpriced": 7}, "judged": 3}
    cost = generation_cost({**LABELS, "cost": {**COST, "overseer_unpriced": 5}}, WARM, reward, None, PPO)
    assert cost["unpriced_overseer_tokens"] == 12


def test_a_throttle_and_the_copys_agreement_are_measured_at_a_price() -> None:
    stages: dict[str, dict[str, Any]] = {"labels": LABELS, "reward": REWARD, "agent": PPO}
    evaluation: dict[str, Any] = {"ladder": {}, "robustness": {}}
    plain = generation_result(0, 1.0, evaluation, [stages])["costs"]
    measured = {**stages, "agent": {**PPO, "throttle": {"tokens": 11}}, "copy": {"tokens": 6}}
    costs = generation_result(0, 1.0, evaluation, [measured])["costs"]
    for key in ("robustness_flops", "once_flops", "flops"):
        assert costs[key] - plain[key] == pytest.approx(2 * 10 * (11 + 6))


def test_the_critic_is_too_small_to_count(base: Path) -> None:
    """The ledger leaves it out: a row of numbers, and at answers alone."""
    policy = load_merged(base, None)
    assert parameters(ValueHead(policy.config.hidden_size)) < 1e-3 * parameters(policy)


def test_an_ensemble_counts_what_goes_through_its_members(base: Path, reward: Path) -> None:
    ensemble = RewardEnsemble.load(base, reward)
    ensemble.rewards([[1], [1, 4], [1]], [[4, 5], [5, 6, 2], [4, 6]])
    assert ensemble.scored_tokens == 2 * ((1 + 3) + (2 + 3))  # of two answers to one prompt what they share goes once
    ensemble.rate(["sum of 1"], ["1"])
    assert ensemble.scored_tokens == 2 * (9 + len(["<bos>", "sum", "of", "1", ":", "1", "<eos>"]))


def test_a_writers_own_model_is_a_cost_of_robustness() -> None:
    adversary = {"tokens": 70, "by_source": {"mutation": {"tried": 5}, "writer": {"tried": 5, "flops": 3_000.0}}}
    plain = generation_cost(LABELS, WARM, REWARD, {"tokens": 70}, PPO)
    cost = generation_cost(LABELS, WARM, REWARD, adversary, PPO)
    assert {key: cost[key] - plain[key] for key in cost if cost[key] != plain[key]} == {
        "robustness_flops": 3_000.0,
        "once_flops": 3_000.0,
        "flops": 3_000.0,
    }


def test_judgements_for_the_reward_model_are_episodes_too() -> None:
    reward = {**REWARD, "judge_cost": {**COST, "tokens": 60}, "judged": 3}
    cost = generation_cost(LABELS, WARM, reward, None, PPO)
    assert cost["amplified_episodes"] == 13
    assert cost["amplified_tokens_per_episode"] == pytest.approx(260 / 13)
    assert cost["flops"] == generation_cost(LABELS, WARM, REWARD, None, PPO)["flops"] + 2 * 10 * 60


def test_what_chose_the_questions_is_reward_learning() -> None:
    chosen = {**LABELS, "selection": {"learning": [WARM, REWARD, {**WARM, "train_tokens": 0, "forward_tokens": 7}]}}
    cost, without = (generation_cost(labels, WARM, REWARD, None, PPO) for labels in (chosen, LABELS))
    more = training_flops(WARM) + training_flops(REWARD) + 10 * 2 * 7
    assert cost["reward_learning_flops"] == without["reward_learning_flops"] + more
    assert cost["flops"] == without["flops"] + more
