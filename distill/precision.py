"""Precision: what of PPO computes in bfloat16, and what never does.

In bfloat16: the linear layers of the policy, the reference and the reward model's members, by torch's autocast; those
that are not trained are kept in it, too, which halves a frozen base. Always in single precision: trained weights and
what the optimizer keeps of them, embeddings and norms, the output head with its logits, the critic, the members'
heads, log-probabilities, rewards and losses. A change of a log-probability by 1% is what PPO's clipping is about, and a
logit of 20 in bfloat16 is known to 0.06.

TRL's own `bf16` does nothing in its PPOTrainer, and on a CPU it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import torch

from amplification.errors import InputError

Asked = Literal["auto", "float32", "bfloat16"]
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Precision:
    """What linear layers compute in."""

    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, asked: Asked) -> Precision:
        """What was asked for; `auto` is bfloat16 on a GPU that computes in it, and single precision elsewhere.

        Raises InputError for bfloat16 on a GPU that only emulates it.
        """
        gpu = torch.cuda.is_available()
        able = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        if asked == "bfloat16" and gpu and not able:
            problem = f"'distill.ppo.precision' is bfloat16, which {torch.cuda.get_device_name()} does not compute in"
            raise InputError("configuration", problem, "set it to auto or float32")
        return cls(torch.bfloat16 if asked == "bfloat16" or (asked == "auto" and able) else torch.float32)

    @property
    def name(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def mixed(self) -> bool:
        """Whether anything computes in less than single precision."""
        return self.dtype != torch.float32

    def prepare(self, model: Any) -> None:
        """Have `model` compute so from here on, whoever calls it. Parameters stay the objects that they were.

        model: a language model (or one with adapters), or a backbone without a head. Its outputs' logits are in single
        precision. Not to be done twice.
        """
        model.float()
        if not self.mixed:
            return
        head = output_head(model)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear) and layer is not head:
                for parameter in layer.parameters(recurse=False):
                    if not parameter.requires_grad:
                        parameter.data = parameter.data.to(self.dtype)
        if head is not None:
            head.forward = _single(head.forward)
        model.forward = self._computing(model.forward, model)

    def _computing(self, forward: Forward, model: torch.nn.Module) -> Forward:
        """`forward` in this precision, on whatever device the model is by then."""

        @wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(next(model.parameters()).device.type, self.dtype):
                return forward(*args, **kwargs)

        return run


SINGLE = Precision()


def output_head(model: Any) -> torch.nn.Module | None:
    """The layer that makes a language model's logits; None for a backbone."""
    found = getattr(model, "get_output_embeddings", lambda: None)()
    return found if isinstance(found, torch.nn.Module) else None


def _single(forward: Forward) -> Forward:
    """`forward` of hidden states in single precision, also where everything around it is not."""

    @wraps(forward)
    def run(hidden: torch.Tensor) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden.float())

    return run
