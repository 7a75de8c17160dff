"""Launch: PPO in several processes, through accelerate. The iteration starts them itself; nobody types a launcher.

python -m distill.launch JOB.json     what each process runs
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from amplification.errors import AmplifyError, InputError, StageError
from amplification.serving.config import ServingConfig
from distill.config import AdapterConfig, PPOSettings
from distill.practice import Prompt
from distill.processes import Processes, read_processes
from distill.progress import Progress
from distill.relay import ERROR, FOLLOWED, WARNING, answer_to_follower, tell_error, told_error
from distill.stage import write_atomically

# Lines of what the processes wrote that are kept, to tell why they failed.
LINES_KEPT = 200
MODULE = "distill.launch"
JOB = "job.json"


class ProcessFailedError(StageError):
    """A process ended for a reason that is no error of ours; the message is what the processes wrote of it."""


def train_in_processes(
    base: str | Path,
    adapter_in: str | Path | None,
    reward_folder: str | Path,
    questions: Sequence[str | Prompt],
    adapter_config: AdapterConfig,
    settings: PPOSettings,
    out: str | Path,
    seed: int,
    progress: Progress,
    state: Path | None = None,
    attack_share: float = 0.5,
    serving: ServingConfig | None = None,
) -> dict[str, Any]:
    """`distill.ppo.train_ppo` in `settings.processes` processes; what it learns is the same within rounding.

    They are started as `settings.accelerate` says, or on this machine alone. Where that names several machines, the job
    is a file in `state`, which the others must see (`distill.join`).
    Raises InputError for a bad accelerate file or if the batch cannot be shared out, whatever `train_ppo` raises in a
    process, and StageError if a process dies. The others are then ended, and the last written state is kept.
    """
    if settings.batch % (settings.processes * settings.answers):
        problem = f"'distill.ppo.batch' is {settings.batch}, which {settings.processes} processes cannot share"
        raise InputError("configuration", problem, "make one a multiple of the other")
    plan = read_processes(settings.accelerate, settings.processes) if settings.accelerate else None
    with _job_folder(state if plan and plan.machines > 1 else None) as folder:
        job, result = folder / JOB, folder / "metrics.json"
        write_atomically(
            job,
            json.dumps(
                {
                    "id": uuid4().hex,
                    "base": str(base),
                    "adapter_in": str(adapter_in) if adapter_in else None,
                    "reward_folder": str(reward_folder),
                    "questions": list(questions),
                    "adapter_config": adapter_config.model_dump(mode="json"),
                    "settings": settings.model_dump(mode="json"),
                    "out": str(out),
                    "seed": seed,
                    "state": str(state) if state else None,
                    "attack_share": attack_share,
                    "serving": (serving or ServingConfig()).model_dump(mode="json"),
                    "result": str(result),
                }
            ),
        )
        start = plan.command(settings.processes, MODULE, job) if plan else _command(settings.processes, job)
        _give_memory_back()
        try:
            follow(start, folder, progress, settings.episodes)
        except ProcessFailedError as error:
            raise StageError(f"{error}; {_what_is_left(state, plan)}") from error
        if not result.is_file():
            raise StageError("PPO's processes ended without a result")
        metrics: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return metrics


@contextmanager
def _job_folder(state: Path | None) -> Iterator[Path]:
    """Where a job's files are: in `state`, which other machines see too, or on this machine alone; gone afterwards."""
    if state is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    folder = state / "job"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(processes: int, job: Path) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, "-m", MODULE, str(job)]


def _give_memory_back() -> None:
    """What this process's libraries keep of the GPU for later is the main one of PPO's processes' now."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _what_is_left(state: Path | None, plan: Processes | None) -> str:
    """What the same command begins with, after a process has died."""
    from distill.ppo_state import found

    carries_on = plan is None or plan.kind != "DEEPSPEED"  # see `distill.resume`
    if carries_on and state is not None and found(state):
        return "what it had learned is kept, and the same command carries on from there"
    return "none of what it had learned is kept, and the same command begins this stage again"


def follow(command: Sequence[str], folder: Path, progress: Progress, episodes: int) -> None:
    """Start the processes of the job in `folder` and see them to their end, with their progress and warnings.

    `command` is a launcher as `python -m` starts it. Lines that are a number alone are the episodes done so far. If the
    processes fail, raises the error that one of them has told, ProcessFailedError with what they said if none has.
    Whatever ends this function early, or this whole process, ends them, too.
    """
    said, warned = list[str](), set[str]()
    python, option, *launcher = command
    with subprocess.Popen(
        [python, option, "distill.relay", *launcher],
        env=_environment(),
        stdin=subprocess.PIPE,  # nothing is written; see `distill.relay`
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,  # not every launcher of accelerate's ends what it started
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                warning = line.partition(WARNING)[2].strip()
                if line.strip().isdecimal():
                    progress(int(line), episodes)
                elif warning and warning not in warned:  # each process may say the same
                    warned.add(warning)
                    warnings.warn(warning, RuntimeWarning, stacklevel=2)
                elif line.strip():
                    said = [*said[-LINES_KEPT:], line.strip()]
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode != 0:
        raise _failure(folder, said, process.returncode)


def _environment() -> dict[str, str]:
    import torch

    environment = {**os.environ, FOLLOWED: "1"}
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
    environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def _failure(folder: Path, said: Sequence[str], code: int) -> AmplifyError:
    """Unless a process was killed, the others fail because the first one has, so its error is the reason."""
    return told_error(folder) or ProcessFailedError(f"a process of PPO failed (exit code {code}): {_reason(said)}")


def _reason(said: Sequence[str]) -> str:
    """What the processes said of their end: our own line, the launcher's about one that was killed, or the last line of
    the first traceback. When one is killed the others complain of a closed connection, and whichever is the first to
    end, the launcher ends the others (SIGTERM), which is the reason only where there is no other."""
    signals = [match[0] for line in said if (match := re.search(r"Signal \d+ \(\w+\) received by PID \d+", line))]
    killed = [told for told in signals if "SIGTERM" not in told]
    ours = [line.partition(ERROR)[2] for line in said if ERROR in line]
    errors = [line for line in said if re.match(r"(\[rank\d+\]: )?[A-Za-z_.]*(Error|Exception)\b", line)]
    return (ours or killed or errors or signals or list(said[-1:]) or ["it said nothing"])[0][:300]


def work(job: Path) -> None:
    """One process's part of a job; the main one writes the agent and the metrics."""
    from distill.ppo import train_ppo

    given = json.loads(job.read_text(encoding="utf-8"))
    main = os.environ.get("RANK", "0") == "0"

    def progress(done: int, total: int) -> None:
        if main:
            print(done, flush=True)

    metrics = train_ppo(
        given["base"],
        given["adapter_in"],
        given["reward_folder"],
        [each if isinstance(each, str) else Prompt(*each) for each in given["questions"]],
        AdapterConfig.model_validate(given["adapter_config"]),
        PPOSettings.model_validate(given["settings"]),
        given["out"],
        given["seed"],
        progress,
        Path(given["state"]) if given["state"] else None,
        attack_share=given["attack_share"],
        serving=ServingConfig.model_validate(given["serving"]),
    )
    if main:
        partial = Path(given["result"]).with_suffix(".partial")
        partial.write_text(json.dumps(metrics), encoding="utf-8")
        partial.replace(given["result"])


def run_job(job: Path) -> None:
    """`work`, whose failure is one line, a file beside the job and an exit code."""
    answer_to_follower()
    try:
        work(job)
    except AmplifyError as error:
        tell_error(error, job.parent)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run_job(Path(sys.argv[1]))
