"""Rollouts from a real vLLM engine, against PEFT's own forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from amplification.errors import InputError, ServingError
from amplification.serving.config import ServingConfig
from amplification.serving.rollouts import Drawing, Drawn
from amplification.serving.vllm_rollouts import VLLMRollouts

pytest.importorskip("vllm")

END, LONGEST, HEAT = 2, 4, 1.5
PROMPTS = [[5 + i % 7, 6, 7 + i % 3, 8] * (1 + i % 10) for i in range(24)]
SEEDS = [1_000 * i for i in range(24)]


@pytest.fixture(scope="module", params=["merge", "lora"])
def rollouts(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[VLLMRollouts]:
    settings = ServingConfig(adapters=request.param, max_lora_rank=8, max_loras=1)
    opened = VLLMRollouts(settings, str(tiny_model), 44, sleep=False)
    yield opened
    opened.close()


def draw(rollouts: VLLMRollouts, prompts: Sequence[Sequence[int]] = PROMPTS, answers: int = 1) -> list[list[Drawn]]:
    return rollouts.draw(prompts, SEEDS[: len(prompts)], Drawing(answers, HEAT, LONGEST, END))


def test_each_version_draws_with_its_own_weights(
    rollouts: VLLMRollouts, tiny_model: Path, tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    """Prompts longer than a block of the prefix cache, asked again of every version; one slot for adapters."""
    seen = []
    for version in range(3):
        folder = make_adapter(tmp_path / f"version-{version}", tiny_model, seed=version)
        rollouts.publish(folder)
        seen.append(draw(rollouts))
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(folder)).eval()
        for prompt, (drawn,) in zip(PROMPTS, seen[-1], strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *drawn.tokens]])).logits[0, len(prompt) - 1 : -1]
            theirs = torch.log_softmax(logits / HEAT, dim=-1).gather(1, torch.tensor([drawn.tokens]).T)[:, 0]
            assert list(drawn.logprobs) == pytest.approx(theirs.tolist(), abs=1e-4)
            assert (drawn.tokens[-1] == END) or len(drawn.tokens) == LONGEST
            assert END not in drawn.tokens[:-1]
    assert seen[0] != seen[1] != seen[2]


def test_a_draw_depends_on_its_seed_and_place_alone(rollouts: VLLMRollouts, tiny_adapter: Path) -> None:
    rollouts.publish(tiny_adapter)
    state = torch.get_rng_state()
    four = draw(rollouts, answers=4)
    assert torch.equal(state, torch.get_rng_state())  # the trainer's own stream goes on as if nothing had been
    assert [len(each) for each in four] == [4] * len(PROMPTS)
    assert any(len({each.tokens for each in answers}) > 1 for answers in four)
    few = draw(rollouts, PROMPTS[:5], answers=2)  # another batch, and fewer answers
    assert [[each.tokens for each in answers] for answers in few] == [
        [each.tokens for each in answers[:2]] for answers in four[:5]
    ]


def test_what_cannot_be_served_is_refused(
    rollouts: VLLMRollouts, tiny_model: Path, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        rollouts.publish(tmp_path / "nothing")
    with pytest.raises(InputError, match="answer_tokens"):
        VLLMRollouts(ServingConfig(), str(tiny_model), 65, sleep=False).publish(make_model(tmp_path / "whole"))
    with pytest.raises(ServingError, match="no weights"):
        draw(VLLMRollouts(ServingConfig(), str(tiny_model), 40, sleep=False))


def test_on_a_cpu_nothing_is_given_back(tiny_model: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU's memory can be given back")
    with pytest.warns(RuntimeWarning, match="keeps it while PPO trains"):
        assert not VLLMRollouts(ServingConfig(), str(tiny_model), 40, sleep=True).gives_back
