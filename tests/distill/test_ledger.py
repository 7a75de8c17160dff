"""The ledger against a generation worked out by hand."""

import pytest

from distill.ledger import generation_cost, training_flops

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
    "prompts": 50,
    "attacks": 10,
    "tokens_per_episode": 8.0,
}


def test_a_forward_pass_is_2_and_a_training_step_6_flops_a_parameter_and_token() -> None:
    assert training_flops(REWARD) == 20 * (2 * 10 + 6 * 50)


def test_a_generation_without_an_adversary() -> None:
    cost = generation_cost(LABELS, WARM, REWARD, None, {**PPO, "attacks": 0})
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
    without = generation_cost(LABELS, WARM, REWARD, None, {**PPO, "attacks": 0})
    assert cost["flops"] == without["flops"] + 2 * 10 * (70 + 100)


def test_a_writers_own_model_is_a_cost_of_robustness() -> None:
    adversary = {"tokens": 70, "by_source": {"mutation": {"tried": 5}, "writer": {"tried": 5, "flops": 3_000.0}}}
    plain = generation_cost(LABELS, WARM, REWARD, {"tokens": 70}, PPO)
    cost = generation_cost(LABELS, WARM, REWARD, adversary, PPO)
    assert {key: cost[key] - plain[key] for key in cost if cost[key] != plain[key]} == {
        "robustness_flops": 3_000.0,
        "flops": 3_000.0,
    }


def test_judgements_for_the_reward_model_are_episodes_too() -> None:
    reward = {**REWARD, "judge_cost": {**COST, "tokens": 60}, "judged": 3}
    cost = generation_cost(LABELS, WARM, reward, None, PPO)
    assert cost["amplified_episodes"] == 13
    assert cost["amplified_tokens_per_episode"] == pytest.approx(260 / 13)
    assert cost["flops"] == generation_cost(LABELS, WARM, REWARD, None, PPO)["flops"] + 2 * 10 * 60
