"""accelerate's files: read by accelerate itself, refused in one line where they are bad, real processes from them."""

from __future__ import annotations

import socket
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amplification.errors import InputError
from distill import launch
from distill.config import AdapterConfig, PPOSettings
from distill.configure import load_config
from distill.join import main as join
from distill.join import take_part, waiting
from distill.launch import train_in_processes
from distill.ppo import train_ppo
from distill.processes import check_with_accelerate, read_processes
from tests.distill.training import FULL, LORA, digits, silent

FILES = sorted((Path(__file__).parents[2] / "configs" / "accelerate").glob("*.yaml"))
SHORT = PPOSettings(episodes=96, batch=32, minibatches=2, critic_warmup=1, learning_rate=1e-3, checkpoint_seconds=0)


def processes_for(file: Path) -> int:
    return 1 if file.stem == "one_gpu" else 4


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_launches_what_a_file_says(file: Path) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    number = processes_for(file)
    plan = read_processes(file, number)
    if plan.kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        with pytest.raises(InputError, match="deepspeed is not installed"):
            check_with_accelerate(file)
    else:
        check_with_accelerate(file)
    command = plan.command(number, "distill.launch", Path("job.json"), machine=plan.machines - 1)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(command[3:]))
    assert (args.module, args.training_script, args.training_script_args) == (True, "distill.launch", ["job.json"])
    assert (args.num_processes, args.num_machines) == (number, plan.machines)
    assert args.machine_rank == plan.machines - 1
    assert (args.multi_gpu, args.use_fsdp) == (plan.kind == "MULTI_GPU", plan.kind == "FSDP")
    assert str(defaults.distributed_type.value) == plan.kind
    if plan.kind == "DEEPSPEED":
        assert args.use_deepspeed and (args.zero_stage, args.gradient_clipping) == (int(file.stem[-1]), 1.0)
    if plan.kind == "FSDP":
        assert (args.fsdp_version, args.fsdp_auto_wrap_policy) == (2, "TRANSFORMER_BASED_WRAP")


def test_there_is_a_file_for_each_way() -> None:
    assert {file.stem for file in FILES} >= {"one_gpu", "ddp", "fsdp2", "zero2", "zero3", "several_nodes"}


@pytest.mark.parametrize(
    ("text", "processes", "said"),
    [
        ("distributed_type: MULTI_GPU\n  num: 1", 2, "not YAML"),
        ("- 1", 2, "keys with values"),
        ("num_machines: 1", 2, "'distributed_type' is 'None'"),
        ("distributed_type: XLA", 2, "'distributed_type' is 'XLA'"),
        ("distributed_type: 'NO'", 2, "starts one process"),
        (
            "{distributed_type: MULTI_GPU, num_processes: 4}",
            2,
            "'num_processes' is 4, and 'distill.ppo.processes' is 2",
        ),
        ("{distributed_type: MULTI_GPU, num_machines: two}", 2, "whole number"),
        ("{distributed_type: MULTI_GPU, num_machines: 3, main_process_ip: a, main_process_port: 1}", 4, "be shared"),
        ("{distributed_type: MULTI_GPU, num_machines: 2}", 2, "'main_process_ip'"),
        ("{distributed_type: MULTI_GPU, compute_environment: AMAZON_SAGEMAKER}", 2, "'compute_environment'"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str, processes: int, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_processes(file, processes)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_a_missing_file_is_found_out_with_the_configuration(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text("distill: {ppo: {processes: 2, accelerate: nowhere.yaml}}")
    with pytest.raises(InputError, match=r"nowhere.yaml: the file that 'distill.ppo.accelerate' names"):
        load_config(run)


@pytest.mark.parametrize("key", ["surprise: 1", "fsdp_config: {fsdp_versoin: 2}"])
def test_what_accelerate_does_not_know_is_refused(tmp_path: Path, key: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\n{key}\n")
    with pytest.raises(InputError, match="accelerate"):
        check_with_accelerate(file)


def alike(one: Path, two: Path) -> None:
    for file in one.glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(two / file.name)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.allclose(tensor, theirs[name], atol=2e-3), name


WAYS = [("ddp", LORA)]  # FSDP2: with weights in pieces, below
IN_PIECES = ["fsdp2"]
if find_spec("deepspeed") is not None:  # on a CPU with DS_ACCELERATOR=cpu
    IN_PIECES += ["zero3"]
    WAYS += [("zero2", LORA), ("zero3", LORA), ("zero3", FULL)]


@pytest.mark.parametrize(("stem", "adapter"), WAYS, ids=lambda each: getattr(each, "method", each))
def test_two_processes_from_a_file_learn_what_one_learns(
    base: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: str, adapter: AdapterConfig
) -> None:
    """accelerate's own launcher, on a CPU with gloo."""
    if stem != "ddp":
        monkeypatch.setattr(launch, "MODULE", "tests.distill.sharded")
    file = next(file for file in FILES if file.stem == stem)
    one = train_ppo(base, None, reward, digits(), adapter, SHORT, tmp_path / "one", 1, silent)
    settings = SHORT.model_copy(update={"processes": 2, "accelerate": file})
    two = train_in_processes(base, None, reward, digits(), adapter, settings, tmp_path / "two", 1, silent)
    for name in ("reward_before", "reward_after", "kl", "entropy"):
        assert two[name] == pytest.approx(one[name], abs=0.02), name
    alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("stem", IN_PIECES)
def test_weights_in_pieces_carry_on_and_go_back(
    base: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: str
) -> None:
    """Interrupted after three updates; later the throttle puts all pieces back, and that is what is written."""
    monkeypatch.setattr(launch, "MODULE", "tests.distill.sharded")
    bound = {"episodes": 640, "critic_warmup": 0, "learning_rate": 1e-4, "max_kl": 0.05, "kl_coefficient": 0.0}
    alone = SHORT.model_copy(update=bound)
    one = train_ppo(base, None, reward, digits(), FULL, alone, tmp_path / "one", 1, silent)
    assert one["throttled"] and one["episodes"] > 5 * SHORT.batch
    file = next(file for file in FILES if file.stem == stem)
    settings, state = alone.model_copy(update={"processes": 2, "accelerate": file}), tmp_path / "state"

    def interrupt(done: int, total: int) -> None:
        if done >= 4 * SHORT.batch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in_processes(base, None, reward, digits(), FULL, settings, tmp_path / "two", 1, interrupt, state)
    begun: list[int] = []
    two = train_in_processes(
        base, None, reward, digits(), FULL, settings, tmp_path / "two", 1, lambda d, _: begun.append(d), state
    )
    assert begun[0] > 2 * SHORT.batch or stem == "zero3"  # which begins again
    assert two["throttled"] and two["episodes"] == one["episodes"]
    for name in ("reward_before", "reward_after", "kl", "entropy"):
        assert two[name] == pytest.approx(one[name], abs=0.02), name
    alike(tmp_path / "one", tmp_path / "two")


def test_nothing_goes_on_when_a_training_is_interrupted(
    base: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where accelerate's launcher would leave its process to itself."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = SHORT.model_copy(update={"accelerate": next(file for file in FILES if file.stem == "one_gpu")})
    started: list[str] = []

    def interrupt(done: int, total: int) -> None:
        started.extend(running(tmp_path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in_processes(base, None, reward, digits(), LORA, settings, tmp_path / "one", 1, interrupt)
    assert len(started) == 2  # the launcher and what it launched
    assert not running(tmp_path)


def running(folder: Path) -> list[str]:
    """Command lines of the processes that work on a file in this folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_text(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_another_machine_takes_part(base: Path, reward: Path, tmp_path: Path) -> None:
    """Two launchers with a process each stand for two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    template = next(file for file in FILES if file.stem == "several_nodes").read_text()
    file = tmp_path / "several.yaml"
    file.write_text(template.replace("29500", str(port)))
    settings = SHORT.model_copy(update={"processes": 2, "accelerate": file})
    run = tmp_path / "run"
    state, done = run / "generation-0" / "agent.state", dict[str, Any]()

    def first() -> None:
        done.update(
            train_in_processes(base, None, reward, digits(), LORA, settings, tmp_path / "two", 1, silent, state)
        )

    machine = threading.Thread(target=first)
    machine.start()
    while not list(waiting(run)):
        machine.join(0.05)
    take_part(next(waiting(run)), machine=1)
    machine.join()
    assert done["episodes"] == 96
    assert not list(waiting(run))
    train_ppo(base, None, reward, digits(), LORA, SHORT, tmp_path / "one", 1, silent)
    alike(tmp_path / "one", tmp_path / "two")


def test_joining_what_is_no_run_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert join([str(tmp_path), "--machine", "1"]) == 2
    assert "there is no run here" in capsys.readouterr().err
