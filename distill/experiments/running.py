"""Running an experiment: a stage for each seed, so that a killed run carries on."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from amplification.errors import InputError
from distill.configure import from_mapping, read_mapping
from distill.experiments import EXPERIMENTS
from distill.experiments.base import Experiment, ExperimentConfig
from distill.progress import Progress, Reporter
from distill.stage import Metrics, RunFolder, exclusive

EXAMPLE = "configs/experiments/drift.yaml"

# {arm: {seed: {"figures": {name: value}, "curves": {name: [[x, y], ...]}}}}
Outcome = dict[str, dict[int, dict[str, Any]]]


def load_experiment(path: Path) -> ExperimentConfig:
    """An experiment's configuration. Raises InputError that names the file, the key and a remedy."""
    data = read_mapping(path, EXAMPLE)
    name = data.get("experiment")
    if name not in EXPERIMENTS:
        remedy = f"set it to one of {', '.join(EXPERIMENTS)}"
        problem = (
            "there is no key 'experiment'" if name is None else f"'experiment' is {name!r}, which is no experiment"
        )
        raise InputError(path, problem, f"{remedy}, as in {EXAMPLE}")
    config = from_mapping(_module(name).Config, data, str(path))
    config.check(str(path))
    return config


def run_experiment(config: ExperimentConfig, seeds: Sequence[int], folder: Path, reporter: Reporter) -> Outcome:
    """Every arm with each seed; the seeds that `folder` holds are read and not run again.

    Raises InputError for a folder of another configuration, StageError if an experiment fails.
    """
    module = _module(config.experiment)
    outcome: Outcome = {}
    with exclusive(folder):
        # Which seeds are run and what of the results is drawn changes none of them.
        stages = RunFolder(folder, config.model_copy(update={"seeds": (), "shown": ()}), reporter)
        reporter.expect(len(seeds))
        for seed in seeds:
            done = stages.stage(f"seed-{seed}", partial(_arms, module, config, seed))
            for arm, measured in done.metrics.items():
                outcome.setdefault(arm, {})[seed] = measured
    return outcome


def _arms(module: Experiment, config: ExperimentConfig, seed: int, out: Path, progress: Progress) -> Metrics:
    return {name: arm.as_dict() for name, arm in module.run(config, seed, out, progress).items()}


def _module(name: str) -> Experiment:
    return cast(Experiment, importlib.import_module(EXPERIMENTS[name]))
