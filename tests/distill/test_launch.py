"""Real processes: a training that is killed carries on to the same weights, and two processes learn what one learns."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file

from amplification.errors import InputError, StageError
from distill.config import AdapterConfig, PPOSettings
from distill.launch import train_in_processes
from distill.ppo import train_ppo
from distill.practice import Prompt
from tests.distill.training import FULL, LORA, digits, silent

ROOT = Path(__file__).parents[2]
# How often a training is killed; AMPLIFY_KILLS=10 is what the benchmarks report.
KILLS = int(os.environ.get("AMPLIFY_KILLS", "3"))
PATIENCE_S = 300


def settings(**changes: Any) -> PPOSettings:
    return PPOSettings(
        episodes=480, batch=32, minibatches=2, critic_warmup=1, learning_rate=1e-3, checkpoint_seconds=0
    ).model_copy(update=changes)


def job(folder: Path, base: Path, reward: Path, name: str) -> Path:
    path = folder / f"{name}.json"
    path.write_text(
        json.dumps(
            {
                "base": str(base),
                "adapter_in": None,
                "reward_folder": str(reward),
                "questions": digits(),
                "adapter_config": AdapterConfig(method="linear").model_dump(mode="json"),
                # More updates than all kills together can let through.
                "settings": settings(kl_target=0.05, entropy_bonus=0.01, episodes=160 * KILLS).model_dump(mode="json"),
                "out": str(folder / name),
                "seed": 1,
                "state": str(folder / f"{name}.state"),
                "attack_share": 0.1,
                "result": str(folder / f"{name}.metrics.json"),
                "serving": {},
            }
        )
    )
    return path


def start(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "distill.launch", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_killed_training_carries_on_to_the_same_weights(base: Path, reward: Path, tmp_path: Path) -> None:
    whole, killed = (job(tmp_path, base, reward, name) for name in ("whole", "killed"))
    assert start(whole).wait(PATIENCE_S) == 0
    rng, begun = random.Random(1), []
    for _ in range(KILLS):
        with start(killed) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(rng.randint(1, 4))]  # so many updates, and a bit
            time.sleep(rng.random() * 0.1)
            process.send_signal(signal.SIGKILL)
        begun.append(int(lines[0]))
    assert start(killed).wait(PATIENCE_S) == 0
    assert begun == sorted(begun)
    assert begun[-1] > begun[0] >= 32  # each carried on from where the one before had come
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    ours, theirs = (json.loads((tmp_path / f"{n}.metrics.json").read_text()) for n in ("whole", "killed"))
    assert {**ours, "episodes_per_second": 0} == {**theirs, "episodes_per_second": 0}


@pytest.mark.parametrize(("adapter", "answers"), [(LORA, 1), (FULL, 4)], ids=["lora", "full"])
def test_two_processes_learn_what_one_learns(
    base: Path, reward: Path, tmp_path: Path, adapter: AdapterConfig, answers: int
) -> None:
    """Also when they are interrupted and carry on from their state."""
    shared = settings(
        episodes=160, batch=32, learning_rate=3e-4, answers=answers, prompts="even" if answers == 1 else "hardest"
    )
    prompts = [Prompt(text, f"group {place % 3}") for place, text in enumerate(digits())]
    one = train_ppo(base, None, reward, prompts, adapter, shared, tmp_path / "one", 1, silent)
    two, state = shared.model_copy(update={"processes": 2}), tmp_path / "state"

    def interrupt(done: int, total: int) -> None:
        if done >= 96:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in_processes(base, None, reward, prompts, adapter, two, tmp_path / "two", 1, interrupt, state)
    assert not (tmp_path / "two").exists()
    assert list(state.glob("update-[2-5]"))
    begun: list[int] = []
    done = train_in_processes(
        base, None, reward, prompts, adapter, two, tmp_path / "two", 1, lambda d, _: begun.append(d), state
    )
    assert begun[0] > 64  # it did not begin again
    assert done["episodes"] == one["episodes"] == 160
    assert done["prompts"] == one["prompts"]
    # Each process scores its own share: an answer that both have is scored twice.
    assert one["reward_tokens"] <= done["reward_tokens"] <= 1.1 * one["reward_tokens"]
    for name in ("reward_before", "reward_after", "kl", "entropy"):
        assert done[name] == pytest.approx(one[name], abs=0.02), name
    for file in (tmp_path / "one").glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(tmp_path / "two" / file.name)
        for name, tensor in ours.items():
            assert torch.allclose(tensor, theirs[name], atol=2e-3), name


def test_a_batch_that_cannot_be_shared_is_refused(base: Path, reward: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot share"):
        train_in_processes(base, None, reward, digits(), LORA, settings(batch=32, processes=3), tmp_path, 1, silent)


def test_a_process_that_is_killed_ends_the_others_and_leaves_the_state(
    base: Path, reward: Path, tmp_path: Path
) -> None:
    """The second of two is killed after two updates: an error and no agent, and what was learned is on disk."""
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done >= 64 and not killed:
            [second] = [child for child in psutil.Process().children(recursive=True) if rank_of(child) == "1"]
            killed.append(second.pid)
            second.kill()

    shared, state = settings(episodes=3_200, processes=2), tmp_path / "state"
    with pytest.raises(StageError, match=r"\(SIGKILL\) received by PID.*the same command carries on") as raised:
        train_in_processes(base, None, reward, digits(), LORA, shared, tmp_path / "out", 1, kill, state)
    assert f"PID {killed[0]}" in str(raised.value)
    assert not (tmp_path / "out").exists()
    assert list(state.glob("update-*"))
    assert not [child for child in psutil.Process().children(recursive=True) if rank_of(child) is not None]


def rank_of(process: psutil.Process) -> str | None:
    """The rank that a launcher has given to a process, if it is one of its own."""
    try:
        rank: str | None = process.environ().get("RANK")
    except psutil.Error:
        return None
    return rank


def test_a_process_that_dies_is_told(base: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no reward model"):
        train_in_processes(base, None, tmp_path, digits(), LORA, settings(processes=2), tmp_path / "out", 1, silent)
