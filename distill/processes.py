"""Processes: how accelerate starts those that share PPO's batches, as one of its own configuration files says."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from amplification.errors import InputError

REMEDY = "start from a file in configs/accelerate"
# One machine or several, weights whole or in pieces. Not what accelerate has beyond that: nobody has tried PPO on it.
KINDS = ("NO", "MULTI_GPU", "FSDP", "DEEPSPEED")
# Those whose optimizer sees pieces of matrices, and not matrices.
IN_PIECES = ("FSDP", "DEEPSPEED")
SECTIONS = {"fsdp_config": "fsdp_", "deepspeed_config": "", "dynamo_config": "dynamo_", "mpirun_config": ""}


@dataclass(frozen=True)
class Processes:
    """What an accelerate file says about processes. `machines` share them evenly; `port` is that of the first one."""

    file: Path
    kind: str
    machines: int = 1
    port: int | None = None

    def command(self, processes: int, module: str, job: Path, machine: int = 0) -> list[str]:
        """What starts this machine's part of `processes`, each of which runs `python -m module job`."""
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(self.file)]
        if self.machines > 1:
            launcher += ["--machine_rank", str(machine)]
        return [*launcher, "--num_processes", str(processes), "--module", module, str(job)]


def read_processes(file: Path, processes: int) -> Processes:
    """What a file says, if `processes` of them can be started so. Loads nothing heavy: see `check_with_accelerate`.

    Raises InputError for a file that is missing, is no YAML, or asks for something else.
    """
    given = _mapping(file)
    kind = str(given.get("distributed_type", "")).upper()
    if kind not in KINDS:
        problem = f"'distributed_type' is '{given.get('distributed_type')}', and PPO runs with {', '.join(KINDS)}"
        raise InputError(file, problem, REMEDY)
    if str(given.get("compute_environment", "LOCAL_MACHINE")) != "LOCAL_MACHINE":
        raise InputError(file, "'compute_environment' is not LOCAL_MACHINE", REMEDY)
    machines, own = (_number(file, given, key, 1) for key in ("num_machines", "num_processes"))
    if "num_processes" in given and own != processes:
        problem = f"'num_processes' is {own}, and 'distill.ppo.processes' is {processes}"
        raise InputError(file, problem, "make them the same, or leave it out here")
    if kind == "NO" and processes > 1:
        problem = f"'distributed_type' is 'NO', which starts one process, and 'distill.ppo.processes' is {processes}"
        raise InputError(file, problem, "set it to MULTI_GPU, or use configs/accelerate/ddp.yaml")
    if processes % machines or processes < machines:
        problem = f"{processes} processes ('distill.ppo.processes') cannot be shared by 'num_machines' {machines}"
        raise InputError(file, problem, "make one a multiple of the other")
    if machines > 1 and not (given.get("main_process_ip") and given.get("main_process_port")):
        problem = f"'num_machines' is {machines}, and 'main_process_ip' or 'main_process_port' is missing"
        raise InputError(file, problem, "give the first machine's address and a free port there")
    return Processes(file, kind, machines, given.get("main_process_port"))


def check_with_accelerate(file: Path) -> Namespace:
    """The launcher's arguments as accelerate reads them from the file. Raises InputError for what it does not know.

    Accelerate itself passes over keys of a section (`fsdp_config`) that it does not know; here they are refused.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    try:
        config = load_config_from_file(str(file))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(file, f"accelerate refuses it ({' '.join(str(error).split())[:160]})", REMEDY) from None
    if config.distributed_type == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise InputError(file, "deepspeed is not installed", "install it, or use configs/accelerate/fsdp2.yaml")
    known: Namespace = launch_command_parser().parse_args(["--module", "distill.launch"])
    for section, prefix in SECTIONS.items():
        for key in getattr(config, section) or {}:
            name = key if key.startswith(prefix) else prefix + key
            if not hasattr(known, name):
                raise InputError(file, f"accelerate knows no key '{section}.{key}'", "correct or remove it")
    return known


def _mapping(file: Path) -> dict[str, Any]:
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"the file that 'distill.ppo.accelerate' names cannot be read ({error.strerror})"
        raise InputError(file, problem, REMEDY) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(file, f"this is not YAML ({' '.join(str(error).split())[:120]})", REMEDY) from None
    if not isinstance(given, dict):
        raise InputError(file, "the file must hold keys with values", REMEDY)
    return given


def _number(file: Path, given: dict[str, Any], key: str, default: int) -> int:
    value = given.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(file, f"'{key}' must be a whole number from 1 up, got {value!r}", "correct the value")
    return value
