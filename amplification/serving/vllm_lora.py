"""LoRA on a CPU, by adapter instead of by token.

vLLM 0.27's CPU kernels copy an adapter's matrices for every token of the batch: at rank 64 that is some forty times
slower than the model itself. And a token without an adapter takes the last slot's, since its slot number is -1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]
    """Two plain matrix products for each adapter that is in the batch, over that adapter's tokens alone."""

    # (slot, the rows of the batch that it applies to; None for all of them)
    groups: tuple[tuple[int, torch.Tensor | None], ...] = ()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Called once a step, before the layers run."""
        super().update_metadata(*args, **kwargs)
        slots = self.token_lora_indices
        present = torch.unique(slots).tolist()
        self.groups = tuple(
            (slot, None if len(present) == 1 else (slots == slot).nonzero().squeeze(1)) for slot in present if slot >= 0
        )

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """y [tokens, out] += scale * x [tokens, in] @ A^T @ B^T, slice by slice of the fused outputs."""
        for slot, rows in self.groups:
            inputs = x if rows is None else x[rows]
            start = 0
            for down, up, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                hidden = inputs @ down[slot, 0].t()
                part = y[:, start : start + width]
                if rows is None:
                    part.addmm_(hidden, up[slot, 0].t(), alpha=scale)
                else:
                    part.index_add_(0, rows, hidden @ up[slot, 0].t(), alpha=scale)
                start += width


@contextmanager
def grouped_lora() -> Iterator[None]:
    """Engines started inside apply adapters with `GroupedLora`."""
    original = CpuPlatform.get_punica_wrapper
    CpuPlatform.get_punica_wrapper = classmethod(lambda cls: f"{__name__}.{GroupedLora.__name__}")
    try:
        yield
    finally:
        CpuPlatform.get_punica_wrapper = original
