"""Exact adapters: what changed in a model's linear layers, written as a LoRA adapter without loss.

A LoRA layer adds `scale * B @ A` to a weight [out, in], with B [out, r] and A [r, in]. With r = in, A = identity and
B = change it adds any change at all; with r = out, B = identity and A = change. So a small model can be trained as a
plain model, at half the cost of training through A and B, and still be served as an adapter beside others.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import PreTrainedModel

from amplification.errors import InputError

# The largest rank that vLLM serves.
MAX_RANK = 512
PREFIX = "base_model.model."


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """The layers that an adapter can change, by name: every linear layer but the output head."""
    head = model.get_output_embeddings()
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and layer is not head
    }


def only_linear_trained(model: PreTrainedModel) -> PreTrainedModel:
    """The model with everything frozen that an adapter cannot carry (embeddings, norms, biases, the output head)."""
    model.requires_grad_(False)
    for layer in linear_layers(model).values():
        layer.weight.requires_grad_(True)
    return model


def save_exact(model: PreTrainedModel, base: PreTrainedModel, out: str | Path) -> None:
    """Write model - base as an adapter. Raises InputError if the layers are too wide to be served as a rank."""
    theirs = linear_layers(base)
    rank = max(min(layer.weight.shape) for layer in theirs.values())
    if rank > MAX_RANK:
        raise InputError(
            "distill.adapter.method",
            f"'linear' on a model of width {rank} is more than the rank {MAX_RANK}",
            "use 'lora'",
        )
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in linear_layers(model).items():
        # One may be on a GPU and the other not, and the base may be kept in 16 bits.
        change = layer.weight.detach().float().cpu() - theirs[name].weight.detach().float().cpu()
        down, up = _factors(change, rank)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = down
        tensors[f"{PREFIX}{name}.lora_B.weight"] = up
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = sorted({name.rpartition(".")[2] for name in theirs})
    LoraConfig(r=rank, lora_alpha=rank, target_modules=modules, task_type="CAUSAL_LM").save_pretrained(str(folder))


def _factors(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, in] and B [out, rank] with B @ A = change [out, in]; rows and columns beyond its size are zero."""
    rows, columns = change.shape
    down, up = torch.zeros(rank, columns), torch.zeros(rows, rank)
    if columns <= rows:
        down[:columns] = torch.eye(columns)
        up[:, :columns] = change
    else:
        down[:rows] = change
        up[:, :rows] = torch.eye(rows)
    return down, up
