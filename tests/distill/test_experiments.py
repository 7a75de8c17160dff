"""Experiments: run seed by seed, carried on after a failure, never mixed with another configuration's results."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from amplification.errors import InputError, StageError
from distill.experiments import EXPERIMENTS
from distill.experiments.base import Arm, ExperimentConfig
from distill.experiments.running import load_experiment, run_experiment
from distill.progress import Progress
from tests.distill.test_stage import Silent


class CoinConfig(ExperimentConfig):
    sides: int = 2


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An experiment called `coin`, and the seeds that it was run with; seed 13 fails."""
    seen: list[int] = []

    def run(config: CoinConfig, seed: int, folder: Path, progress: Progress) -> dict[str, Arm]:
        seen.append(seed)
        if seed == 13:
            raise RuntimeError("the coin stood on its edge")
        (folder / "scratch").write_text("x")
        fair = Arm({"heads": seed / config.sides}, {"by toss": [(0.0, 0.0), (1.0, float(seed))]})
        return {"fair": fair, "control": Arm({})}

    module = ModuleType("coin")
    module.Config, module.run = CoinConfig, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coin", module)
    monkeypatch.setitem(EXPERIMENTS, "coin", "coin")
    return seen


def test_a_seed_that_is_there_is_not_run_again(calls: list[int], tmp_path: Path) -> None:
    config = CoinConfig(experiment="coin")
    first = run_experiment(config, (1, 2), tmp_path / "out", Silent())
    with pytest.raises(StageError, match="edge"):
        run_experiment(config, (1, 13), tmp_path / "out", Silent())
    again = run_experiment(config, (1, 2, 3), tmp_path / "out", Silent())
    assert calls == [1, 2, 13, 3]
    assert {seed: again["fair"][seed] for seed in (1, 2)} == first["fair"]
    assert [again["fair"][seed]["figures"]["heads"] for seed in (1, 2, 3)] == [0.5, 1.0, 1.5]
    assert list(run_experiment(config, (1, 2), tmp_path / "out", Silent())) == ["fair", "control"]


def test_results_of_another_configuration_are_refused(calls: list[int], tmp_path: Path) -> None:
    run_experiment(CoinConfig(experiment="coin"), (1,), tmp_path / "out", Silent())
    run_experiment(CoinConfig(experiment="coin", shown=("heads",)), (1,), tmp_path / "out", Silent())
    with pytest.raises(InputError, match="sides was 2, now 6"):
        run_experiment(CoinConfig(experiment="coin", sides=6), (1,), tmp_path / "out", Silent())
    assert calls == [1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("experiment: coins", "'coins', which is no experiment"),
        ("seeds: [1]", "no key 'experiment'"),
        ("experiment: coin\nsidez: 3", "no key 'sidez'"),
        ("experiment: coin\nseeds: []", "'seeds'"),
    ],
)
def test_a_wrong_configuration_is_one_line(calls: list[int], tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "coin.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=problem) as error:
        load_experiment(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
