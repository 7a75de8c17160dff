"""Memory that does not suffice: fewer rows at once, and the batch stays what it is."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from amplification.errors import StageError

T = TypeVar("T")


class OutOfMemory(StageError):
    """The device's memory did not suffice for so many rows at once, and here nothing can be done about it."""

    def __init__(self, rows: int) -> None:
        if rows == 1:
            said = "out of memory with one row at once; take a smaller model, or distill.adapter.method lora"
        else:  # processes that wait for each other, which only PPO has
            remedy = f"set distill.ppo.part to {rows // 2} and run again, which carries on"
            said = f"out of memory with {rows} rows at once; {remedy}"
        super().__init__(said)


class Part:
    """How many rows (in PPO: prompts with their answers) go through the model together."""

    def __init__(self, rows: int, alone: bool = True) -> None:
        """`alone`: no other process waits for this one, so that it may do a step over again."""
        self.rows, self.alone = rows, alone

    def fitting(self, work: Callable[[], T]) -> T:
        """Do `work`, which reads `rows`; over again with half of them for as long as memory does not suffice.

        Raises OutOfMemory with one row, or where other processes are in the middle of the same work.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                failed = self.rows
            # Here, where the failed work's tensors are no longer held by its traceback.
            if failed == 1 or not self.alone:
                raise OutOfMemory(failed)
            gc.collect()
            torch.cuda.empty_cache()
            self.rows = failed // 2
            said = f"out of memory with {failed} rows at once; it goes on with {self.rows}"
            warnings.warn(f"{said}, and its batch stays the same", RuntimeWarning, stacklevel=2)
