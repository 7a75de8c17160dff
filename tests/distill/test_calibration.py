"""Calibration on scores whose log-odds are known."""

from __future__ import annotations

import pytest
import torch

from amplification.errors import StageError
from distill.calibration import calibrated, expected_error, probabilities, temperature_of


def drawn(count: int, too_sure: float, members: int = 2) -> torch.Tensor:
    """Differences [members, count] of scores, first minus second: log-odds times `too_sure`. The first is better."""
    stream = torch.Generator().manual_seed(1)
    odds = torch.randn(count, generator=stream) * 2
    better = torch.rand(count, generator=stream) < torch.sigmoid(odds)
    return (torch.where(better, odds, -odds) * too_sure).expand(members, -1)


@pytest.mark.parametrize("too_sure", [0.25, 1.0, 5.0])
def test_the_temperature_undoes_what_is_too_sure_or_not_sure_enough(too_sure: float) -> None:
    assert temperature_of(drawn(4_000, too_sure)) == pytest.approx(1 / too_sure, rel=0.15)


def test_calibration_makes_probabilities_fit() -> None:
    differences = drawn(4_000, 5.0)
    questions = [str(place) for place in range(differences.shape[1])]
    calibration, metrics = calibrated(questions, differences / 2 + 3, 3 - differences / 2, "minimum")
    assert metrics["calibration_error_before"] > 0.1
    assert metrics["calibration_error_after"] < 0.03
    scaled = differences / torch.tensor(calibration.scale)[:, None]
    assert expected_error(probabilities(scaled, calibration.temperature)) < 0.03


def test_pairs_all_in_order_do_not_make_it_certain() -> None:
    assert float(probabilities(torch.ones(1, 8), temperature_of(torch.ones(1, 8)))[0]) == pytest.approx(0.9, abs=0.01)


def test_scores_that_are_no_numbers_are_refused() -> None:
    scores = torch.tensor([[1.0, float("nan")]])
    with pytest.raises(StageError, match="no numbers"):
        calibrated(["a", "b"], scores, scores, "minimum")
