"""What the experiment on selection makes of its curves."""

from __future__ import annotations

import pytest

from distill.experiments.active_selection import AGENT, REWARD, _beside, labels_to
from distill.experiments.base import Arm


def arm(*values: float) -> Arm:
    line = [(100.0 * (place + 1), value) for place, value in enumerate(values)]
    return Arm({}, {AGENT: line, REWARD: line})


def test_where_a_level_is_reached_lies_between_two_points() -> None:
    curve = [(100.0, 0.5), (200.0, 0.7), (300.0, 0.6), (400.0, 0.9)]
    assert labels_to(curve, 0.4) == 100
    assert labels_to(curve, 0.6) == pytest.approx(150)
    assert labels_to(curve, 0.8) == pytest.approx(300 + 100 * 2 / 3)
    assert labels_to(curve, 0.95) is None


def test_an_arm_that_needs_half_the_labels_has_half_the_f2() -> None:
    chance, twice_as_fast, slower = arm(0.2, 0.4, 0.6, 0.8), arm(0.4, 0.8, 0.9, 0.9), arm(0.1, 0.2, 0.3, 0.4)
    assert set(_beside(chance, chance).values()) == {1.0}
    assert set(_beside(twice_as_fast, chance).values()) == {0.5}
    assert set(_beside(slower, chance).values()) == {2.0}
