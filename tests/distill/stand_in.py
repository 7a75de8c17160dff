"""One process's part of a job that trains nothing: python -m tests.distill.stand_in JOB.json

What it does instead is the job's first question: `warn`, `refuse` (bad input, found out by the second process alone),
`break` (an error that is not ours) or `wait` (for ever, once it has told that it is there).
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path

from amplification.errors import InputError
from distill import launch, memory


def work(job: Path) -> None:
    given = json.loads(job.read_text(encoding="utf-8"))
    main, what = os.environ["RANK"] == "0", given["questions"][0]
    if what == "warn":
        warnings.warn_explicit("there is less\nmemory than before", RuntimeWarning, memory.__file__, 1)
        warnings.warn_explicit("a library's own business", RuntimeWarning, os.__file__, 1)
        warnings.warn_explicit("a library's business with us", UserWarning, memory.__file__, 1)
        if main:
            Path(given["result"]).write_text(json.dumps({"episodes": 0}), encoding="utf-8")
        return
    if what == "refuse" and not main:
        raise InputError("distill.ppo.part", "it is bad", "mend it")
    if what == "break" and main:
        raise RuntimeError("something broke")
    if main:
        print(32, flush=True)
    time.sleep(600)


if __name__ == "__main__":
    launch.work = work
    launch.run_job(Path(sys.argv[1]))
