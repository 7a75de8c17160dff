"""PPO's state on disk: all that the next update depends on, as safetensors and JSON. Nothing is pickled.

What an update draws at random is a function of the seed and the update's number, so there is no random state to keep.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

STATE = "state.json"
TENSORS = "state.safetensors"


class State(NamedTuple):
    """Tensors by name, and everything else as JSON-ready data."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


def collect(model: torch.nn.Module, optimizer: torch.optim.Optimizer, values: dict[str, Any]) -> State:
    """What training changes of a model, the optimizer's state, and `values`."""
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    plain: dict[str, dict[str, Any]] = {}
    for place, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{place}.{key}"] = value
            else:
                plain.setdefault(str(place), {})[key] = value
    return State(tensors, values | {"optimizer": plain})


def apply(state: State, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a state back; returns its values. Raises ValueError if it is not of this model."""
    trained = {f"model.{name}": p for name, p in model.named_parameters() if p.requires_grad}
    found = {name: tensor for name, tensor in state.tensors.items() if name.startswith("model.")}
    if {n: p.shape for n, p in trained.items()} != {n: t.shape for n, t in found.items()}:
        raise ValueError("the state is of another model")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(found[name])
    entries: dict[int, dict[str, Any]] = {
        int(place): dict(values) for place, values in state.values["optimizer"].items()
    }
    for name, tensor in state.tensors.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".", 2)
            entries.setdefault(int(place), {})[key] = tensor
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return state.values


def write(folder: Path, update: int, state: State) -> None:
    """Write the state after `update` updates as a folder of its own; it appears whole, and then older ones go."""
    folder.mkdir(parents=True, exist_ok=True)
    partial, whole = folder / f"update-{update}.partial", folder / f"update-{update}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file({name: tensor.cpu().contiguous() for name, tensor in state.tensors.items()}, partial / TENSORS)
    (partial / STATE).write_text(json.dumps(state.values), encoding="utf-8")
    partial.replace(whole)
    for other in folder.glob("update-*"):
        if other != whole:
            shutil.rmtree(other, ignore_errors=True)


def latest(folder: Path) -> State | None:
    """The newest whole state; one that cannot be read counts as not there."""
    found = [(int(m[1]), path) for path in folder.glob("update-*") if (m := re.fullmatch(r"update-(\d+)", path.name))]
    for _, path in sorted(found, reverse=True):
        try:
            values = json.loads((path / STATE).read_text(encoding="utf-8"))
            return State(load_file(path / TENSORS), values)
        except (OSError, ValueError, SafetensorError):
            continue
    return None
