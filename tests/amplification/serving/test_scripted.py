"""The scripted back end, and the way to any back end."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from amplification.errors import InputError, ServingError
from amplification.serving import open_sampler
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams
from amplification.serving.config import SAMPLERS, ServingConfig
from amplification.serving.scripted import ScriptedSampler

MODEL = ModelRef("base")


def call(prompt: str, max_tokens: int = 4) -> Call:
    return Call(MODEL, prompt, SamplingParams(max_tokens=max_tokens))


def test_answers_come_in_order_from_a_dict() -> None:
    sampler = ScriptedSampler(answers={"a": "one", "b": " two words "})
    got = sampler.sample([call("b"), call("a"), call("b")])
    assert [c.text for c in got] == ["two words", "one", "two words"]
    assert [(c.prompt_tokens, c.completion_tokens, c.finished) for c in got] == [
        (1, 2, True),
        (1, 1, True),
        (1, 2, True),
    ]


def test_a_function_sees_the_whole_call() -> None:
    sampler = ScriptedSampler(answers=lambda c: f"{c.prompt} {c.sample}")
    assert sampler.sample([Call(MODEL, "x", SamplingParams(), sample=3)])[0].text == "x 3"


def test_calls_are_remembered_by_batch() -> None:
    sampler = ScriptedSampler(answers={"a": "1", "b": "2", "c": "3"})
    sampler.sample([call("a"), call("b")])
    sampler.sample([call("c")])
    assert [len(batch) for batch in sampler.batches] == [2, 1]
    assert [c.prompt for c in sampler.calls] == ["a", "b", "c"]


def test_a_prompt_without_an_answer_fails_alone() -> None:
    missing, known = ScriptedSampler(answers={"a": "one"}).sample([call("zzz"), call("a")])
    assert missing.error == "no scripted answer" and not missing.finished and missing.completion_tokens == 0
    assert known.error is None and known.text == "one"


def test_a_function_that_raises_fails_its_call_alone() -> None:
    def answer(asked: Call) -> str:
        if asked.prompt == "bad":
            raise ValueError("broken on purpose")
        return "fine"

    bad, good = ScriptedSampler(answers=answer).sample([call("bad"), call("good")])
    assert (bad.error, good.text, good.error) == ("broken on purpose", "fine", None)


def test_max_tokens_cuts_an_answer_off() -> None:
    got = ScriptedSampler(answers={"a": "one two three"}).sample([call("a", max_tokens=2)])[0]
    assert (got.text, got.completion_tokens, got.finished) == ("one two", 2, False)


def test_injected_failures_hit_their_batch_only() -> None:
    sampler = ScriptedSampler(answers={"a": "one"}, fail_at=[1])
    assert sampler.sample([call("a")])[0].text == "one"
    with pytest.raises(ServingError, match="batch 1"):
        sampler.sample([call("a")])
    assert sampler.sample([call("a")])[0].text == "one"
    assert len(sampler.calls) == 3


def test_it_opens_from_a_script_file(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"a": "from the file"}', encoding="utf-8")
    sampler = open_sampler(ServingConfig(backend="scripted", script=script))
    assert sampler.sample([call("a")])[0].text == "from the file"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}'])
def test_a_bad_script_file_is_named(tmp_path: Path, content: str) -> None:
    script = tmp_path / "script.json"
    script.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"script\.json"):
        open_sampler(ServingConfig(backend="scripted", script=script))


def test_an_unknown_back_end_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"'vlm' is not a serving back end.*vllm, openai, transformers, scripted"):
        ServingConfig(backend="vlm")
    with pytest.raises(InputError, match=r"serving\.backend.*'vlm'.*vllm, openai, transformers, scripted"):
        open_sampler(ServingConfig.model_construct(backend="vlm"))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_registered_back_end_opens_and_closes_without_a_model(name: str) -> None:
    sampler = open_sampler(ServingConfig(backend=name))
    assert type(sampler).__name__ == SAMPLERS[name].partition(":")[2]
    assert sampler.sample([]) == []
    sampler.close()
    sampler.close()


def test_a_schema_is_passed_over_and_a_log_probability_given_if_asked_for() -> None:
    asked = Call(MODEL, "a", SamplingParams(json_schema='{"type": "object"}', logprob=True))
    assert ScriptedSampler(answers={"a": "one"}).sample([asked, call("a")]) == [
        Completion("one", 1, 1, logprob=0.0),
        Completion("one", 1, 1),
    ]
    given = ScriptedSampler(answers={"a": "one"}, logprobs=lambda c: -len(c.prompt))
    assert given.sample([asked])[0].logprob == -1
