"""An exact adapter adds what training changed, no more and no less."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from distill.exact import linear_layers, only_linear_trained, save_exact


def llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def changed() -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    base, model = llama(0), llama(0)
    only_linear_trained(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    ids = torch.randint(0, 50, (8, 12))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    return base, model


def test_base_plus_adapter_is_the_trained_model(
    changed: tuple[LlamaForCausalLM, LlamaForCausalLM], tmp_path: Path
) -> None:
    base, model = changed
    save_exact(model, base, tmp_path)
    ids = torch.randint(0, 50, (4, 9))
    wanted, before = model(ids).logits, base(ids).logits
    adapted = PeftModel.from_pretrained(base, str(tmp_path))
    assert torch.allclose(adapted(ids).logits, wanted, atol=1e-4)
    assert not torch.allclose(before, wanted, atol=1e-2)
    merged = adapted.merge_and_unload()
    for name, layer in linear_layers(model).items():
        assert torch.allclose(linear_layers(merged)[name].weight, layer.weight, atol=1e-6), name


def test_only_linear_layers_are_trained(changed: tuple[LlamaForCausalLM, LlamaForCausalLM]) -> None:
    base, model = changed
    theirs = dict(base.named_parameters())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, theirs[name])}
    assert moved == {f"{name}.weight" for name in linear_layers(model)}
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in moved)
