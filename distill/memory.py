"""Memory that does not suffice: fewer prompts at once, and the batch stays what it is."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from amplification.errors import StageError

T = TypeVar("T")


class OutOfMemory(StageError):
    """The device's memory did not suffice for `part` prompts at once, and here nothing can be done about it."""

    def __init__(self, part: int) -> None:
        self.part = part
        remedy = f"set distill.ppo.part to {part // 2}" if part > 1 else "use a smaller model or a larger device"
        super().__init__(f"out of memory with {part} rows at once; {remedy} and run again, which carries on")


class Part:
    """How many prompts go through the model together."""

    def __init__(self, prompts: int, alone: bool) -> None:
        """`alone`: no other process waits for this one, so that it may do a step over again."""
        self.prompts, self.alone = prompts, alone

    def fitting(self, work: Callable[[], T]) -> T:
        """Do `work`, which reads `prompts`; over again with half of them for as long as memory does not suffice.

        Raises OutOfMemory with one prompt, or where other processes are in the middle of the same work.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                failed = self.prompts
            # Here, where the failed work's tensors are no longer held by its traceback.
            if failed == 1 or not self.alone:
                raise OutOfMemory(failed)
            gc.collect()
            torch.cuda.empty_cache()
            self.prompts = failed // 2
            said = f"out of memory with {failed} rows at once; it goes on with {self.prompts}"
            warnings.warn(f"{said}, and its batch stays the same", RuntimeWarning, stacklevel=2)
