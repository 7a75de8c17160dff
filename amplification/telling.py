"""Telling: whatever goes wrong becomes one line on standard error and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from amplification.errors import AmplifyError

INTERRUPTED = 130


@dataclass
class Ended:
    """How a command ended: 0 done, 1 failed, 2 bad input, 130 interrupted."""

    code: int = 0


@contextmanager
def told() -> Iterator[Ended]:
    """Errors that a person can do something about end here; a mistake in this program goes on as a traceback."""
    ended = Ended()
    try:
        yield ended
    except KeyboardInterrupt:
        message = "interrupted; what is finished is kept, and the same command carries on from there"
        ended.code = _tell(message, INTERRUPTED)
    except AmplifyError as error:
        ended.code = _tell(str(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read our output is gone; without this, Python complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ended.code = 1
    except OSError as error:
        ended.code = _tell(_about(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        ended.code = _tell(f"out of memory{_detail(error)}; make the model or the batches smaller", 1)


def _tell(message: str, code: int) -> int:
    line = "".join(char if char.isprintable() else " " for char in " ".join(message.split()))
    print(f"amplify: {line}", file=sys.stderr)
    return code


def _detail(error: BaseException) -> str:
    first = str(error).strip().split("\n")[0]
    return f" ({first[:200]})" if first else ""


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    # By name, so that torch need not be imported: its OutOfMemoryError is a RuntimeError, and on a CPU there is no
    # class of its own for a failed allocation.
    by_name = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or by_name


def _about(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{name}the disk is full; free some space and run the same command again"
    return f"{name}{error.strerror or error}; check the path and its permissions"
