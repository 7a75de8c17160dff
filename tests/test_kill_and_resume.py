"""A run that is killed, in whatever stage, and started again reports what an undisturbed run reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distill.config import RunConfig
from distill.configure import load_config
from distill.iterate import stage_names
from eval.report import without_times

CONFIG = Path(__file__).parents[1] / "configs" / "debug.yaml"
COMMAND = [sys.executable, "-m", "amplification", "run", str(CONFIG), "--out"]
PATIENCE_S = 300


def report_of(folder: Path) -> dict[str, Any]:
    return without_times(json.loads((folder / "report.json").read_text())) | {"run": ""}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    subprocess.run([*COMMAND, str(folder)], check=True, capture_output=True, timeout=PATIENCE_S)
    return folder


def kill_during(stage: str, folder: Path) -> None:
    """Start the run and kill it, with all its children, as soon as the stage has begun."""
    process = subprocess.Popen(
        [*COMMAND, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    begun = folder / f"{stage}.partial"
    deadline = time.monotonic() + PATIENCE_S
    while not begun.exists() and not (folder / stage).exists():
        assert process.poll() is None, f"the run ended before {stage}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "report.json").exists()


def test_killed_in_every_stage_the_report_is_the_same(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    config: RunConfig = load_config(CONFIG)
    names = stage_names(config)
    for stage in names:
        kill_during(stage, folder)
    subprocess.run([*COMMAND, str(folder)], check=True, capture_output=True, timeout=PATIENCE_S)
    assert report_of(folder) == report_of(undisturbed)


def test_what_was_answered_before_the_kill_is_not_asked_again(undisturbed: Path, tmp_path: Path) -> None:
    """The last evaluation asks A most; killed in the middle, its second half alone is left to ask."""
    import sqlite3

    def answered(folder: Path) -> dict[tuple[str, str, str], int]:
        with sqlite3.connect(folder / "store.sqlite") as database:
            rows = database.execute("select agent, prompt, params, rowid from memo")
            return {(agent, prompt, params): row for agent, prompt, params, row in rows}

    folder = tmp_path / "killed"
    kill_during("generation-1/evaluation", folder)
    before = answered(folder)
    subprocess.run([*COMMAND, str(folder)], check=True, capture_output=True, timeout=PATIENCE_S)
    after = answered(folder)
    assert before
    assert before.items() <= after.items()
    assert after.keys() == answered(undisturbed).keys()


def test_a_disk_that_is_full_costs_the_stage_alone(tmp_path: Path) -> None:
    """No file may grow beyond 96 kB, which the base's weights would. With room again the same command carries on."""

    def run(most: int) -> subprocess.CompletedProcess[str]:
        code = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}));"
        code += " runpy.run_module('amplification', run_name='__main__', alter_sys=True)"
        # Wide enough that the store is no larger yet.
        wide = ["--model.width", "64", "--model.heads", "2"]
        command = [sys.executable, "-c", code, *COMMAND[3:], str(tmp_path / "run"), "--until", "base", *wide]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)

    full = run(96 * 1024)
    assert full.returncode == 1
    assert "stage base failed" in full.stderr and full.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "base").exists()
    assert run(2**40).returncode == 0
    assert (tmp_path / "run" / "base" / "done.json").exists()


def test_every_call_of_the_agent_is_in_the_ledger(undisturbed: Path) -> None:
    """The store knows which stage caused each call that reached the model; what the stages told must add up to it."""
    import sqlite3

    with sqlite3.connect(undisturbed / "store.sqlite") as database:
        rows = database.execute("select scope, sum(prompt_tokens + completion_tokens) from memo group by scope")
        spent: dict[str, int] = dict(rows)

    def metrics(stage: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((undisturbed / stage / "done.json").read_text())["metrics"]
        return told

    for generation in ("generation-0", "generation-1"):
        adversary = metrics(f"{generation}/adversary")
        told = {
            "labels": metrics(f"{generation}/labels")["cost"]["tokens"],
            "reward": metrics(f"{generation}/reward")["own_tokens"],
            "adversary": adversary["tokens"] + adversary["judge_cost"]["tokens"],
            "agent": metrics(f"{generation}/agent")["kept_tokens"],
        }
        assert told == {stage: spent.get(f"{generation}/{stage}", 0) for stage in told}
        assert told["reward"] and told["adversary"]
        assert adversary["scored_tokens"] > 0


def test_a_finished_run_only_writes_its_report_again(undisturbed: Path) -> None:
    done = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("done.json")}
    again = subprocess.run([*COMMAND, str(undisturbed)], check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("done.json")} == done
    assert again.stdout.count("already complete") == len(done)
