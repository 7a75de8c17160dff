"""The throttle: the published agent is within the bound, and as far along as the bound allows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from distill.averaging import save_between
from distill.throttle import bound_step
from distill.weights import load_merged
from tests.distill.training import LINEAR, digits, spread


def kl(base: Path, first: Path | None, second: Path | None) -> float:
    """Mean KL of the first token of an answer, from what the published agents say."""
    total = 0.0
    for mine, theirs in zip(spread(base, first, digits()), spread(base, second, digits()), strict=True):
        p, q = (torch.tensor(list(row.values()), dtype=torch.float64) for row in (mine, theirs))
        total += float((p * (p / q).log()).sum())
    return total / len(digits())


@pytest.mark.parametrize("most", [0.05, 0.5])
def test_the_round_ends_at_the_bound(base: Path, warm: Path, tmp_path: Path, most: float) -> None:
    agent = tmp_path / "agent"
    shutil.copytree(warm, agent)
    found = bound_step(base, None, agent, digits(), most, LINEAR, 1)
    assert kl(base, warm, None) > 1
    assert found.kl_wanted == pytest.approx(kl(base, warm, None), abs=0.05)  # and the answer's end
    assert 0.5 * most < kl(base, agent, None) <= most + 1e-3
    assert 0 < found.share < 1
    assert found.tokens > 0


def test_an_agent_within_the_bound_is_left_as_it_is(base: Path, warm: Path, tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    shutil.copytree(warm, agent)
    found = bound_step(base, None, agent, digits(), 100.0, LINEAR, 1)
    assert (agent / "adapter_model.safetensors").read_bytes() == (warm / "adapter_model.safetensors").read_bytes()
    assert found.share == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_an_average_has_the_average_weights(base: Path, warm: Path, tmp_path: Path, share: float) -> None:
    save_between(base, None, warm, share, LINEAR, tmp_path)
    first, second, between = (load_merged(base, agent).state_dict() for agent in (None, warm, tmp_path))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for name, weight in between.items():
        assert torch.allclose(weight, first[name] + share * (second[name] - first[name]), atol=1e-5), name
