"""Weights that lie in pieces on several processes (FSDP2): put together to be written, and shared out again.

Nothing is written in pieces: a state is whole, so it can be carried on by another number of processes, and it is
safetensors, while the libraries' own formats for pieces are pickled.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may lie in pieces. All processes must ask for it together."""
    found: torch.Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.detach()


def shared_out(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor in pieces as `like` is, each process with its own; itself where `like` is whole, too."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device, like.dtype), like.device_mesh, like.placements)


def whole_weights(module: torch.nn.Module) -> Mapping[str, torch.Tensor] | None:
    """A module's state dict put together, or None where nothing of it lies in pieces."""
    state = module.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return None
    return {name: whole(tensor).cpu() for name, tensor in state.items()}
