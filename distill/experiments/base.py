"""What every experiment of configs/experiments/ is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from distill.config import Settings
from distill.progress import Progress


class ExperimentConfig(Settings):
    """Keys that all experiments share. `shown`: the figures that its picture draws as bars."""

    experiment: str
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    shown: tuple[str, ...] = ()

    def check(self, where: str) -> None:
        """Refuse settings that are each fine and do not go together. Raises InputError that names `where`."""


@dataclass(frozen=True)
class Arm:
    """One arm's outcome with one seed: figures by name, and curves by name as (x, y) points."""

    figures: Mapping[str, float]
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it back: points are lists."""
        curves = {name: [[x, y] for x, y in points] for name, points in self.curves.items()}
        return {"figures": dict(self.figures), "curves": curves}


class Experiment(Protocol):
    """A module of this package."""

    Config: type[ExperimentConfig]

    def run(self, config: Any, seed: int, folder: Path, progress: Progress) -> dict[str, Arm]:
        """All arms with one seed; `folder` is empty and may be written into."""
        ...
