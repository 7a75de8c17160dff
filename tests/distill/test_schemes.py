"""The schemes experiment: whole runs as arms, carried on after a failure, and what is made of their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from amplification.errors import InputError, StageError
from distill.experiments.running import load_experiment, run_experiment
from distill.experiments.schemes import Config, arm
from tests.distill.test_stage import Silent

DEBUG = Path(__file__).parents[2] / "configs" / "debug.yaml"


def generation(n: int, flops: float, ladder: dict[str, list[float | None]]) -> dict[str, Any]:
    return {
        "n": n,
        "ladder": ladder,
        "costs": {"flops": flops, "amplified_episodes": 10, "training_episodes": 100},
        "robustness": {"unacceptable": n / 10},
        "ppo": {"rounds": [{}, {}]} if n else {},
    }


def test_figures_are_the_last_agents_and_curves_go_level_by_level() -> None:
    """Level 0 of `facts` has no held-out questions; a generation's own level has its number."""
    made = [
        generation(0, 1e12, {"facts": [None, 0.0, 0.0], "other": [0.5, 0.1, 0.1]}),
        generation(1, 2e12, {"facts": [None, 0.75, 0.0], "other": [0.9, 1.0, 0.1]}),
        generation(2, 3e12, {"facts": [None, 0.5, 0.875], "other": [0.8, 0.75, 0.625]}),
    ]
    found = arm(made, 2)
    assert found.curves["accuracy at each generation's level"] == [(0.0, 0.5), (1.0, 0.875), (2.0, 0.75)]
    assert found.curves["TFLOP so far"] == [(0.0, 1.0), (1.0, 3.0), (2.0, 6.0)]
    assert found.figures == {
        "accuracy at the top level": 0.75,
        "lowest task there": 0.625,
        "accuracy at older levels": pytest.approx((0.5 + 0.8 + 0.75) / 3),
        "attacks that succeed": 0.2,
        "TFLOP": 6.0,
        "episodes of H^A": 30.0,
        "episodes of A": 300.0,
        "rounds": 5.0,
        "levels": 3.0,
    }


def test_a_run_that_ended_early_is_measured_at_the_level_it_was_to_learn() -> None:
    found = arm([generation(0, 1e12, {"facts": [None, 0.25, 0.0], "other": [1.0, 0.5, 0.125]})], 2)
    assert found.figures["levels"] == 1
    assert found.figures["accuracy at the top level"] == 0.0625
    assert found.figures["accuracy at older levels"] == pytest.approx((0.25 + 1.0 + 0.5) / 3)
    assert found.curves["accuracy at each generation's level"] == [(0.0, 1.0)]


def test_both_schemes_run_and_carry_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure in the second run the first is not done again, and neither is the second's base."""
    import distill.base
    import distill.labels

    debug = yaml.safe_load(DEBUG.read_text())
    debug["distill"]["adversary"] = {"enabled": False}
    rounds = {"rounds": 2, "agreement": 0.0}
    runs = {"sequential": debug, "collapsed": {**debug, "scheme": "collapsed", "collapsed": rounds}}
    config = Config.model_validate({"experiment": "schemes", "runs": runs})
    bases, labels = list[Path](), list[Path]()
    train, make = distill.base.train_base, distill.labels.make_labels

    def train_base(*args: Any) -> Any:
        bases.append(args[4])
        return train(*args)

    def make_labels(*args: Any) -> Any:
        labels.append(args[4])
        if len(labels) == 4:  # the collapsed run's second round
            raise RuntimeError("the lights went out")
        return make(*args)

    monkeypatch.setattr(distill.base, "train_base", train_base)
    monkeypatch.setattr(distill.labels, "make_labels", make_labels)
    with pytest.raises(StageError, match="lights"):
        run_experiment(config, (3,), tmp_path, Silent())
    found = run_experiment(config, (3,), tmp_path, Silent())
    assert [len(bases), len(labels)] == [2, 5]
    assert list(found) == ["sequential", "collapsed"]
    one, other = (found[name][3]["figures"] for name in found)
    assert (one["rounds"], other["rounds"]) == (2, 2)
    assert one["episodes of A"] == other["episodes of A"] == 128
    assert all(0 <= each["accuracy at the top level"] <= 1 for each in (one, other))
    assert [place for place, _ in found["collapsed"][3]["curves"]["TFLOP so far"]] == [0, 1]


def test_a_run_that_cannot_be_is_named(tmp_path: Path) -> None:
    file = tmp_path / "schemes.yaml"
    file.write_text("experiment: schemes\nruns: {sequential: {tasks: [juggling]}}")
    with pytest.raises(InputError, match=r"schemes\.yaml: runs\.sequential: 'tasks' names 'juggling'"):
        load_experiment(file)
