"""Precision: what computes in bfloat16, what does not, and that a state is carried on in its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from amplification.errors import InputError, StageError
from distill.config import PPOSettings
from distill.ppo import train_ppo
from distill.precision import SINGLE, Precision
from distill.rollout import at_states, chosen
from distill.tree import rows_of, states_of, tree_of
from distill.weights import load_merged, load_policy, load_tokenizer, prompt_ids
from tests.distill.training import FULL, LORA, digits, silent

HALF = Precision(torch.bfloat16)


@pytest.mark.parametrize("method", [LORA, FULL], ids=lambda c: c.method)
def test_log_probabilities_are_near_and_their_gradients_in_single_precision(base: Path, method: object) -> None:
    prompts = prompt_ids(load_tokenizer(base), digits())
    trees = [tree_of([[0]]) for _ in prompts]
    ids, kept, extra = rows_of(prompts, trees, 0)
    states = states_of(trees, torch.zeros(len(prompts), 1, dtype=torch.long), 1)
    answers = torch.arange(len(prompts))[:, None] % 20
    found = {}
    for precision in (SINGLE, HALF):
        policy = load_policy(base, None, method, 1)  # type: ignore[arg-type]
        before = list(policy.parameters())
        precision.prepare(policy)
        assert all(a is b for a, b in zip(before, policy.parameters(), strict=True))
        logprobs, _ = chosen(at_states(policy, ids, kept, **extra), states, answers, 1.0)
        logprobs.sum().backward()
        assert logprobs.dtype == torch.float32
        assert {p.grad.dtype for p in policy.parameters() if p.grad is not None} == {torch.float32}
        frozen = {p.dtype for n, p in policy.named_parameters() if "q_proj" in n and not p.requires_grad}
        assert frozen <= {precision.dtype}
        found[precision.name] = logprobs.detach()
    apart = (found["bfloat16"] - found["float32"]).abs()
    assert 0 < apart.max() < 0.1
    # Not rounded to the 8 bits of a bfloat16 logit.
    assert not torch.equal(found["bfloat16"], found["bfloat16"].bfloat16().float())


def test_the_output_head_rounds_nothing(base: Path) -> None:
    model, plain = load_merged(base, None), load_merged(base, None)
    HALF.prepare(model)
    hidden = torch.randn(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = model.lm_head(hidden), plain.lm_head(hidden)
    assert torch.equal(found, plain.lm_head(hidden))
    assert not torch.equal(found, rounded.float())


def test_auto_is_what_the_device_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        assert Precision.of("auto") == SINGLE
        assert Precision.of("bfloat16") == HALF
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert Precision.of("auto") == HALF
    assert Precision.of("float32") == SINGLE
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert Precision.of("auto") == SINGLE
    with pytest.raises(InputError, match=r"distill\.ppo\.precision.*Old"):
        Precision.of("bfloat16")


def test_a_state_of_another_precision_is_refused(base: Path, reward: Path, tmp_path: Path) -> None:
    settings = PPOSettings(episodes=64, batch=32, checkpoint_seconds=0, precision="bfloat16")
    train_ppo(base, None, reward, digits(), LORA, settings, tmp_path / "out", 1, silent, tmp_path / "state")
    single = settings.model_copy(update={"precision": "float32"})
    with pytest.raises(StageError, match="in bfloat16, and this one is in float32"):
        train_ppo(base, None, reward, digits(), LORA, single, tmp_path / "out", 1, silent, tmp_path / "state")
