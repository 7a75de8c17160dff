"""Weights that lie in pieces on several processes (FSDP2, ZeRO-3): put together to be written, and shared out again.

Nothing is written in pieces: a state is whole, so it can be carried on by another number of processes, and it is
safetensors, while the libraries' own formats for pieces are pickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may lie in pieces. All processes must ask for it together."""
    if _by_zero(tensor):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.detach().clone()
    found: torch.Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.detach()


def settle(module: torch.nn.Module) -> None:
    """After a forward pass without gradients FSDP2 keeps the outermost module's parameters put together; not from here.

    `module` is the outermost: the one that was wrapped.
    """
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


def pieces(module: torch.nn.Module) -> list[torch.Tensor]:
    """This process's piece of each parameter that is trained, or all of it where it is whole; once it is settled.

    What is written there is the parameter's, once `forget_copies` has been called.
    """
    trained: list[Any] = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [parameter.ds_tensor if _by_zero(parameter) else parameter for parameter in trained]


def forget_copies(module: torch.nn.Module) -> None:
    """What ZeRO-3 holds of whole parameters beside their pieces goes, after new values were written to the pieces."""
    each: Iterator[Any] = module.parameters()
    for parameter in each:
        if _by_zero(parameter) and parameter.ds_status.name == "AVAILABLE":
            parameter.partition()


def shared_out(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor in pieces as `like` is, each process with its own; itself where `like` is whole, too."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device, like.dtype), like.device_mesh, like.placements)


def whole_weights(module: torch.nn.Module) -> Mapping[str, torch.Tensor] | None:
    """A module's state dict put together, without what is not trained of it; None where nothing lies in pieces."""
    # Not the other way round: with FSDP2 a state dict puts the parameters' pieces in their places (see `settle`). And
    # ZeRO marks parameters, and not the tensors that a state dict has in their place.
    state = module.state_dict()
    named = dict(module.named_parameters(remove_duplicate=False))
    state |= named
    if not any(isinstance(tensor, DTensor) or _by_zero(tensor) for tensor in state.values()):
        return None
    frozen = {name for name, parameter in named.items() if not parameter.requires_grad}
    return {name: whole(tensor).cpu() for name, tensor in state.items() if name not in frozen}


def _by_zero(tensor: Any) -> bool:
    return hasattr(tensor, "ds_tensor")
