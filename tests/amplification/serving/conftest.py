"""What the real back ends are compared with: PEFT and transformers, one prompt at a time, without batching."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from amplification.serving.base import ModelRef, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.serving.vllm import VLLMSampler

Oracle = Callable[[ModelRef, Sequence[str], int], list[list[int]]]
GREEDY = SamplingParams(max_tokens=3)


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Forty of different lengths, some longer than one block of the prefix cache."""
    rng = random.Random(0)
    return [" ".join(f"w{rng.randrange(120)}" for _ in range(rng.choice((3, 7, 12, 40)))) for _ in range(40)]


@pytest.fixture(scope="session")
def base(tiny_model: Path) -> ModelRef:
    return ModelRef(str(tiny_model))


@pytest.fixture(scope="session")
def adapted(tiny_model: Path, tiny_adapter: Path) -> ModelRef:
    return ModelRef(str(tiny_model), str(tiny_adapter))


@pytest.fixture(scope="session")
def other(tiny_model: Path, other_adapter: Path) -> ModelRef:
    return ModelRef(str(tiny_model), str(other_adapter))


@pytest.fixture(scope="session")
def sampler() -> Iterator[VLLMSampler]:
    """Adapters merged into the weights. One for all tests of vLLM: engines are slow to start."""
    pytest.importorskip("vllm")
    opened = VLLMSampler(ServingConfig(adapters="merge", max_model_len=64))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def beside() -> Iterator[VLLMSampler]:
    """Adapters beside the base, more of them in a test than there are slots."""
    pytest.importorskip("vllm")
    opened = VLLMSampler(ServingConfig(adapters="lora", max_model_len=64, max_lora_rank=8, max_loras=2))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """Greedy token ids by an independent route: the adapter stays an adapter, and each prompt is alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

    def complete(ref: ModelRef, prompts: Sequence[str], tokens: int) -> list[list[int]]:
        model: PreTrainedModel | PeftModel = AutoModelForCausalLM.from_pretrained(ref.base)
        if ref.adapter is not None:
            model = PeftModel.from_pretrained(model, ref.adapter)
        tokenizer = AutoTokenizer.from_pretrained(ref.base)
        rows = []
        for prompt in prompts:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            made = model.eval().generate(input_ids=ids, max_new_tokens=tokens, do_sample=False)
            rows.append(made[0, ids.shape[1] :].tolist())
        return rows

    return complete


@pytest.fixture(scope="session")
def expected(
    oracle: Oracle, prompts: list[str], base: ModelRef, adapted: ModelRef, other: ModelRef
) -> dict[ModelRef, list[str]]:
    """The greedy answers of each model to `prompts`, as text. No two models agree on any prompt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.base)
    texts = {
        ref: [
            tokenizer.decode(row, skip_special_tokens=True).strip() for row in oracle(ref, prompts, GREEDY.max_tokens)
        ]
        for ref in (base, adapted, other)
    }
    for one, two, three in zip(*texts.values(), strict=True):
        assert len({one, two, three}) == 3
    return texts
