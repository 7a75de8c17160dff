"""Calibration: what turns members' raw scores into centred ones, and differences of scores into probabilities.

Both are measured on held-out pairs, which trained no member.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from amplification.errors import InputError, StageError
from amplification.question import digest

CALIBRATION_FILE = "ensemble.json"
REMEDY = "run the reward stage again"
BINS = 10
# A member that orders nothing must not be blown up to look as if it did.
LEAST_SCALE = 0.1

Aggregate = Literal["mean_minus_spread", "minimum"]


@dataclass(frozen=True)
class Calibration:
    """What turns each member's raw score into a centred one, (raw - centre) / scale, and how members are combined.

    temperature: what a difference of two centred scores is multiplied with before a logistic function makes it the
    probability that the first answer is better.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    aggregate: Aggregate
    temperature: float = 1.0


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write ensemble.json."""
    (folder / CALIBRATION_FILE).write_text(json.dumps(asdict(calibration)), encoding="utf-8")


def read_calibration(folder: Path, members: int) -> Calibration:
    """Read ensemble.json. Raises InputError if it is missing, malformed or for another number of members."""
    file = folder / CALIBRATION_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        centre, scale = ([float(v) for v in values[key]] for key in ("centre", "scale"))
        aggregate, temperature = values["aggregate"], float(values["temperature"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(file, "missing or not what the reward stage writes", REMEDY) from error
    if not len(centre) == len(scale) == members or aggregate not in get_args(Aggregate):
        raise InputError(file, f"it does not fit the {members} members beside it", REMEDY)
    return Calibration(tuple(centre), tuple(scale), aggregate, temperature)


def calibrated(
    questions: Sequence[str], chosen: torch.Tensor, rejected: torch.Tensor, aggregate: Aggregate
) -> tuple[Calibration, dict[str, Any]]:
    """From the raw scores [members, n] of the held-out pairs: the calibration, and how well it fits.

    Metrics: calibration_error_before (differences of raw scores taken for log-odds, as they are trained to be) and
    calibration_error_after (each half of the questions with the temperature that fits the other half).
    Raises StageError for scores that are no numbers.
    """
    if not (torch.isfinite(chosen).all() and torch.isfinite(rejected).all()):
        raise StageError("the reward model's scores are no numbers; lower distill.reward.learning_rate")
    centre = (chosen.mean(dim=1) + rejected.mean(dim=1)) / 2
    scale = ((chosen.mean(dim=1) - rejected.mean(dim=1)) / 2).clamp(min=LEAST_SCALE)
    raw = chosen - rejected
    scaled = raw / scale[:, None]
    half = torch.tensor([int(digest("calibration", question)[:8], 16) % 2 == 0 for question in questions])
    after = torch.zeros(len(questions))
    for fold in (half, ~half):
        fitted = temperature_of(scaled[:, ~fold] if (~fold).any() else scaled)
        after[fold] = probabilities(scaled[:, fold], fitted)
    temperature = temperature_of(scaled)
    return Calibration(tuple(centre.tolist()), tuple(scale.tolist()), aggregate, temperature), {
        "calibration_error_before": expected_error(probabilities(raw, 1.0)),
        "calibration_error_after": expected_error(after),
        "temperature": temperature,
    }


def probabilities(differences: torch.Tensor, temperature: float) -> torch.Tensor:
    """From differences of members' scores [members, n]: the probability that the first answer is better, [n].

    The mean over the members, so that where they differ it is nearer to a half.
    """
    return torch.sigmoid(differences * temperature).mean(dim=0)


def temperature_of(differences: torch.Tensor) -> float:
    """The temperature under which pairs whose first answer is the better one are likeliest.

    The target is (n + 1) / (n + 2) and not 1, without which pairs that are all ordered right would make it certain.
    Source: J. Platt, "Probabilistic outputs for support vector machines" (1999).
    """
    count = differences.shape[1]
    target = (count + 1) / (count + 2)
    best, least = 1.0, float("inf")
    for temperature in torch.logspace(-2, 2, 401).tolist():
        p = probabilities(differences, temperature).clamp(1e-6, 1 - 1e-6)
        loss = float(-(target * p.log() + (1 - target) * (1 - p).log()).mean())
        if loss < least:
            best, least = temperature, loss
    return best


def expected_error(first_is_better: torch.Tensor) -> float:
    """Expected calibration error of probabilities [n] given to what was the case, in ten bins.

    Source: Guo et al., "On calibration of modern neural networks" (arXiv 1706.04599, 2017), equation 3.
    """
    confidence = torch.maximum(first_is_better, 1 - first_is_better)
    right = (first_is_better > 0.5).float()
    places = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    error = 0.0
    for place in places.unique():
        inside = places == place
        gap = (confidence[inside].mean() - right[inside].mean()).abs()
        error += float(inside.float().mean() * gap)
    return error
