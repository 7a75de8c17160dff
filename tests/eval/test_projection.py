"""The projection to F3 = 1000 on curves whose continuation is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from eval.overhead import GenerationCost, overhead
from eval.pages import html_page, markdown_page
from eval.projection import HOPE, REGIME_F3, Projection, projection
from eval.report import build_report


def cost(**changes: Any) -> GenerationCost:
    """One label in 100 episodes, each as dear as 4; of an F1 of 50%, 5% is paid with each episode."""
    made = {
        "plain_rl_flops": 1e9,
        "reward_learning_flops": 0.4e9,
        "robustness_flops": 0.1e9,
        "once_flops": 0.45e9,
        "amplified_episodes": 10,
        "training_episodes": 1_000,
        "amplified_tokens_per_episode": 80.0,
        "amplified_tokens_per_episode_without_memo": 90.0,
        "agent_tokens_per_episode": 20.0,
        "flops": 2e9,
    }
    return GenerationCost.model_validate(made | changes)


def projected(*costs: GenerationCost) -> Projection | None:
    found = overhead(costs)
    return projection(costs, found.generations, found.run)


def test_more_episodes_share_what_is_paid_once() -> None:
    found = projected(cost())
    assert found is not None
    assert (found.f1_each, found.f1_once) == pytest.approx((0.05, 0.45))
    first, tenfold = found.by_times[:2]
    assert (first.f1, first.f2, first.total) == pytest.approx((0.5, 0.01, 0.5 + 10))
    assert (tenfold.times, tenfold.f1, tenfold.f2, tenfold.total) == pytest.approx((10, 0.095, 0.001, 1.095))
    assert found.times_for_hope is not None
    assert found.f1_each + (found.f1_once + 0.01 * REGIME_F3) / found.times_for_hope == pytest.approx(HOPE)


def test_what_each_episode_pays_cannot_be_shared() -> None:
    found = projected(cost(once_flops=0.2e9))
    assert found is not None
    assert found.times_for_hope is None
    assert all(row.total > 0.3 for row in found.by_times)


def test_a_power_of_f3_is_found_again_and_carried_on() -> None:
    """F3 of 2, 8 and 32; F1 halves and F2 doubles with each fourfold."""
    costs = [
        cost(
            amplified_tokens_per_episode=40.0 * 4**n,
            reward_learning_flops=1e9 * 0.5**n,
            robustness_flops=0.0,
            once_flops=0.0,
            amplified_episodes=10 * 2**n,
        )
        for n in range(3)
    ]
    found = projected(*costs)
    assert found is not None and found.trend is not None
    trend = found.trend
    assert (trend.f1_exponent, trend.f2_exponent) == pytest.approx((-0.5, 0.5))
    assert (trend.f3_from, trend.f3_to) == pytest.approx((2, 32))
    f1, f2 = (2 / REGIME_F3) ** 0.5, 0.01 * (REGIME_F3 / 2) ** 0.5
    assert (trend.projected.f1, trend.projected.f2, trend.projected.total) == pytest.approx((f1, f2, f1 + f2 * 1000))


@pytest.mark.parametrize(
    "costs",
    [
        [cost(), cost(amplified_tokens_per_episode=800.0)],  # two points are no curve
        [cost(), cost(), cost(amplified_tokens_per_episode=81.0)],  # nor are three in one place
        [cost(amplified_tokens_per_episode=0.0), cost(), cost(amplified_tokens_per_episode=800.0)],  # an F3 of 0
        [cost(), cost(unpriced_overseer_tokens=5), cost(amplified_tokens_per_episode=800.0)],
    ],
)
def test_too_few_points_give_no_trend(costs: list[GenerationCost]) -> None:
    found = projected(*costs)
    assert found is not None
    assert found.trend is None


def test_nothing_is_projected_from_nothing() -> None:
    assert projected() is None
    assert projected(cost(plain_rl_flops=0.0)) is None
    assert projected(cost(), cost(once_flops=None)) is None  # a run of an older version


def test_the_report_says_that_it_is_a_projection(sample: SimpleNamespace) -> None:
    made = [sample.generation(n) for n in range(4)]
    for generation in made:
        generation["costs"] |= {"once_flops": 0.06e12, "amplified_tokens_per_episode": 50.0 * 3 ** generation["n"]}
    report = build_report(sample.run(made))
    shown = report["overhead"]["projection"]
    assert shown["measured"] is False
    assert shown["F3"] == REGIME_F3
    assert shown["assumptions"]
    assert shown["trend"]["F3_measured"] == pytest.approx([2.5, 67.5])
    for page in (markdown_page(report), html_page(report)):
        assert "Projection to F3 = 1,000 (not measured)" in page
        assert shown["assumptions"][2] in page


def test_the_report_says_that_a_size_is_missing(sample: SimpleNamespace) -> None:
    made = [sample.generation(n) for n in range(2)]
    made[1]["costs"] |= {"unpriced_overseer_tokens": 1234}
    report = build_report(sample.run(made))
    assert report["overhead"]["total"] is None
    for page in (markdown_page(report), html_page(report)):
        assert "1,234 tokens" in page
        assert "http.parameters" in page
