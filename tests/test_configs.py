"""Every configuration that ships is read and says what its name promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.config import RunConfig
from distill.configure import load_config
from distill.experiments.running import load_experiment

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
EXPERIMENTS = sorted((CONFIGS / "experiments").glob("*.yaml"))


def config(name: str) -> RunConfig:
    return load_config(next(file for file in FILES if file.stem == name))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_loads(file: Path) -> None:
    loaded = load_config(file)
    assert RunConfig.model_validate(loaded.model_dump(mode="json")) == loaded


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_an_experiment_loads(file: Path) -> None:
    assert len(load_experiment(file).seeds) >= 3


def test_the_default_is_the_demo() -> None:
    assert load_config() == config("demo")


def test_variants_switch_off_what_they_say() -> None:
    assert not config("ppo_only").distill.warm_start.enabled
    assert not config("no_adversary").distill.adversary.enabled
    assert config("demo").distill.adversary.enabled
    assert config("warm_start").distill.warm_start.enabled


def test_the_control_for_robustness_is_the_demo_but_for_the_adversary() -> None:
    control, demo = config("no_adversary"), config("demo")
    distill = control.distill.model_copy(update={"adversary": demo.distill.adversary})
    assert control.model_copy(update={"distill": distill}) == demo


def test_debug_is_small() -> None:
    debug, demo = config("debug"), config("demo")
    assert debug.distill.ppo.episodes < demo.distill.ppo.episodes / 10
    assert debug.generations < demo.generations
