"""How weights are moved: which optimizer, at what rate, when."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR

from distill.config import AdapterConfig
from distill.muon import Muon

WARM_UP_STEPS = 20
# Share of the steps at the full learning rate, and what is left of it at the end.
FULL_SHARE = 0.3
LAST_RATE = 0.03


def optimizer_for(
    groups: Sequence[tuple[Sequence[torch.nn.Parameter], float]],
    settings: AdapterConfig,
    weight_decay: float,
    processes: int = 1,
) -> torch.optim.Optimizer:
    """An optimizer over groups of parameters, each with its learning rate, in so many processes that train together.

    Whole matrices go by Muon (K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024), with which a
    tiny model learned a level of the embedded tasks in half the steps that Adam took; everything else by AdamW.
    """
    parts = [{"params": list(parameters), "lr": rate} for parameters, rate in groups]
    if settings.method == "linear":
        return Muon(parts, lr=1e-3, weight_decay=weight_decay, processes=processes)
    return torch.optim.AdamW(parts, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)


def lesson_schedule(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """A short warm-up, the full rate for a while, then straight down to nearly nothing."""

    def rate(step: int) -> float:
        down = (1 - step / steps) / (1 - FULL_SHARE)
        return min(1.0, (step + 1) / WARM_UP_STEPS, max(LAST_RATE, down))

    return LambdaLR(optimizer, rate)


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that training changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
