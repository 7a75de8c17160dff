"""Fixtures that several packages' tests share: a tiny model with random weights, and adapters on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch is loaded: threads that spin at a barrier make everything many times slower on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

WORDS = 120


def save_tiny_model(folder: Path, seed: int = 0, tied: bool = False) -> Path:
    """A Llama, 64 wide and 2 layers deep, whose answers differ from prompt to prompt; tokens are words"""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(shape)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 2:  # at the usual scale all prompts get one answer
                    weight.mul_(8)
    model.save_pretrained(folder)
    return folder


def save_tiny_adapter(folder: Path, base: Path, seed: int = 0, rank: int = 8) -> Path:
    """A LoRA adapter with random weights, strong enough to change what the base answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    weight.normal_(0, 0.15)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def tiny_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return save_tiny_adapter(tmp_path_factory.mktemp("models") / "adapter", tiny_model)


@pytest.fixture(scope="session")
def other_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return save_tiny_adapter(tmp_path_factory.mktemp("models") / "other", tiny_model, seed=1)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """`save_tiny_model`, for tests that want a model of their own."""
    return save_tiny_model


@pytest.fixture(scope="session")
def make_adapter() -> Callable[..., Path]:
    """`save_tiny_adapter`, for tests that want an adapter of their own."""
    return save_tiny_adapter
