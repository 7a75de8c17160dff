"""vLLM on a GPU: adapters beside their base in one batch, as amplification asks them, next to a trainer's memory."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from amplification.agent import Agent
from amplification.benchmarks.episode import distinct_questions, run_episode, tiny_agent
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.serving.transformers import TransformersSampler
from amplification.serving.vllm import VLLMSampler

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
GREEDY = SamplingParams(max_tokens=1)
HOT = SamplingParams(max_tokens=3, temperature=1.0)
PROMPTS = [f"w{i} w{i * 7 % 120} w{i * 13 % 120}" for i in range(40)]


@pytest.fixture(scope="module")
def sampler() -> Iterator[VLLMSampler]:
    """Started while other tensors hold a quarter of the memory, as a trainer in this process would."""
    held = torch.empty(_free() // 4, dtype=torch.uint8, device="cuda") if torch.cuda.is_available() else None
    opened = VLLMSampler(ServingConfig(adapters="lora", max_model_len=64, max_lora_rank=8, max_loras=2))
    yield opened
    opened.close()
    del held


def _free() -> int:
    return int(torch.cuda.mem_get_info()[0])


def test_each_model_of_a_mixed_batch_gets_its_own_answers(
    sampler: VLLMSampler, tiny_model: Path, tiny_adapter: Path, other_adapter: Path
) -> None:
    """In 16 bits a close call may go the other way, so not every answer is that of single precision."""
    base = str(tiny_model)
    models = [ModelRef(base), ModelRef(base, str(tiny_adapter)), ModelRef(base, str(other_adapter))]
    calls = [Call(model, prompt, GREEDY) for prompt in PROMPTS for model in models]
    single = TransformersSampler(ServingConfig(backend="transformers", dtype="float32", max_model_len=64))
    said, wanted = ([c.text for c in each.sample(calls)] for each in (sampler, single))
    for place in range(len(models)):
        mine, right = said[place :: len(models)], wanted[place :: len(models)]
        assert sum(a == b for a, b in zip(mine, right, strict=True)) > 0.8 * len(PROMPTS)


def test_draws_are_repeatable_and_differ(sampler: VLLMSampler, tiny_model: Path, tiny_adapter: Path) -> None:
    calls = [Call(ModelRef(str(tiny_model), str(tiny_adapter)), PROMPTS[0], HOT, sample) for sample in range(12)]
    first, again = ([c.text for c in sampler.sample(calls)] for _ in range(2))
    assert first == again and len(set(first)) > 6


def test_an_episode_of_amplification_is_answered(sampler: VLLMSampler, tmp_path: Path) -> None:
    agent: Agent = tiny_agent(tmp_path / "model")
    assert run_episode(sampler, agent, distinct_questions(64), tmp_path / "store.sqlite") > 0


def test_streams_join_the_batch(sampler: VLLMSampler, tiny_model: Path, tiny_adapter: Path) -> None:
    calls = [Call(ModelRef(str(tiny_model), str(tiny_adapter)), prompt, GREEDY) for prompt in PROMPTS]

    async def collected() -> dict[int, str]:
        return {place: done.text async for piece in sampler.stream(calls) for place, done in piece}

    found = asyncio.run(collected())
    assert [found[place] for place in range(len(calls))] == [c.text for c in sampler.sample(calls)]


def test_every_stage_of_a_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Labels, warm start, reward, adversary, PPO and evaluation, with vLLM and the trainers on one GPU."""
    command = [sys.executable, "-m", "amplification", "run", "configs/debug.yaml", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--serving.backend", "vllm"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(report["generations"]) == 2
