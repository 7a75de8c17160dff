"""Stages of a run: each writes one folder, is skipped when that folder is complete, and can be killed at any time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from safetensors import SafetensorError

from amplification.errors import AmplifyError, InputError, StageError
from distill.progress import Progress, Reporter

RUN_FORMAT = 1
DONE = "done.json"
# PPO's settings that say what it has to compute with, and not what is computed.
RESOURCES = ("processes", "accelerate", "part", "gradient_checkpointing", "rollouts_sleep", "checkpoint_seconds")

Metrics = dict[str, Any]
Work = Callable[[Path, Progress], Metrics]


@dataclass(frozen=True)
class Done:
    """What a complete stage left: its folder, what it measured, how long it took."""

    folder: Path
    metrics: Metrics
    seconds: float


class RunFolder:
    """A folder that holds a run. Raises InputError if it was made by another configuration or a newer version."""

    def __init__(self, folder: Path, config: BaseModel, reporter: Reporter) -> None:
        self.folder, self.config, self.reporter = folder, config, reporter
        _claim(folder, config)

    def stage(self, name: str, work: Work) -> Done:
        """Do `work(folder, progress)` once and for all. What it writes appears under its name only when complete.

        Raises StageError naming the stage if the work fails; what earlier stages wrote stays valid.
        """
        folder = self.folder / name
        if folder.exists():
            done = read_done(folder)
            self.reporter.skipped(name)
            return done
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self.reporter.started(name)
        started = time.monotonic()
        try:
            metrics = work(partial, self.reporter.progress)
        except AmplifyError:
            raise
        except (OSError, MemoryError, RuntimeError, SafetensorError) as error:
            raise StageError(f"{self.folder}: stage {name} failed ({_reason(error)}); {_remedy(error)}") from error
        seconds = time.monotonic() - started
        _write_done(partial, metrics, seconds)
        partial.replace(folder)
        shutil.rmtree(state_of(folder), ignore_errors=True)
        self.reporter.finished(name, seconds, metrics)
        return Done(folder, metrics, seconds)


def state_of(folder: Path) -> Path:
    """Where a stage may keep what it needs to carry on after a kill; gone when the stage is complete.

    Takes the stage's folder or the one that its work is given.
    """
    return folder.with_name(folder.name.removesuffix(".partial") + ".state")


def read_done(folder: Path) -> Done:
    """Read a complete stage and check that its files are those it wrote. Raises InputError if they are not."""
    path = folder / DONE
    remedy = f"delete {folder} and run again"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files, metrics, seconds = record["files"], record["metrics"], float(record["seconds"])
    except FileNotFoundError as error:
        raise InputError(path, "the stage's record is missing", remedy) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, "the stage's record is damaged", remedy) from error
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(file, "the file is missing", remedy)
        if _file_digest(file) != expected:
            raise InputError(file, "the file is not what the stage wrote (truncated or changed)", remedy)
    return Done(folder, metrics, seconds)


def _write_done(folder: Path, metrics: Metrics, seconds: float) -> None:
    files = {str(f.relative_to(folder)): _file_digest(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    record = {"metrics": metrics, "seconds": seconds, "files": files}
    write_atomically(folder / DONE, json.dumps(record, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, whole."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _file_digest(path: Path) -> str:
    h = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()


def _reason(error: BaseException) -> str:
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _remedy(error: BaseException) -> str:
    # safetensors has no error number, only what the system said.
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    what = "the disk is full, make room" if full else "mend it"
    return f"{what} and run the same command"


def _claim(folder: Path, config: BaseModel) -> None:
    """Make the folder this configuration's, or check that it already is."""
    path = folder / "config.yaml"
    mine: dict[str, Any] = {"format": RUN_FORMAT, "config": config.model_dump(mode="json")}
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, yaml.safe_dump(mine, sort_keys=False))
        except OSError as error:
            raise InputError(
                folder, f"cannot be written ({error.strerror})", "choose another folder with --out"
            ) from error
        return
    theirs = read_run_config(path)
    made, wanted = _what_counts(theirs["config"]), _what_counts(mine["config"])
    if made != wanted:
        key, old, new = next(_differences(made, wanted))
        problem = f"this run was made by another configuration ({key} was {old}, now {new})"
        raise InputError(path, problem, "choose another folder with --out, or delete this one")


def read_run_config(path: Path) -> dict[str, Any]:
    """The record of what a run was made with. Raises InputError if it is missing, damaged or from a newer version."""
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = int(record["format"])
        record["config"].items()
    except FileNotFoundError as error:
        raise InputError(path, "there is no run here", "give the folder of a run, for example runs/demo") from error
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(path, "the run's configuration is damaged", "restore it, or delete the run folder") from error
    if found > RUN_FORMAT:
        raise InputError(
            path, f"format {found} is newer than this version reads ({RUN_FORMAT})", "upgrade this package"
        )
    return dict(record)


def _what_counts(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what changes no result, or its rounding alone: where a server is and how patient we are
    with it, how much memory is taken, how many processes PPO has and how they are started."""
    kept = {**config, "serving": _without(config.get("serving"), "http", "kv_cache_gib")}
    if isinstance(config.get("distill"), dict):
        kept["distill"] = {**config["distill"], "ppo": _without(config["distill"].get("ppo"), *RESOURCES)}
    return kept


def _without(section: Any, *names: str) -> Any:
    return {key: value for key, value in section.items() if key not in names} if isinstance(section, dict) else section


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix, old, new


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process alone; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(folder, "another process is working on this run", "wait for it, or use --out") from error
        yield
