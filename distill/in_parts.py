"""Training on a batch in parts: each has a backward pass of its own, so that memory is that of one part.

Where memory does not suffice, the parts are halved and the step is done over again; what the step sums up, and so what
is learned, stays the same but for rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distill.memory import Part


@dataclass(frozen=True)
class Batch:
    """The rows of a batch, sorted by length. Libraries that move a batch to a device leave it alone."""

    rows: list[Any]

    def parts(self, most: int) -> list[list[Any]]:
        """The rows in their order, at most so many together."""
        return [self.rows[start : start + most] for start in range(0, len(self.rows), most)]


class InParts(ABC):
    """What a trainer of transformers takes its steps by; its collator gives {"batch": Batch}.

    To be named before the trainer's class. `part`: rows that go through the model together at first.
    """

    accelerator: Any
    compute_loss_context_manager: Any

    def __init__(self, *args: Any, part: int, **kwargs: Any) -> None:
        self.part = Part(part)
        super().__init__(*args, **kwargs)

    @abstractmethod
    def count(self, rows: Sequence[Any]) -> int:
        """What the batch's loss is a mean over."""

    @abstractmethod
    def loss_of(self, model: Any, rows: Sequence[Any]) -> torch.Tensor:
        """The sum of the losses of some rows."""

    def begin(self, model: Any) -> None:
        """Forget what the first parts of a step left for which memory did not suffice."""
        model.zero_grad()

    def training_step(self, model: Any, inputs: dict[str, Batch], num_items_in_batch: Any = None) -> torch.Tensor:
        """Add up the gradients of the batch's mean loss, and return it.

        Raises OutOfMemory if memory does not suffice for one row.
        """
        batch = inputs["batch"]
        count = self.count(batch.rows)
        model.train()

        def step() -> torch.Tensor:
            self.begin(model)
            total = torch.zeros((), device=model.device)
            # From the last to the first, as one backward pass over all of them would add their gradients up.
            for rows in reversed(batch.parts(self.part.rows)):
                with self.compute_loss_context_manager():
                    loss = self.loss_of(model, rows) / count
                self.accelerator.backward(loss)
                total += loss.detach()
            return total

        return self.part.fitting(step)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None counted here: the ledger counts tokens."""
        return 0
