"""Muon: torch's, with all matrices of one shape orthogonalized at once, and the matrices shared out over processes.

A tiny model has a matrix multiplication's work in microseconds, and torch's loop over 21 matrices spends its time on
calls. What comes out is the same, to the bit where a batched product rounds as a single one does.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with Nesterov's momentum and steps that match AdamW's in size ("match_rms_adamw").

    Source: K. Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024); J. Liu et al., "Muon is
    scalable for LLM training" (arXiv 2502.16982, 2025), section 2.2, for the size of a step.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float, momentum: float = 0.95, processes: int = 1) -> None:
        """`processes`: of torch.distributed's default group, that hold the same whole matrices and the same gradients.

        Each does its share of the work, and all come out with the same matrices and momenta.
        """
        super().__init__(params, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw")
        self.processes = processes

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        turns = list[_Turn]()
        for group in self.param_groups:
            moved: list[torch.Tensor] = []
            gradients: list[torch.Tensor] = []
            momenta: list[torch.Tensor] = []
            self._init_group(group, moved, gradients, momenta)
            by_shape = defaultdict[torch.Size, list[int]](list)
            for place, matrix in enumerate(moved):
                by_shape[matrix.shape].append(place)
            for places in by_shape.values():
                matrices, slopes, buffers = ([each[p] for p in places] for each in (moved, gradients, momenta))
                torch._foreach_lerp_(buffers, slopes, 1 - group["momentum"])
                directions = torch.stack(torch._foreach_lerp(slopes, buffers, group["momentum"]))
                turns.append(_Turn(group, matrices, directions))
        for (group, matrices, directions), towards in zip(turns, self._towards(turns), strict=True):
            if group["weight_decay"]:
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            size = group["lr"] * 0.2 * math.sqrt(max(directions.shape[1:]))
            torch._foreach_add_(matrices, list(towards.to(matrices[0].dtype).unbind()), alpha=-size)
        return loss

    def _towards(self, turns: Sequence[_Turn]) -> list[torch.Tensor]:
        """Each turn's directions, orthogonalized: the matrices of all turns go to the processes one after the other."""
        if self.processes == 1 or not turns:
            return [turn.orthogonalized() for turn in turns]
        sizes = [turn.directions.numel() for turn in turns]
        together = turns[0].directions.new_zeros(sum(sizes), dtype=multiplied_in(turns[0].directions.device))
        found = [part.view_as(turn.directions) for part, turn in zip(together.split(sizes), turns, strict=True)]
        begin = 0
        for turn, towards in zip(turns, found, strict=True):
            own = slice((dist.get_rank() - begin) % self.processes, None, self.processes)
            towards[own] = turn.orthogonalized(own)
            begin += len(turn.matrices)
        dist.all_reduce(together)  # the others have zeros there
        return found


class _Turn(NamedTuple):
    """Matrices of one group and shape, and where they are to go [n, a, b]."""

    group: dict[str, Any]
    matrices: list[torch.Tensor]
    directions: torch.Tensor

    def orthogonalized(self, share: slice = slice(None)) -> torch.Tensor:
        """A share of the directions."""
        group = self.group
        return orthogonalized(self.directions[share], group["ns_coefficients"], group["ns_steps"], group["eps"])


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
