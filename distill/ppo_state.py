"""PPO's state on disk: all that the next update depends on, as safetensors and JSON. Nothing is pickled.

What an update draws at random is a function of the seed and the update's number, so there is no random state to keep.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from amplification.errors import StageError
from distill.sharding import shared_out, whole

# The newest is enough unless the disk loses some of it.
STATES_KEPT = 2
STATE = "state.json"
TENSORS = "state.safetensors"


class State(NamedTuple):
    """Tensors by name, and everything else as JSON-ready data."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


def collect(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    values: dict[str, Any],
    lists: Mapping[str, Sequence[torch.Tensor]],
    keep: bool = True,
) -> State:
    """What training changes of a model, the optimizer's state, `values` and `lists` of tensors (see `listed`).

    Tensors are whole and on the CPU, so every process must take part; those that do not `keep` them hold one at a time.
    """
    named: dict[str, torch.Tensor] = {f"model.{name}": p for name, p in model.named_parameters() if p.requires_grad}
    named |= {f"{name}.{place}": t for name, each in lists.items() for place, t in enumerate(each)}
    plain: dict[str, dict[str, Any]] = {}
    for place, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                named[f"optimizer.{place}.{key}"] = value
            else:
                plain.setdefault(str(place), {})[key] = value
    tensors = {}
    for name, tensor in named.items():
        put_together = whole(tensor)
        if keep:
            tensors[name] = put_together.cpu()
    return State(tensors, values | {"optimizer": plain})


def listed(state: State, name: str) -> list[torch.Tensor]:
    """The tensors of one of the lists that were collected; none if it was empty."""
    count = sum(key.startswith(f"{name}.") for key in state.tensors)
    return [state.tensors[f"{name}.{place}"] for place in range(count)]


def apply(state: State, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a state back; returns its values. Raises ValueError if it is not of this model."""
    trained = {f"model.{name}": p for name, p in model.named_parameters() if p.requires_grad}
    kept = {name: tensor for name, tensor in state.tensors.items() if name.startswith("model.")}
    if {n: p.shape for n, p in trained.items()} != {n: t.shape for n, t in kept.items()}:
        raise ValueError("the state is of another model")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(shared_out(kept[name], parameter))
    entries: dict[int, dict[str, Any]] = {
        int(place): dict(values) for place, values in state.values["optimizer"].items()
    }
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in state.tensors.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".", 2)
            like = parameters[int(place)]
            entries.setdefault(int(place), {})[key] = shared_out(tensor, like) if tensor.shape == like.shape else tensor
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return state.values


def write(folder: Path, update: int, state: State) -> None:
    """Write the state after `update` updates as a folder of its own; it appears whole, and then the oldest go.

    Raises StageError if it cannot be written (a full disk); those that were there before are kept.
    """
    partial, target = folder / f"update-{update}.partial", folder / f"update-{update}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in state.tensors.items()}, partial / TENSORS)
        (partial / STATE).write_text(json.dumps(state.values), encoding="utf-8")
        for name in (TENSORS, STATE):
            with (partial / name).open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)  # one that was damaged
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        kept = found(folder)
        last = f"the state after {kept[0][0]} updates is kept" if kept else "there is none yet"
        reason = getattr(error, "strerror", None) or str(error)
        raise StageError(
            f"{folder}: PPO's state cannot be written ({reason}); {last}, make room and run again"
        ) from error
    for _, path in found(folder)[STATES_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
    for left in folder.glob("*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def found(folder: Path) -> list[tuple[int, Path]]:
    """Updates and folders of the states that appear whole, newest first."""
    named = [(re.fullmatch(r"update-(\d+)", path.name), path) for path in folder.glob("update-*")]
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def latest(folder: Path) -> State | None:
    """The newest state that can be read. A damaged one is told of and counts as not there."""
    for _, path in found(folder):
        try:
            values = json.loads((path / STATE).read_text(encoding="utf-8"))
            return State(load_file(path / TENSORS), values)
        except (OSError, ValueError, SafetensorError) as error:
            said = f"{path}: this state is damaged ({type(error).__name__}) and left out; training carries on from the"
            warnings.warn(f"{said} one before, or from its beginning", RuntimeWarning, stacklevel=2)
    return None
