"""The transformers back end against PEFT and transformers one prompt at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from amplification.errors import InputError
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.serving.transformers import TransformersSampler

GREEDY = SamplingParams(max_tokens=3)
HOT = SamplingParams(max_tokens=3, temperature=1.0)


@pytest.fixture(scope="module")
def sampler() -> Iterator[TransformersSampler]:
    opened = TransformersSampler(ServingConfig(backend="transformers", max_model_len=64, max_num_seqs=16))
    yield opened
    opened.close()


def test_greedy_answers_are_those_of_unbatched_peft(
    sampler: TransformersSampler, expected: dict[ModelRef, list[str]], prompts: list[str]
) -> None:
    # Interleaved, so that order, batching by length and changes of weights all matter.
    calls = [Call(model, prompt, GREEDY) for prompt in prompts for model in expected]
    want = [texts[i] for i in range(len(prompts)) for texts in expected.values()]
    assert [c.text for c in sampler.sample(calls)] == want


def test_token_counts_are_exact(sampler: TransformersSampler, base: ModelRef) -> None:
    got = sampler.sample([Call(base, "w1 w2 w3", GREEDY), Call(base, "w1 " * 62, GREEDY)])
    assert [(c.prompt_tokens, c.completion_tokens, c.finished) for c in got] == [(3, 3, False), (62, 2, False)]


def test_a_prompt_that_cannot_be_served_fails_alone(sampler: TransformersSampler, base: ModelRef) -> None:
    long, empty, fine = sampler.sample([Call(base, text, GREEDY) for text in ("w1 " * 64, "  ", "w1 w2")])
    assert "64 tokens" in str(long.error) and "empty" in str(empty.error)
    assert fine.error is None and fine.text


def test_a_stop_string_ends_the_answer_and_is_not_in_it(sampler: TransformersSampler, base: ModelRef) -> None:
    words = sampler.sample([Call(base, "w5 w6", SamplingParams(max_tokens=6))])[0].text.split()
    stopped = sampler.sample([Call(base, "w5 w6", SamplingParams(max_tokens=6, stop=(words[2],)))])[0]
    cut = words.index(words[2])
    assert stopped.text.split() == words[:cut] and stopped.finished and stopped.completion_tokens == cut + 1


def test_draws_depend_on_their_call_alone(sampler: TransformersSampler, base: ModelRef, prompts: list[str]) -> None:
    calls = [Call(base, prompts[0], HOT, sample) for sample in range(12)]
    together = [c.text for c in sampler.sample(calls)]
    alone = [sampler.sample([call])[0].text for call in calls]
    assert together == alone and len(set(together)) > 6


def test_a_top_p_of_nearly_nothing_is_greedy(
    sampler: TransformersSampler, expected: dict[ModelRef, list[str]], base: ModelRef, prompts: list[str]
) -> None:
    tight = SamplingParams(max_tokens=3, temperature=1.0, top_p=1e-6)
    assert [c.text for c in sampler.sample([Call(base, p, tight) for p in prompts])] == expected[base]


def test_serving_leaves_the_random_streams_alone(sampler: TransformersSampler, base: ModelRef) -> None:
    import torch

    torch.manual_seed(7)
    undisturbed = torch.rand(3)
    torch.manual_seed(7)
    sampler.sample([Call(base, "w1", HOT)])
    assert torch.equal(torch.rand(3), undisturbed)


def test_it_answers_again_after_closing(
    sampler: TransformersSampler, expected: dict[ModelRef, list[str]], adapted: ModelRef, prompts: list[str]
) -> None:
    sampler.close()
    assert sampler.sample([Call(adapted, prompts[0], GREEDY)])[0].text == expected[adapted][0]


def test_adapters_beside_the_base_are_refused() -> None:
    with pytest.raises(InputError, match="adapters"):
        TransformersSampler(ServingConfig(backend="transformers", adapters="lora"))
