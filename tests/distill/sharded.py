"""One process's part of a PPO job whose weights are sharded, on a CPU: python -m tests.distill.sharded JOB.json

accelerate shards weights (FSDP2) only where it finds GPUs. Here it is told that this is such a machine, with gloo
between the processes and the CPU as the device; all that follows is accelerate's and torch's own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from accelerate.state import DistributedType, PartialState

from distill.launch import run_job

if __name__ == "__main__":
    del os.environ["ACCELERATE_USE_CPU"]
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
    run_job(Path(sys.argv[1]))
