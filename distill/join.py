"""Join: another machine takes part in a run's PPO, as the run's accelerate file has it (`num_machines`).

python -m distill.join RUN --machine 1     on each machine but the first, where `amplify run` is
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from amplification.errors import AmplifyError, InputError
from distill.config import PPOSettings
from distill.launch import JOB, MODULE, follow
from distill.processes import read_processes
from distill.progress import silent

PAUSE_S = 2.0


class Job(NamedTuple):
    """One PPO training that waits for this machine; `id` tells it from a later one at the same place."""

    id: str
    file: Path
    settings: PPOSettings


def join(run: Path, machine: int) -> None:
    """Take part in each PPO training of the run in turn, until it has its report.

    Raises InputError for a folder that is no run and for a machine that its accelerate file does not have. A training
    that fails is told and the next one waited for: the first machine says what became of the run.
    """
    if not (run / "config.yaml").is_file():
        raise InputError(run, "there is no run here", "start it on the first machine, in a folder that both see")
    done: set[str] = set()
    while not (run / "report.json").is_file():
        for job in waiting(run):
            if job.id not in done:
                done.add(job.id)
                take_part(job, machine)
        time.sleep(PAUSE_S)


def waiting(run: Path) -> Iterator[Job]:
    """The trainings that the first machine has begun. One that ends while it is read counts as not there."""
    for file in sorted(run.glob(f"*/*/job/{JOB}")):
        try:
            given: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        yield Job(str(given["id"]), file, PPOSettings.model_validate(given["settings"]))


def take_part(job: Job, machine: int) -> None:
    """This machine's processes, to their end. Raises InputError for a machine that is not in the accelerate file."""
    if job.settings.accelerate is None:
        raise InputError(job.file, "this run has no accelerate file", "set 'distill.ppo.accelerate'")
    plan = read_processes(job.settings.accelerate, job.settings.processes)
    if not 0 < machine < plan.machines:
        problem = f"'num_machines' is {plan.machines}, so there is no machine {machine} to join"
        raise InputError(plan.file, problem, f"give --machine a number from 1 to {plan.machines - 1}")
    print(f"taking part in {job.file.parent.parent.stem}", flush=True)
    command = plan.command(job.settings.processes, MODULE, job.file, machine)
    try:
        follow(command, job.file.parent, silent, job.settings.episodes)
    except AmplifyError as error:
        print(f"amplify: {error}", flush=True)


def main(args: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m distill.join", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--machine", type=int, required=True, help="this machine's number, from 1 up")
    given = parser.parse_args(args)
    try:
        join(given.run, given.machine)
    except AmplifyError as error:
        print(f"amplify: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
