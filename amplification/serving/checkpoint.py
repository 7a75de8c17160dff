"""Model and adapter folders: what is checked before an engine sees them, and base + adapter as plain weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amplification.errors import InputError
from amplification.serving.base import ModelRef

if TYPE_CHECKING:
    import torch

REFERENCE_FILE = "reference.json"
INDEX_FILE = "model.safetensors.index.json"
PREFIX = "base_model.model."
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl")

# Everything that fixes a model's shape and its tokens: two folders that agree on these can share an engine.
SKELETON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
# What PEFT can do beyond W + scale * B @ A. Each changes the result, so none may be ignored.
UNSUPPORTED: dict[str, tuple[Any, Any]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None, []),
    "alpha_pattern": ({}, None),
    "rank_pattern": ({}, None),
}


@dataclass(frozen=True)
class Checkpoint:
    """A base model's folder with its config and the shape of each of its tensors."""

    folder: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]

    @cached_property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def skeleton(self) -> str:
        """Digest of all but the weights: folders with one skeleton differ in their weights alone."""
        h = hashlib.blake2b(json.dumps(sorted(self.shapes.items())).encode(), digest_size=16)
        for name in SKELETON_FILES:
            file = self.folder / name
            h.update(name.encode() + (file.read_bytes() if file.is_file() else b""))
        return h.hexdigest()

    @property
    def dtype(self) -> str:
        """The type that the weights are stored in, as `config.json` has it."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32").removeprefix("torch.")

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows."""
        return int(self.config.get("vocab_size") or 2**31)

    def max_model_len(self, limit: int) -> int:
        """`limit`, or what the model itself can take where that is less."""
        return min(limit, int(self.config.get("max_position_embeddings") or limit))


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's folder: W becomes W + scale * B @ A for each of its layers."""

    folder: Path
    rank: int
    scale: float
    layers: tuple[str, ...]
    parameters: int

    @property
    def weights(self) -> Path:
        return self.folder / "adapter_model.safetensors"


def read_base(base: str) -> Checkpoint:
    """A base model from its folder, from a folder whose reference.json names it, or from the hub's local cache.

    Raises InputError if it is missing, is not a causal model's folder, or has no readable safetensors.
    """
    folder = base_folder(base)
    config = _json(folder / "config.json", "give a folder that holds a model")
    if not config.get("architectures"):
        raise InputError(folder / "config.json", "'architectures' is missing", "give a folder that holds a model")
    index = folder / INDEX_FILE
    if index.is_file():
        names = sorted(set(_json(index, "save the model again").get("weight_map", {}).values()))
        files = tuple(folder / name for name in names)
    else:
        files = (folder / "model.safetensors",)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= _shapes(file)
    return Checkpoint(folder, config, files, shapes)


def read_adapter(adapter: str, base: Checkpoint) -> Adapter:
    """An adapter from its folder. Raises InputError if it is missing, pickled, unreadable or made for another base."""
    folder = Path(adapter)
    if not folder.is_dir():
        raise InputError(folder, "there is no such adapter folder", "give a folder that a run has written")
    config = _json(folder / "adapter_config.json", "give a folder that holds a LoRA adapter")
    for key, allowed in UNSUPPORTED.items():
        if config.get(key) not in (*allowed, None):
            raise InputError(folder / "adapter_config.json", f"'{key}' is not supported", "train a plain LoRA adapter")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError):
        message = "'r' and 'lora_alpha' must be numbers"
        raise InputError(folder / "adapter_config.json", message, "train a plain LoRA adapter") from None
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    shapes = _shapes(folder / "adapter_model.safetensors")
    layers = _layers_of(folder, shapes, rank, base)
    return Adapter(folder, rank, scale, layers, sum(math.prod(shape) for shape in shapes.values()))


def weights(base: Checkpoint, adapter: Adapter | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the base by name, with the adapter added in single precision and rounded once."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    deltas = load_file(adapter.weights) if adapter else {}
    changed = set(adapter.layers) if adapter else set()
    for file in base.files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 -- a safetensors handle is no mapping
                tensor = tensors.get_tensor(name)
                layer = name.removesuffix(".weight")
                if adapter and layer in changed:
                    down = deltas[f"{PREFIX}{layer}.lora_A.weight"].float()
                    up = deltas[f"{PREFIX}{layer}.lora_B.weight"].float()
                    tensor = torch.addmm(tensor.float(), up, down, alpha=adapter.scale).to(tensor.dtype)
                yield name, tensor


class Shelf:
    """Folders already read and checked, by name: they are immutable, so once is enough."""

    def __init__(self) -> None:
        self._bases: dict[str, Checkpoint] = {}
        self._adapters: dict[ModelRef, Adapter] = {}

    def base(self, model: ModelRef) -> Checkpoint:
        if model.base not in self._bases:
            self._bases[model.base] = read_base(model.base)
        return self._bases[model.base]

    def adapter(self, model: ModelRef) -> Adapter | None:
        if model.adapter is None:
            return None
        if model not in self._adapters:
            self._adapters[model] = read_adapter(model.adapter, self.base(model))
        return self._adapters[model]

    def forget(self, model: ModelRef) -> None:
        """Let go of what was read of an adapter, or of a whole model, that nobody will ask again."""
        if model.adapter is None:
            self._bases.pop(model.base, None)
        self._adapters.pop(model, None)

    def parameters(self, model: ModelRef) -> int:
        """Number of the model's parameters, those of its adapter included."""
        adapter = self.adapter(model)
        return self.base(model).parameters + (adapter.parameters if adapter else 0)


def base_folder(base: str) -> Path:
    """Where a base model's files are: its folder, the one that a reference.json in it names, or the hub's local cache.

    Raises InputError if there is no such folder.
    """
    reference = Path(base) / REFERENCE_FILE
    if reference.is_file():
        base = str(_json(reference, "make the run's base again").get("pretrained", base))
    if Path(base).is_dir():
        return Path(base)
    if base.startswith((".", "/", "~")) or base.count("/") > 1 or "\\" in base:
        raise InputError(base, "there is no such model folder", "give a folder that holds a model")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, local_files_only=True))
    except Exception:  # the library raises half a dozen kinds for "it is not there"
        problem = "neither a model folder nor a model in the local Hugging Face cache"
        raise InputError(base, problem, f"give a folder, or run 'hf download {base}' first") from None


def _json(file: Path, remedy: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(file, "there is no such file", remedy) from None
    except (OSError, ValueError) as error:
        raise InputError(file, f"cannot be read ({type(error).__name__})", remedy) from None
    if not isinstance(found, dict):
        raise InputError(file, "is not a JSON object", remedy)
    return found


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a safetensors file's tensors, from its header; a file cut short is found out here."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        pickled = [f.name for pattern in PICKLED for f in file.parent.glob(pattern)]
        if pickled:
            problem = f"'{pickled[0]}' holds pickled weights, which are never loaded"
            raise InputError(file.parent, problem, "save the weights as safetensors")
        raise InputError(file.parent, f"'{file.name}' is missing", "save the weights as safetensors")
    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(file, f"is not a whole safetensors file ({error})", "copy or save it again") from None


def _layers_of(folder: Path, shapes: dict[str, tuple[int, ...]], rank: int, base: Checkpoint) -> tuple[str, ...]:
    layers = []
    for name, shape in shapes.items():
        layer, _, kind = name.removeprefix(PREFIX).rpartition(".lora_")
        if not name.startswith(PREFIX) or kind not in ("A.weight", "B.weight"):
            raise InputError(folder, f"'{name}' is not a LoRA weight of a linear layer", "train a plain LoRA adapter")
        target = base.shapes.get(f"{layer}.weight")
        fits = target is not None and len(target) == 2
        if not fits or shape != ((rank, target[1]) if kind == "A.weight" else (target[0], rank)):  # type: ignore[index]
            problem = f"made for another base: '{layer}' does not fit {base.folder}"
            raise InputError(folder, problem, "give an adapter trained on this base")
        layers.append(layer)
    pairs = tuple(dict.fromkeys(layers))
    if len(layers) != 2 * len(pairs):
        raise InputError(folder, "a layer lacks one of its two LoRA weights", "copy or save the adapter again")
    return pairs
