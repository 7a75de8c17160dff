"""Each claim on tables made so that it holds, and on tables made so that it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from eval.claims import ABOVE, BELOW, EQUAL, INCOMPARABLE, claims, lattice, relation
from eval.results import RunResults, Shares


def with_cell(sample: SimpleNamespace, n: int, task: str, level: int, **shares: float) -> RunResults:
    """The made-up run with one cell of generation n changed."""
    made: list[dict[str, Any]] = [sample.generation(m) for m in range(4)]
    made[n]["ladder"][task][str(level)].update(shares)
    changed: RunResults = sample.run(made)
    return changed


def test_all_claims_hold_of_the_sample(sample: SimpleNamespace) -> None:
    found = claims(sample.run())
    assert {name: claim.holds for name, claim in found.all().items()} == {
        "amplification_gains": True,
        "distillation_keeps": True,
        "monotonic": True,
        "benign_rate_grows": False,
    }
    assert found.amplification_gains.tested == 3 * len(sample.tasks)
    assert found.distillation_keeps.tested == (2 + 3 + 4) * len(sample.tasks)
    assert found.benign_rate_grows.tested == 2 * 6


def test_gain_fails_where_one_task_does_not_gain(sample: SimpleNamespace) -> None:
    found = claims(with_cell(sample, 1, "summing", 4, amplified=0.13)).amplification_gains
    assert not found.holds
    assert [(row["generation"], row["task"], row["level"]) for row in found.details if row["verdict"] == "no_gain"] == [
        (1, "summing", "4")
    ]


def test_gain_is_not_asked_of_an_agent_at_the_ceiling(sample: SimpleNamespace) -> None:
    found = claims(with_cell(sample, 0, "counting", 2, agent=0.995, amplified=0.9975)).amplification_gains
    assert found.holds
    assert [row["verdict"] for row in found.details].count("ceiling") == 1


def test_keeping_fails_where_a_trained_level_is_lost(sample: SimpleNamespace) -> None:
    found = claims(with_cell(sample, 2, "boolean", 1, agent=0.85)).distillation_keeps
    assert not found.holds
    assert [(row["generation"], row["level"]) for row in found.details if row["verdict"] == "lost"] == [(2, "1")]


def test_keeping_allows_noise_and_asks_nothing_of_untrained_levels(sample: SimpleNamespace) -> None:
    assert claims(with_cell(sample, 2, "boolean", 1, agent=0.97)).distillation_keeps.holds
    assert claims(with_cell(sample, 0, "boolean", 8, amplified=0.9)).distillation_keeps.holds


def test_monotonic_fails_where_a_better_agent_amplifies_worse(sample: SimpleNamespace) -> None:
    found = claims(with_cell(sample, 3, "counting", 2, amplified=0.6)).monotonic
    assert not found.holds
    broken = [row for row in found.details if row["verdict"] == "broken"]
    assert {(row["better"], row["task"], row["level"]) for row in broken} == {("A3", "counting", "2")}


def test_monotonic_says_nothing_where_agents_are_equal(sample: SimpleNamespace) -> None:
    same = [{**sample.generation(1), "n": n} for n in (1, 2)]
    same[1]["ladder"] = sample.merged(same[0]["ladder"], sample.ladder("amplified", lambda task, place: 0.1))
    found = claims(sample.run(same)).monotonic
    assert (found.holds, found.tested) == (False, 0)


@pytest.mark.parametrize("family", ["unknown words", "off_distribution"])
def test_the_rate_grows_where_a_later_agent_fails_more(sample: SimpleNamespace, family: str) -> None:
    made = [sample.generation(n) for n in range(3)]
    made[2]["robustness"]["after"][family] = {"unacceptable": 60, "questions": 125}
    found = claims(sample.run(made)).benign_rate_grows
    assert found.holds
    assert {row["to"] for row in found.details if row["verdict"] == "grows"} == {"A2"}


def test_a_rate_that_falls_or_was_not_measured_does_not_grow(sample: SimpleNamespace) -> None:
    made = [sample.generation(n) for n in range(3)]
    made[0]["robustness"]["after"]["unknown words"] = {"unacceptable": 60, "questions": 125}
    assert not claims(sample.run(made)).benign_rate_grows.holds
    unmeasured = claims(sample.run([sample.generation(n, robustness={}) for n in range(3)])).benign_rate_grows
    assert (unmeasured.holds, unmeasured.tested) == (False, 0)


def test_nothing_measured_bears_out_no_claim(sample: SimpleNamespace) -> None:
    found = claims(sample.run([]))
    assert not any(claim.holds or claim.tested for claim in found.all().values())


def table(**levels: int) -> Shares:
    return {("task", level): (correct, 400) for level, correct in levels.items()}


def test_relation_of_two_agents() -> None:
    assert relation(table(a=390, b=390), table(a=385, b=200)) == ABOVE
    assert relation(table(a=385, b=200), table(a=390, b=390)) == BELOW
    assert relation(table(a=390, b=390), table(a=388, b=392)) == EQUAL
    assert relation(table(a=390, b=200), table(a=200, b=390)) == INCOMPARABLE
    assert relation(table(a=390), table(b=10)) == EQUAL


def test_lattice_of_a_diamond() -> None:
    agents = {
        "bottom": table(a=9, b=9),
        "left": table(a=390, b=9),
        "right": table(a=9, b=390),
        "top": table(a=390, b=390),
    }
    found = lattice(agents)
    assert found.order["left"]["right"] == INCOMPARABLE
    assert set(found.covers) == {("top", "left"), ("top", "right"), ("left", "bottom"), ("right", "bottom")}
    assert found.best == ["top"]
