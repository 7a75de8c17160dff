"""Relay: what the processes of a job tell the one that follows them: how far they are, warnings, why they failed.

They write lines, which the follower reads. An error of ours is a file beside the job as well: a launcher ends with
exit code 1 whatever its processes ended with. And where the follower is gone, they end, and so does their launcher:

python -m distill.relay MODULE ...     `python -m MODULE ...`, which ends when its follower does
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from amplification.errors import AmplifyError, InputError, ServingError, StageError
from distill.stage import write_atomically

# Set for the processes of a job whose standard input is a pipe that the follower holds.
FOLLOWED = "AMPLIFY_FOLLOWED"
WARNING = "amplify warning: "
ERROR = "amplify: "
OURS = tuple(Path(__file__).resolve().parents[1] / package for package in ("amplification", "distill"))


def answer_to_follower() -> None:
    """In a process that is followed: pass our own warnings on, and end when the follower does, however it ends."""
    if FOLLOWED not in os.environ:
        return
    end_with_follower()
    others = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is RuntimeWarning and any(Path(filename).is_relative_to(folder) for folder in OURS):
            print(WARNING + " ".join(str(message).split()), flush=True)
        else:
            others(message, category, filename, lineno, file, line)

    warnings.showwarning = show


def end_with_follower() -> None:
    """Launchers hand their standard input on, and its other end closes when the follower is killed, too."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def tell_error(error: AmplifyError, folder: Path) -> None:
    """Say why this process ends, and leave it in the job's folder."""
    print(f"{ERROR}{error}", flush=True)
    if isinstance(error, InputError):
        told = {"where": error.where, "problem": error.problem, "remedy": error.remedy}
    else:
        told = {"message": str(error), "kind": "serving" if isinstance(error, ServingError) else "stage"}
    with suppress(OSError):
        write_atomically(folder / f"error-{os.environ.get('RANK', '0')}.json", json.dumps(told))


def told_error(folder: Path) -> AmplifyError | None:
    """The error of the process that failed first, as it was raised there; None if no process left one."""
    try:
        files = sorted(folder.glob("error-*.json"), key=lambda file: file.stat().st_mtime_ns)
        if not files:
            return None
        told: dict[str, Any] = json.loads(files[0].read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the first machine has taken the job away
        return None
    if "remedy" in told:
        return InputError(told["where"], told["problem"], told["remedy"])
    return ServingError(told["message"]) if told["kind"] == "serving" else StageError(told["message"])


if __name__ == "__main__":
    end_with_follower()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
