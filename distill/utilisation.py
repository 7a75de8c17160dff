"""Utilisation: what a training asks of its device, beside what the device can do."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

GIB = 2**30
# Multiplied to see what a device can do: large enough to fill it, done in well under a second.
WIDTH_GPU, WIDTH_CPU, TIMES = 8_192, 512, 10


@dataclass
class Peak:
    """The most bytes that tensors took of the GPU's memory; None on a CPU, where nobody keeps count."""

    bytes: int | None = None


def device() -> torch.device:
    """Where a training in one process runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Tells, after its end, the peak inside."""
    peak = Peak()
    gc.collect()  # what earlier trainings have left in cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield peak
    if torch.cuda.is_available():
        peak.bytes = torch.cuda.max_memory_allocated()


def work_of(tokens: int, parameters: int, trained: int, epochs: int) -> float:
    """Multiplications and additions of a PPO on so many tokens: of rollouts, the reference and `epochs` of training.

    Two a parameter and token forward and two back through it, and two more for the gradient of one that is trained.
    """
    forward = 2 * 2 * parameters
    return float(tokens) * (forward + epochs * (4 * parameters + 2 * trained))


def matmul_flops(dtype: torch.dtype) -> float:
    """Multiplications and additions a second, the best of several products of two large square matrices."""
    where = device()
    width = WIDTH_CPU if where.type == "cpu" else WIDTH_GPU
    one, other = (torch.randn(width, width, device=where, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(TIMES + 1):
        began = time.perf_counter()
        one @ other
        if where.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * width**3 / min(seconds[1:])
