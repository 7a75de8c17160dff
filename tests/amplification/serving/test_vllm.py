"""vLLM in this process, on a tiny model, against PEFT and transformers one prompt at a time."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from amplification.errors import InputError
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.serving.transformers import TransformersSampler
from amplification.serving.vllm import VLLMSampler

pytest.importorskip("vllm")

GREEDY = SamplingParams(max_tokens=3)
HOT = SamplingParams(max_tokens=3, temperature=1.0)
MERGE = ServingConfig(adapters="merge", max_model_len=64)


@pytest.fixture(params=["merged", "beside"])
def either(request: pytest.FixtureRequest, sampler: VLLMSampler, beside: VLLMSampler) -> VLLMSampler:
    return sampler if request.param == "merged" else beside


def test_each_model_of_a_mixed_batch_gets_its_own_answers(
    either: VLLMSampler, expected: dict[ModelRef, list[str]], prompts: list[str]
) -> None:
    # The base among its adapters too: a call without an adapter must not get a neighbour's.
    calls = [Call(model, prompt, GREEDY) for prompt in prompts for model in expected]
    want = [texts[i] for i in range(len(prompts)) for texts in expected.values()]
    assert [c.text for c in either.sample(calls)] == want


def test_a_new_version_never_gets_the_old_ones_cache(
    either: VLLMSampler,
    expected: dict[ModelRef, list[str]],
    base: ModelRef,
    prompts: list[str],
    tmp_path: Path,
    make_adapter: Callable[..., Path],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = max(prompts, key=len)  # longer than a block, hence cached
    new = ModelRef(base.base, str(make_adapter(tmp_path / "v2", Path(base.base), seed=5)))
    for model, texts in expected.items():
        assert either.sample([Call(model, prompt, GREEDY)])[0].text == texts[prompts.index(prompt)]
    got = either.sample([Call(new, prompt, GREEDY)])[0].text
    tokenizer = AutoTokenizer.from_pretrained(base.base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.base), str(new.adapter)).eval()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    want = tokenizer.decode(model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :])
    assert got == want
    # And back again, with everything cached by now.
    for model_ref, texts in expected.items():
        assert either.sample([Call(model_ref, prompt, GREEDY)])[0].text == texts[prompts.index(prompt)]


@pytest.mark.parametrize("tied", [False, True])
def test_whole_models_of_one_shape_share_an_engine(
    sampler: VLLMSampler, prompts: list[str], tmp_path: Path, make_model: Callable[..., Path], tied: bool
) -> None:
    sisters = [ModelRef(str(make_model(tmp_path / str(seed), seed=seed, tied=tied))) for seed in (3, 4)]
    own = TransformersSampler(ServingConfig(backend="transformers", max_model_len=64))
    calls = [Call(model, prompt, GREEDY) for prompt in prompts for model in sisters]
    sampler.sample([Call(sisters[0], "w1", GREEDY)])
    engines = len(sampler._engines)
    got = [c.text for c in sampler.sample(calls)]
    assert got == [c.text for c in own.sample(calls)] and got[::2] != got[1::2]
    assert len(sampler._engines) == engines


def test_a_prompt_that_cannot_be_served_fails_alone(either: VLLMSampler, base: ModelRef) -> None:
    texts = ("w1 " * 64, "  ", "w1 w2", "w1 " * 63)
    long, empty, fine, longest = either.sample([Call(base, text, GREEDY) for text in texts])
    assert "64 tokens" in str(long.error) and "empty" in str(empty.error)
    assert long.text == "" and not long.finished
    assert fine.error is None and fine.text
    assert longest.error is None and (longest.prompt_tokens, longest.completion_tokens) == (63, 1)


def test_token_counts_are_exact(sampler: VLLMSampler, base: ModelRef, prompts: list[str]) -> None:
    got = sampler.sample([Call(base, prompt, GREEDY) for prompt in prompts])
    assert [c.prompt_tokens for c in got] == [len(prompt.split()) for prompt in prompts]
    assert all(c.completion_tokens == 3 or (c.finished and c.completion_tokens < 3) for c in got)


def test_an_end_token_finishes_an_answer(sampler: VLLMSampler, base: ModelRef, prompts: list[str]) -> None:
    own = TransformersSampler(ServingConfig(backend="transformers", max_model_len=64))
    calls = [Call(base, prompt, SamplingParams(max_tokens=20)) for prompt in prompts[:30] if len(prompt.split()) < 40]
    assert sampler.sample(calls) == own.sample(calls)


def test_a_stop_string_ends_the_answer_and_is_not_in_it(either: VLLMSampler, base: ModelRef) -> None:
    words = either.sample([Call(base, "w5 w6", SamplingParams(max_tokens=6))])[0].text.split()
    stop = SamplingParams(max_tokens=6, stop=(words[2],))
    stopped, plain = either.sample([Call(base, "w5 w6", stop), Call(base, "w5 w6", GREEDY)])
    cut = words.index(words[2])
    assert stopped.text.split() == words[:cut] and stopped.finished
    assert plain.text.split() == words[:3]


def test_draws_depend_on_their_call_alone(either: VLLMSampler, base: ModelRef, prompts: list[str]) -> None:
    calls = [Call(base, prompts[0], HOT, sample) for sample in range(12)]
    together = [c.text for c in either.sample([*calls, Call(base, "w9", GREEDY)])][:12]
    alone = [either.sample([call])[0].text for call in reversed(calls)][::-1]
    assert together == alone and len(set(together)) > 6


def test_serving_leaves_the_process_as_it_was(tiny_model: Path) -> None:
    import numpy
    import torch

    def draw() -> tuple[float, float, float]:
        return random.random(), float(numpy.random.rand()), float(torch.rand(1))

    def seed() -> None:
        random.seed(1), numpy.random.seed(1), torch.manual_seed(1)

    seed()
    undisturbed = draw()
    before = {n: v for n, v in os.environ.items() if not n.startswith("VLLM_")}
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    seed()
    engine = VLLMSampler(MERGE)
    engine.sample([Call(ModelRef(str(tiny_model)), "w1", HOT)])
    assert draw() == undisturbed
    assert {n: v for n, v in os.environ.items() if not n.startswith("VLLM_")} == before
    assert torch.set_num_threads is set_num_threads and torch.get_num_threads() == threads
    engine.close()
    engine.close()


def test_bad_folders_are_named_and_harm_nobody(
    sampler: VLLMSampler, expected: dict[ModelRef, list[str]], base: ModelRef, prompts: list[str], tmp_path: Path
) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04.")
    shutil.copy(Path(next(m.adapter for m in expected if m.adapter)) / "adapter_config.json", pickled)
    bad = [ModelRef(base.base, str(tmp_path / "nowhere")), ModelRef(base.base, str(pickled)), ModelRef(str(tmp_path))]
    for model in bad:
        with pytest.raises(InputError, match=str(model.adapter or model.base)):
            sampler.sample([Call(base, prompts[0], GREEDY), Call(model, prompts[0], GREEDY)])
    assert sampler.sample([Call(base, prompts[0], GREEDY)])[0].text == expected[base][0]


def test_a_rank_above_the_setting_is_named(
    beside: VLLMSampler, base: ModelRef, tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    wide = make_adapter(tmp_path / "wide", Path(base.base), rank=16)
    with pytest.raises(InputError, match=r"rank 16 is above serving\.max_lora_rank"):
        beside.sample([Call(ModelRef(base.base, str(wide)), "w1", GREEDY)])


def test_an_engine_that_fails_is_replaced(
    sampler: VLLMSampler, expected: dict[ModelRef, list[str]], base: ModelRef, prompts: list[str]
) -> None:
    from amplification.errors import ServingError

    sampler.sample([Call(base, prompts[0], GREEDY)])
    sampler._engines.pop(sampler._key(base)).close()
    sampler.sample([Call(base, prompts[0], GREEDY)])
    core = sampler._engine(base)._llm.llm_engine.engine_core

    def broken() -> None:
        raise RuntimeError("out of memory")

    core.get_output = broken
    with pytest.raises(ServingError, match="out of memory"):
        sampler.sample([Call(base, prompts[0], GREEDY)])
    assert sampler.sample([Call(base, prompts[0], GREEDY)])[0].text == expected[base][0]


def test_senseless_sampling_parameters_are_the_users_mistake(sampler: VLLMSampler, base: ModelRef) -> None:
    with pytest.raises(InputError, match="max_tokens"):
        sampler.sample([Call(base, "w1", SamplingParams(max_tokens=0))])


def test_nothing_asked_is_nothing_answered(sampler: VLLMSampler) -> None:
    assert sampler.sample([]) == []
