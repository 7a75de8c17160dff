"""Muon: torch's, with all matrices of one shape orthogonalized at once.

A tiny model has a matrix multiplication's work in microseconds, and torch's loop over 21 matrices spends its time on
calls. What comes out is the same, to the bit where a batched product rounds as a single one does.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with Nesterov's momentum and steps that match AdamW's in size ("match_rms_adamw").

    Source: K. Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024); J. Liu et al., "Muon is
    scalable for LLM training" (arXiv 2502.16982, 2025), section 2.2, for the size of a step.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved: list[torch.Tensor] = []
            gradients: list[torch.Tensor] = []
            momenta: list[torch.Tensor] = []
            self._init_group(group, moved, gradients, momenta)
            by_shape = defaultdict[torch.Size, list[int]](list)
            for place, matrix in enumerate(moved):
                by_shape[matrix.shape].append(place)
            for shape, places in by_shape.items():
                matrices, slopes, buffers = ([each[p] for p in places] for each in (moved, gradients, momenta))
                torch._foreach_lerp_(buffers, slopes, 1 - group["momentum"])
                directions = torch.stack(torch._foreach_lerp(slopes, buffers, group["momentum"]))
                towards = orthogonalized(directions, group["ns_coefficients"], group["ns_steps"], group["eps"])
                if group["weight_decay"]:
                    torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                size = group["lr"] * 0.2 * math.sqrt(max(shape))
                torch._foreach_add_(matrices, list(towards.to(matrices[0].dtype).unbind()), alpha=-size)
        return loss


@cache
def multiplied_in(device: torch.device) -> torch.dtype:
    """bfloat16, as in torch's Muon; on a processor that only imitates it, single precision, which is several times
    faster there."""
    if device.type != "cpu":
        return torch.bfloat16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def orthogonalized(matrices: torch.Tensor, coefficients: Sequence[float], steps: int, least: float) -> torch.Tensor:
    """Matrices [n, a, b] with their singular values brought near 1, by Newton and Schulz's iteration.

    `least`: what a matrix's norm is taken for at least.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    now = (matrices.mT if tall else matrices).to(multiplied_in(matrices.device)).contiguous()
    now = now / now.flatten(1).norm(dim=1).clamp(min=least)[:, None, None]
    for _ in range(steps):
        gram = now @ now.mT
        change = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        now = torch.baddbmm(now, change, now, beta=a)
    return now.mT if tall else now
