"""PPO on rollouts from a real vLLM engine: a version each update, tagged, compared, removed; the same after a kill."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from amplification.errors import StageError
from amplification.serving.config import ServingConfig
from amplification.serving.rollouts import Drawn
from distill import ppo_state
from distill.config import AdapterConfig, PPOSettings
from distill.ppo import train_ppo
from distill.served import Served, as_rollout
from tests.distill.training import FULL, LINEAR, LORA, digits, silent

pytest.importorskip("vllm")

SETTINGS = PPOSettings(
    episodes=192,
    batch=32,
    minibatches=2,
    critic_warmup=1,
    learning_rate=1e-3,
    temperature=1.3,
    rollouts="vllm",
    checkpoint_seconds=0,
)


class Interrupted(Exception):
    pass


WAYS = [
    (LINEAR, ServingConfig(adapters="merge")),
    (LORA, ServingConfig(adapters="lora", max_lora_rank=8, max_loras=1)),
    (FULL, ServingConfig()),
]


# All three with AMPLIFY_SERVERS=vllm: each starts three engines.
@pytest.mark.parametrize(
    ("adapter", "serving"),
    WAYS if os.environ.get("AMPLIFY_SERVERS") == "vllm" else WAYS[:2],
    ids=lambda setting: getattr(setting, "method", None) or f"serving {setting.adapters}",
)
def test_an_interrupted_training_learns_the_same(
    base: Path, warm: Path, reward: Path, tmp_path: Path, adapter: AdapterConfig, serving: ServingConfig
) -> None:
    start = warm if adapter is LINEAR else None
    settings = SETTINGS.model_copy(update={"answers": 4 if adapter is LORA else 1})

    def train(name: str, progress: Any) -> dict[str, Any]:
        out, state = tmp_path / name, tmp_path / f"{name}.state"
        return train_ppo(base, start, reward, digits(), adapter, settings, out, 1, progress, state, serving=serving)

    on_disk: list[list[str]] = []

    def watching(done: int, total: int) -> None:
        on_disk.append(sorted(path.name for path in (tmp_path / "whole.state" / "rollouts" / "process-0").iterdir()))

    whole = train("whole", watching)
    assert on_disk == [[f"version-{update}"] for update in range(6)]  # one at a time, and never the same again
    assert not list((tmp_path / "whole.state" / "rollouts").glob("*/*"))
    assert (whole["rollouts"], whole["versions"]) == ("vllm", 6)
    assert 0 < whole["drift"] < 1e-3
    state = ppo_state.latest(tmp_path / "whole.state")
    assert state is not None
    assert [entry["rollout/version"] for entry in state.values["history"]] == list(range(6))

    def interrupt(done: int, total: int) -> None:
        if done >= 96:
            raise Interrupted

    with pytest.raises(Interrupted):
        train("killed", interrupt)
    resumed = train("killed", silent)
    assert {**whole, "episodes_per_second": 0} == {**resumed, "episodes_per_second": 0}
    files = [sorted((tmp_path / name).glob("*.safetensors")) for name in ("whole", "killed")]
    assert files[0] and [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def test_an_engine_with_other_weights_is_found_out(
    base: Path, warm: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if an adapter had not been renewed: the engine goes on with the first one."""
    publish = Served._publish

    def once(served: Served, version: int) -> None:
        if version == 0:
            publish(served, version)

    monkeypatch.setattr(Served, "_publish", once)
    with pytest.raises(StageError, match="differ from the sampler's"):
        train_ppo(base, warm, reward, digits(), LINEAR, SETTINGS, tmp_path / "out", 1, silent)
    assert not (tmp_path / "out").exists()


def test_answers_become_rows_prompt_by_prompt() -> None:
    def answer(*tokens: int) -> Drawn:
        return Drawn(tokens, tuple(-0.1 * token for token in tokens))

    drawn: Sequence[Sequence[Drawn]] = [[answer(5, 2), answer(6, 7, 8)], [answer(2), answer(9, 2)]]
    rollout = as_rollout([[1], [3, 4]], drawn, 3, end=2, pad=0)
    assert (rollout.prompts, rollout.each) == ([[1], [3, 4]], 2)
    kept = [row[mask].tolist() for row, mask in zip(rollout.answers, rollout.mask, strict=True)]
    assert kept == [[5, 2], [6, 7, 8], [2], [9, 2]]
    assert rollout.ended.tolist() == [True, False, True, True]
    assert torch.allclose(rollout.logprobs[1], torch.tensor([-0.6, -0.7, -0.8]))
    assert not rollout.logprobs[~rollout.mask].any()
    assert rollout.own.all()
    with_one = as_rollout([[1], [3, 4]], drawn, 3, end=2, pad=0, shown=[None, (4, 4, 2)])
    kept = [row[mask].tolist() for row, mask in zip(with_one.answers, with_one.mask, strict=True)]
    assert kept == [[5, 2], [6, 7, 8], [4, 4, 2], [9, 2]]
    assert with_one.own.tolist() == [True, True, False, True]
    assert with_one.ended.tolist() == [True, False, True, True]
