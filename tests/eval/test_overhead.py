"""The factors on examples worked out by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from eval.overhead import overhead

# The source's example: 10% for reward learning and robustness, one label in 10,000 episodes, each 1,000 times as dear.
SOURCE = {
    "plain_rl_flops": 1e15,
    "reward_learning_flops": 0.06e15,
    "robustness_flops": 0.04e15,
    "amplified_episodes": 10,
    "training_episodes": 100_000,
    "amplified_tokens_per_episode": 20_000.0,
    "amplified_tokens_per_episode_without_memo": 50_000.0,
    "agent_tokens_per_episode": 20.0,
    "flops": 1.2e15,
}


def test_the_sources_example_is_twenty_percent() -> None:
    (factors,) = overhead([SOURCE]).generations
    assert (factors.f1, factors.f2, factors.f3) == pytest.approx((0.10, 1e-4, 1000))
    assert factors.total == pytest.approx(0.20)
    assert (factors.f3_without_memo, factors.total_without_memo) == pytest.approx((2500, 0.35))


def test_a_run_is_taken_over_sums_and_f4_over_the_last_generation() -> None:
    first = {**SOURCE, "plain_rl_flops": 3e15, "amplified_episodes": 30, "amplified_tokens_per_episode": 0.0}
    found = overhead([{**first, "flops": 3.6e15}, SOURCE])
    assert found.f4 == pytest.approx(4.0)
    assert found.run.f1 == pytest.approx(0.2 / 4)
    assert found.run.f2 == pytest.approx(40 / 200_000)
    assert found.run.f3 == pytest.approx(10 * 20_000 / 40 / 20)
    tokens = 10 * 20_000 / (200_000 * 20)
    assert found.run.total == pytest.approx(0.2 / 4 + tokens)


def test_without_a_denominator_there_is_no_factor() -> None:
    none_trained = {**SOURCE, "plain_rl_flops": 0.0, "training_episodes": 0}
    (factors,) = overhead([none_trained]).generations
    assert (factors.f1, factors.f2, factors.f3, factors.total) == (None, None, None, None)
    assert overhead([]).f4 is None


def test_no_labels_cost_nothing() -> None:
    (factors,) = overhead([{**SOURCE, "amplified_episodes": 0}]).generations
    assert (factors.f2, factors.f3) == (0.0, 0.0)
    assert factors.total == pytest.approx(0.10)


def test_tokens_of_an_overseer_of_unknown_size_are_never_taken_for_none() -> None:
    found = overhead([SOURCE, {**SOURCE, "unpriced_overseer_tokens": 1}])
    known, unknown = found.generations
    assert known.total == pytest.approx(0.20)
    assert (unknown.f3, unknown.f3_without_memo, unknown.total) == (None, None, None)
    assert (unknown.f1, unknown.f2) == pytest.approx((0.10, 1e-4))
    assert (found.run.f3, found.run.total, found.f4) == (None, None, None)


def test_an_overseers_own_tokens_are_part_of_an_amplified_episode() -> None:
    own = {"overseer_tokens_per_episode": 4_000.0, "overseer_tokens_per_episode_without_memo": 10_000.0}
    (factors,) = overhead([{**SOURCE, **own}]).generations
    assert (factors.f3, factors.f3_without_memo) == pytest.approx((1200, 3000))


def test_missing_and_negative_entries_are_refused() -> None:
    with pytest.raises(ValidationError, match="plain_rl_flops"):
        overhead([{key: value for key, value in SOURCE.items() if key != "plain_rl_flops"}])
    with pytest.raises(ValidationError, match="flops"):
        overhead([{**SOURCE, "flops": -1.0}])
