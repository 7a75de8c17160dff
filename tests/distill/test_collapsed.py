"""The collapsed scheme, end to end on a model that learns next to nothing: killed, resumed, and looked into."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from amplification.agent import Agent
from amplification.ask import last_agent
from amplification.errors import InputError
from amplification.question import Answer
from amplification.serving.base import ModelRef
from distill.collapsed import agreement_by_task, consulted
from distill.config import RunConfig
from distill.configure import check
from distill.results import added
from distill.weights import load_merged
from eval.report import without_times

DEBUG = Path(__file__).parents[2] / "configs" / "debug.yaml"
# Nats; a round of this run would go up to four times as far.
MAX_KL = 2e-5
# Agreement 0: each round ends a level, so that three rounds are three generations.
SETTINGS: dict[str, Any] = {
    "scheme": "collapsed",
    "generations": 2,
    "collapsed": {
        "rounds": 3,
        "lag": 1,
        "average": 0.75,
        "judge_without_agent": 0.3,
        "max_kl": MAX_KL,
        "agreement": 0.0,
    },
}
PATIENCE_S = 300


def command(config: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "amplification", "run", str(config), "--out", str(folder)]


def kill_during(stage: str, config: Path, folder: Path) -> None:
    """Start the run and kill it, with all its children, as soon as the stage has begun."""
    process = subprocess.Popen(
        command(config, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / f"{stage}.partial").exists() and not (folder / stage).exists():
        assert process.poll() is None, f"the run ended before {stage}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """configs/debug.yaml in the collapsed scheme, with every remedy on."""
    made = yaml.safe_load(DEBUG.read_text()) | SETTINGS
    made["distill"]["adversary"] = {"enabled": False}
    made["distill"]["reward"]["members"] = 1
    path = tmp_path_factory.mktemp("config") / "collapsed.yaml"
    path.write_text(yaml.safe_dump(made))
    return path


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    folder = config.parent / "whole"
    subprocess.run(command(config, folder), check=True, capture_output=True, timeout=PATIENCE_S)
    return folder


def done(folder: Path, stage: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / stage / "done.json").read_text())["metrics"]
    return metrics


def report(folder: Path) -> dict[str, Any]:
    return without_times(json.loads((folder / "report.json").read_text())) | {"run": ""}


def digest(folder: Path, agent: str | None) -> str:
    """What an agent of the run is known by."""
    base = str(folder / "base")
    return Agent.load("A", ModelRef(base, str(folder / agent)) if agent else ModelRef(base)).digest


def test_killed_and_resumed_the_report_is_the_same(whole: Path, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    kill_during("round-2/agent", config, folder)
    assert not (folder / "report.json").exists()
    subprocess.run(command(config, folder), check=True, capture_output=True, timeout=PATIENCE_S)
    assert report(folder) == report(whole)


def test_each_level_is_a_generation_of_the_report(whole: Path) -> None:
    generations = report(whole)["generations"]
    assert [generation["n"] for generation in generations] == [0, 1, 2]
    for generation, stage in zip(generations, ("round-1", "round-2", "round-3"), strict=True):
        assert generation["costs"]["amplified_episodes"] == done(whole, f"{stage}/labels")["labels"]
        assert generation["costs"]["training_episodes"] == done(whole, f"{stage}/agent")["episodes"]
        assert len(generation["ppo"]["rounds"]) == 1
        assert generation["overhead"]["total"] > 0


def test_h_consults_the_copy_of_the_round_that_the_lag_says(whole: Path) -> None:
    """With a lag of 1: the base in the first two rounds, what the first round left in the third."""
    expected = [digest(whole, None), digest(whole, None), digest(whole, "round-1/copy")]
    assert len(set(expected)) == 2
    assert [done(whole, f"round-{number}/labels")["consulted"] for number in (1, 2, 3)] == expected


def test_the_copy_is_the_moving_average(whole: Path) -> None:
    """It begins as the first agent; each round a quarter of the way to the new one. LoRA's factors are averaged."""
    base = whole / "base"
    assert digest(whole, "round-1/copy") == digest(whole, "round-1/agent")
    before, agent, copy = (_factors(whole / name) for name in ("round-1/copy", "round-2/agent", "round-2/copy"))
    assert any(not torch.equal(before[name], agent[name]) for name in before)
    for name, factor in copy.items():
        assert torch.allclose(factor, 0.75 * before[name] + 0.25 * agent[name], atol=1e-6), name
    load_merged(base, whole / "round-2/copy")  # an agent like any other


def _factors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(folder / "adapter_model.safetensors")
    return found


def test_no_round_goes_beyond_the_throttle(whole: Path) -> None:
    found = [done(whole, f"round-{number}/agent")["throttle"] for number in (1, 2, 3)]
    assert all(each["kl"] <= MAX_KL for each in found)
    assert any(each["kl_wanted"] > MAX_KL and each["share"] < 1 for each in found)


def test_some_labels_are_made_without_the_agent(whole: Path) -> None:
    for number in (1, 2, 3):
        labels = done(whole, f"round-{number}/labels")
        assert 0 < labels["judged_without_agent"] < labels["labels"]


def test_asking_the_run_asks_its_last_round_s_agent(whole: Path) -> None:
    assert last_agent(whole).digest == digest(whole, "round-3/agent")


@pytest.fixture
def copies() -> Iterator[list[Path | None]]:
    yield [None, Path("1"), Path("2"), Path("3")]


@pytest.mark.parametrize(("lag", "expected"), [(0, "3"), (1, "2"), (2, "1"), (3, None), (9, None)])
def test_the_oldest_copy_stands_in_for_older_ones(copies: list[Path | None], lag: int, expected: str | None) -> None:
    assert consulted(copies, lag) == (Path(expected) if expected else None)


def test_agreement_is_on_held_out_labels_of_the_newest_level() -> None:
    def row(question: str, level: int, part: str, source: str = "task") -> dict[str, Any]:
        return {"question": question, "answer": "1", "task": "t", "level": level, "part": part, "source": source}

    rows = [row("a", 2, "heldout"), row("b", 2, "heldout"), row("c", 2, "train"), row("d", 1, "heldout")]
    asked: list[str] = []

    def ask(texts: Any) -> list[Answer]:
        asked.extend(texts)
        return [Answer("1" if text == "a" else "2") for text in texts]

    assert agreement_by_task(ask, rows, {"t": 2}) == {"t": 0.5}
    assert asked == ["a", "b"]
    assert agreement_by_task(ask, [row("a", 1, "train"), row("e", 1, "train", "attack:x")], {"t": 1}) == {"t": 1.0}
    assert agreement_by_task(ask, rows, {"u": 2}) == {"u": 0.0}


def test_costs_of_rounds_add_up() -> None:
    first = {"flops": 1.0, "amplified_episodes": 1, "amplified_tokens_per_episode": 10.0}
    second = {"flops": 2.0, "amplified_episodes": 3, "amplified_tokens_per_episode": 2.0}
    assert added([first, second]) == {"flops": 3.0, "amplified_episodes": 4, "amplified_tokens_per_episode": 4.0}


def test_fewer_rounds_than_levels_are_refused() -> None:
    config = RunConfig.model_validate({"scheme": "collapsed", "generations": 3, "collapsed": {"rounds": 3}})
    with pytest.raises(InputError, match=r"collapsed\.rounds"):
        check(config, "here")
