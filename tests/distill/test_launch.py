"""Real processes: a training that is killed carries on to the same weights, and two processes learn what one learns."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file

from amplification.errors import AmplifyError, InputError, ServingError, StageError
from amplification.telling import told
from distill import launch
from distill.config import AdapterConfig, PPOSettings
from distill.launch import train_in_processes
from distill.ppo import train_ppo
from distill.practice import Prompt
from distill.processes import Processes
from distill.relay import tell_error, told_error
from distill.weights import load_merged
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
    # Of half of the questions H^A's answer is known, and shown where answers are compared.
    prompts = [Prompt(text, f"group {place % 3}", "7" if place % 2 else None) for place, text in enumerate(digits())]
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
    """As in one process: what was given is bad, and no training has begun that could be carried on."""
    with pytest.raises(InputError, match=r"no reward model[^;]*; [^;]*$"):
        train_in_processes(base, None, tmp_path, digits(), LORA, settings(processes=2), tmp_path / "out", 1, silent)


def stand_in(what: str, folder: Path) -> dict[str, Any]:
    """`train_in_processes` of two processes that do what tests.distill.stand_in says."""
    two = settings(processes=2)
    return train_in_processes("base", None, "reward", [what], LORA, two, folder / "out", 1, silent, folder / "state")


def test_bad_input_in_a_process_is_bad_input_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "MODULE", "tests.distill.stand_in")
    with told() as ended:
        stand_in("refuse", tmp_path)
    assert ended.code == 2
    assert capsys.readouterr().err == "amplify: distill.ppo.part: it is bad; mend it\n"


@pytest.mark.parametrize("error", [InputError("a file", "it is bad", "mend it"), StageError("no"), ServingError("no")])
def test_an_error_is_what_it_was_in_the_process(tmp_path: Path, error: AmplifyError) -> None:
    assert told_error(tmp_path) is None
    tell_error(error, tmp_path)
    found = told_error(tmp_path)
    assert type(found) is type(error) and vars(found) == vars(error) and str(found) == str(error)


def test_nothing_is_said_to_be_kept_where_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MODULE", "tests.distill.stand_in")
    with pytest.raises(StageError, match=r"RuntimeError: something broke; none of what it had learned is kept"):
        stand_in("break", tmp_path)


@pytest.mark.parametrize(("kind", "kept"), [(None, True), ("FSDP", True), ("DEEPSPEED", False)])
def test_a_state_is_kept_where_the_training_would_carry_on(tmp_path: Path, kind: str | None, kept: bool) -> None:
    plan = Processes(tmp_path / "some.yaml", kind) if kind else None
    (tmp_path / "update-3").mkdir()
    assert ("carries on from there" in launch._what_is_left(tmp_path, plan)) == kept


def test_warnings_of_ours_reach_the_user_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MODULE", "tests.distill.stand_in")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        stand_in("warn", tmp_path)
    assert [(str(each.message), each.category) for each in seen if "memory" in str(each.message)] == [
        ("there is less memory than before", RuntimeWarning)
    ]
    assert not [each for each in seen if "library" in str(each.message)]


FOLLOWING = """
import sys
from distill import launch
from distill.config import AdapterConfig, PPOSettings
from pathlib import Path
launch.MODULE = "tests.distill.stand_in"
file = Path(sys.argv[2]) if len(sys.argv) > 2 else None
two = PPOSettings(episodes=64, batch=32, processes=2, accelerate=file)
ready = lambda done, total: print("ready", flush=True)
state = Path(sys.argv[1] + ".state")
launch.train_in_processes("base", None, "reward", ["wait"], AdapterConfig(), two, sys.argv[1], 1, ready, state)
"""


def reached(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def killed_leaving(run: subprocess.Popen[str], started: list[psutil.Process]) -> list[psutil.Process]:
    """Which processes that a run has started are still there some time after it was killed."""
    run.kill()
    _, left = psutil.wait_procs(started, PATIENCE_S)
    for process in left:
        process.kill()
    return list(left)


@pytest.mark.parametrize("file", [None, "configs/accelerate/ddp.yaml"], ids=["torch", "accelerate"])
def test_no_process_outlives_a_run_that_is_killed(tmp_path: Path, file: str | None) -> None:
    """SIGKILL, which leaves the run no time to end anything."""
    command = [sys.executable, "-c", FOLLOWING, str(tmp_path / "out"), *([file] if file else [])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        started = psutil.Process(run.pid).children(recursive=True)
        assert {rank_of(process) for process in started} == {None, "0", "1"}  # one is the launcher
        assert not killed_leaving(run, started)


def test_a_launcher_that_waits_for_other_machines_ends_with_the_run(tmp_path: Path) -> None:
    """It holds the port, which the same command needs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "several.yaml"
    file.write_text((ROOT / "configs/accelerate/several_nodes.yaml").read_text().replace("29500", str(port)))
    command = [sys.executable, "-c", FOLLOWING, str(tmp_path / "out"), str(file)]
    with subprocess.Popen(command, cwd=ROOT, text=True) as run:
        deadline = time.monotonic() + PATIENCE_S
        while not reached(port):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        started = psutil.Process(run.pid).children(recursive=True)
        assert len(started) == 1
        assert not killed_leaving(run, started)


def test_the_gpu_is_given_up_to_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process keeps for later would lie beside what the main one of them needs."""
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("given back"))
    monkeypatch.setattr(launch, "follow", lambda *_: done.append("followed"))
    with pytest.raises(StageError, match="without a result"):
        stand_in("warn", tmp_path)
    assert done == ["given back", "followed"]


def test_a_run_with_two_processes(tmp_path: Path) -> None:
    """The command itself, as far as the first agent, with a file of accelerate's."""
    options = ["--distill.ppo.processes", "2", "--distill.ppo.accelerate", "configs/accelerate/ddp.yaml"]
    command = [sys.executable, "-m", "amplification", "run", "configs/debug.yaml", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, *options, "--until", "generation-0/agent"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    agent = tmp_path / "run" / "generation-0" / "agent"
    metrics = json.loads((agent / "done.json").read_text())["metrics"]
    assert metrics["episodes"] == 64 and metrics["reward_tokens"] > 0
    assert load_merged(tmp_path / "run" / "base", agent).num_parameters() > 0
    assert not agent.with_name("agent.state").exists()
