"""Models on disk and in memory: loading an agent to train or to score with, tokens of questions, seeds, silence.

An agent's weights are either a LoRA adapter's folder over the base (`adapter_config.json` is there) or, with full
fine-tuning, a whole model's folder. Every function here takes both. Safetensors only; nothing is unpickled.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from datasets.utils import logging as datasets_logging
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from amplification.errors import InputError, StageError
from amplification.serving.checkpoint import base_folder
from distill.config import AdapterConfig
from distill.exact import only_linear_trained, save_exact
from prompts import render

# Above this many parameters, activations are recomputed rather than kept (memory matters more than time).
CHECKPOINT_ABOVE = 100_000_000
REMEDY = "give a folder that a run has written"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings from the libraries inside; they are as they were afterwards."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    data_bars = datasets_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # TRL 1.12 sets options that transformers 5 renamed.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
        if data_bars:
            datasets_logging.enable_progress_bar()


def require_safetensors(folder: str | Path) -> Path:
    """The folder as a path. Raises InputError if it is missing, has no safetensors or has pickled weights."""
    path = Path(folder)
    if not path.is_dir():
        raise InputError(path, "there is no such folder", REMEDY)
    pickled = [f.name for suffix in ("*.bin", "*.pt", "*.pth", "*.pkl") for f in path.glob(suffix)]
    if pickled:
        raise InputError(path, f"'{pickled[0]}' holds pickled weights, which are never loaded", "use safetensors")
    if not any(path.glob("*.safetensors")):
        raise InputError(path, "no safetensors weights in this folder", REMEDY)
    return path


def load_tokenizer(base: str | Path) -> PreTrainedTokenizerBase:
    """The base's tokenizer."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base_folder(str(base)))
    return tokenizer


def load_base(base: str | Path) -> PreTrainedModel:
    """The base's weights, in single precision where there is no GPU (half precision trains badly on CPU)."""
    where = base_folder(str(base))
    if where == Path(base):
        require_safetensors(where)
    dtype = "auto" if torch.cuda.is_available() else torch.float32
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, use_safetensors=True)
    return model


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a LoRA adapter rather than a whole model."""
    return (Path(folder) / "adapter_config.json").is_file()


def load_policy(base: str | Path, agent: str | Path | None, settings: AdapterConfig, seed: int) -> PreTrainedModel:
    """A model to train: the agent carried on, or the base, with what `settings.method` trains left trainable.

    At first it computes what the agent (or the base) computes. Raises InputError if the agent is of another kind.
    """
    set_seed(seed)
    if agent is not None:
        require_safetensors(agent)
        if is_adapter(agent) == (settings.method == "full"):
            raise InputError(agent, f"not what adapter.method '{settings.method}' trains on", "keep one method a run")
    # Whole weights are trained in single precision, whatever they are stored in: small steps would be rounded away.
    if settings.method == "full":
        return load_base(agent or base).float()
    if settings.method == "linear":
        return only_linear_trained(load_merged(base, agent).float())
    if agent is None:
        return get_peft_model(load_base(base), lora_config(settings, "CAUSAL_LM"))  # type: ignore[no-any-return]
    policy: Any = PeftModel.from_pretrained(load_base(base), str(agent), is_trainable=True)
    rank = policy.peft_config["default"].r
    if rank != settings.rank:
        raise InputError(agent, f"its rank is {rank}, adapter.rank is {settings.rank}", "keep one rank a run")
    return policy  # type: ignore[no-any-return]


def lora_config(settings: AdapterConfig, kind: str) -> LoraConfig:
    """LoRA on every linear layer but the output head, without dropout."""
    return LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules="all-linear", task_type=kind
    )


def load_merged(base: str | Path, agent: str | Path | None) -> PreTrainedModel:
    """The agent as one plain model, its adapter merged into the base's weights. Raises InputError."""
    if agent is None:
        return load_base(base)
    require_safetensors(agent)
    if not is_adapter(agent):
        return load_base(agent)
    policy: Any = PeftModel.from_pretrained(load_base(base), str(agent))
    merged: PreTrainedModel = policy.merge_and_unload()
    return merged


def scorer_from(
    model: PreTrainedModel, pad_token_id: int, settings: AdapterConfig, zero_head: bool = False, extra_layers: int = 0
) -> PreTrainedModel:
    """A one-output sequence classifier that starts as a copy of `model`, with a fresh head (zero, or random).

    `extra_layers` go on top, at first without effect. What `settings.method` trains of an agent is left trainable, and
    the head. Raises InputError where `extra_layers` cannot be added to this kind of model.
    """
    values = {**model.config.to_dict(), "num_labels": 1, "pad_token_id": pad_token_id}
    if extra_layers:
        # Lists of a layer each would not fit; without them the library makes them anew.
        values.pop("layer_types", None)
        values["num_hidden_layers"] = model.config.num_hidden_layers + extra_layers
    # What is trained as it is, without adapters, is trained in single precision, whatever it was stored in.
    dtype = model.dtype if settings.method == "lora" else torch.float32
    scorer: Any = AutoModelForSequenceClassification.from_config(type(model.config).from_dict(values), dtype=dtype)
    scorer.base_model.load_state_dict(model.base_model.state_dict(), strict=not extra_layers)
    if extra_layers:
        _silence(scorer.base_model, extra_layers)
    if zero_head:
        torch.nn.init.zeros_(scorer.score.weight)
    return scorer_trained_by(scorer, settings)


def scorer_trained_by(scorer: Any, settings: AdapterConfig) -> PreTrainedModel:
    """A scorer with what `settings.method` trains of an agent left trainable, and the head."""
    if settings.method == "lora":
        return get_peft_model(scorer, lora_config(settings, "SEQ_CLS"))  # type: ignore[no-any-return]
    if settings.method == "linear":
        only_linear_trained(scorer)
        scorer.score.weight.requires_grad_(True)
    return scorer  # type: ignore[no-any-return]


def _silence(backbone: Any, count: int) -> None:
    """Make the last layers pass on what they get: their attention and their feed-forward part add nothing yet.

    Source: Wu et al., "LLaMA Pro: Progressive LLaMA with Block Expansion" (arXiv 2401.02415, 2024).
    """
    layers = list(getattr(backbone, "layers", []))[-count:]
    ends = [[m for name, m in layer.named_modules() if name.endswith(("o_proj", "down_proj"))] for layer in layers]
    if not layers or any(len(pair) != 2 for pair in ends):
        raise InputError("distill.reward.extra_layers", "not known how to add layers to this model", "set it to 0")
    for linear in (linear for pair in ends for linear in pair):
        torch.nn.init.zeros_(linear.weight)


def save_policy(
    policy: PreTrainedModel,
    base: str | Path,
    settings: AdapterConfig,
    out: str | Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write what `load_policy` gave and training changed: an adapter alone, or a whole model with its tokenizer.

    `weights`: the policy's, put together, where its own are in pieces (not with `linear`). The files depend on the
    weights alone (not on the folder, nor on the order of a set), so that digests do too.
    """
    folder = Path(out)
    if settings.method == "full":
        policy.save_pretrained(str(folder), state_dict=weights)
        load_tokenizer(base).save_pretrained(str(folder))
        return
    if settings.method == "linear":
        save_exact(policy, load_base(base), folder)
        _tidy(folder)
    else:
        save_adapter(policy, folder, weights)


def save_adapter(model: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a PEFT model's adapter alone, of these weights instead of its own where they are given."""
    # False: embeddings are never trained here, and to find that out PEFT would ask the network.
    model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Take out of an adapter's configuration what does not depend on its weights."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = None  # a run folder can be moved, and the agent names its base itself
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def require_finite(model: torch.nn.Module, key: str) -> None:
    """Raises StageError if a weight is no number; `key` is the learning rate that then is to be lowered."""
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise StageError(f"training diverged: the model's weights are no numbers; lower {key}")


def parameters(model: torch.nn.Module) -> int:
    """Number of a model's parameters, frozen ones included."""
    return sum(p.numel() for p in model.parameters())


def prompt_ids(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[list[int]]:
    """Token ids of the prompts for questions, exactly as the serving back ends make them."""
    if not questions:
        return []
    prompts = [render("direct", question=question) for question in questions]
    ids: list[list[int]] = tokenizer(prompts, return_attention_mask=False)["input_ids"]
    return ids


def answer_ids(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[list[int]]:
    """Token ids of answers, each with the end-of-sequence token."""
    known: dict[str, list[int]] = {}
    for answer in answers:
        if answer not in known:
            ids = tokenizer(f" {answer}", add_special_tokens=False, return_attention_mask=False)["input_ids"]
            known[answer] = [*ids, tokenizer.eos_token_id]
    return [known[answer] for answer in answers]


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of ids as one tensor [rows, longest], padded on the right."""
    width = max(len(row) for row in rows)
    return torch.from_numpy(numpy.array([[*row, *[value] * (width - len(row))] for row in rows], dtype=numpy.int64))
