"""The chat endpoint against servers that misbehave: one prompt a request, and never a guess at what was no answer."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from amplification.errors import InputError, ServingError
from amplification.serving.base import Call, Completion, SamplingParams
from amplification.serving.openai import OpenAISampler
from tests.amplification.serving.faulty_server import Body, Fault, FaultyServer, answer_to
from tests.amplification.serving.test_openai import (
    GREEDY,
    HOT,
    MODEL,
    assert_right,
    calls,
    choices,
    dead_url,
    sampler,
)

CHAT = "/v1/chat/completions"

FAULTS = {
    "500": Fault(status=500),
    "429": Fault(status=429, headers={"Retry-After": "0"}),
    "half a body": Fault(cut=True),
    "no word": Fault(drop=True),
    "garbage": Fault(body=b"{]"),
    "no choices": Fault(body=b'{"object": "chat.completion"}'),
    "too few": choices(lambda them: them.pop()),
    "too many": choices(lambda them: them.append(dict(them[-1], index=1))),
    "another index": choices(lambda them: them[0].update(index=1)),
    "no message": choices(lambda them: them[0].pop("message")),
    "a message that is text": choices(lambda them: them[0].update(message="7")),
    "content that is no text": choices(lambda them: them[0]["message"].update(content=[{"type": "text", "text": "7"}])),
    "broken off": choices(lambda them: them[0].update(finish_reason="error")),
    "no reason": choices(lambda them: them[0].pop("finish_reason")),
    "no message and no reason": choices(lambda them: them[0].update(message={"content": None}, finish_reason=None)),
}


def chat(*servers: FaultyServer | str, **options: Any) -> OpenAISampler:
    return sampler(*servers, endpoint="chat", **options)


def refusing(**error: object) -> Fault:
    return Fault(status=400, body=json.dumps({"error": error}).encode())


def test_each_prompt_is_one_users_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", "sesame")
    with FaultyServer() as server:
        asked = calls(20)
        got = chat(server, api_key_env="SERVER_KEY").sample(asked)
        assert_right(asked, got)
        assert [(c.prompt_tokens, c.completion_tokens) for c in got] == [(3, 2)] * 20
        assert set(server.paths) == {CHAT}
        assert {headers["authorization"] for headers in server.headers} == {"Bearer sesame"}
        bodies = {body["messages"][0]["content"]: body for body in server.asked}
        assert set(bodies) == {call.prompt for call in asked}
        body = bodies["prompt number 0"]
        assert body["messages"] == [{"role": "user", "content": "prompt number 0"}]
        assert (body["max_tokens"], body["temperature"], body["model"]) == (3, 0.0, "served")
        assert not {"prompt", "n", "seed", "logprobs", "max_completion_tokens"} & set(body)


def test_no_more_are_under_way_than_are_allowed() -> None:
    with FaultyServer(always=Fault(hang=True)) as server, pytest.raises(ServingError, match="did not answer"):
        chat(server, requests_under_way=3, retries=0, timeout=0.3).sample(calls(40))
    assert len(server.asked) <= 3


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_got_over(name: str) -> None:
    with FaultyServer([FAULTS[name], FAULTS[name]]) as server:
        asked = calls(6)
        assert_right(asked, chat(server).sample(asked))
        assert server.answered == Counter(call.prompt for call in asked)
        assert len(server.asked) == 6 + 2


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "429"])
def test_a_fault_that_stays_ends_in_one_error_that_names_the_server(name: str) -> None:
    with FaultyServer(always=FAULTS[name]) as server:
        with pytest.raises(ServingError) as raised:
            chat(server, retries=1).sample(calls(1))
        assert server.url in str(raised.value) and str(raised.value).isprintable()
        assert len(server.asked) == 2 and not server.answered


def test_another_server_takes_over() -> None:
    with FaultyServer([Fault(), Fault(drop=True)], always=Fault(drop=True)) as dying, FaultyServer() as alive:
        asked = calls(60)
        assert_right(asked, chat(dead_url(), dying, alive).sample(asked))
        assert dying.answered + alive.answered == Counter(call.prompt for call in asked)


def said(**message: object) -> Fault:
    return choices(lambda them: them[0]["message"].update(message))


TOOL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FAILURES = {
    "a refusal": (said(content=None, refusal="I can't\n help\x1b[2J"), "the model refused: I can't help [2J"),
    "a refusal beside text": (said(refusal="no"), "the model refused: no"),
    "a tool": (said(content=None, tool_calls=[TOOL]), "the model called a tool, and was asked for text"),
    "a tool beside text": (said(tool_calls=[TOOL]), "the model called a tool, and was asked for text"),
    "an old tool": (said(content=None, function_call={"name": "f"}), "the model called a tool, and was asked for text"),
    "nothing": (said(content=None), "the model wrote no text"),
    "a filter": (
        choices(lambda them: them[0].update(finish_reason="content_filter")),
        "the server's content filter held back what the model wrote",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_no_answer_is_a_failure_with_its_reason_and_its_cost(name: str) -> None:
    fault, reason = FAILURES[name]
    with FaultyServer([fault]) as server:
        [got] = chat(server).sample(calls(1, SamplingParams(logprob=True)))
        assert got == Completion("", 3, 2, finished=False, error=reason)
        assert len(server.asked) == 1


def test_an_answer_that_was_cut_off_is_unfinished_even_before_its_first_word() -> None:
    def cut(them: list[Body]) -> None:
        them[0].update(finish_reason="length")

    def thinking(them: list[Body]) -> None:
        them[0].update(finish_reason="length", message={"role": "assistant", "content": None, "reasoning": "well,"})

    for fault, text in ((choices(cut), answer_to("x")), (choices(thinking), "")):
        with FaultyServer([fault]) as server:
            [got] = chat(server).sample([Call(MODEL, "x", GREEDY)])
            assert (got.text, got.finished, got.error) == (text, False, None)


def test_empty_text_is_an_answer() -> None:
    with FaultyServer([said(content="")]) as server:
        [got] = chat(server).sample(calls(1))
        assert (got.text, got.finished, got.error) == ("", True, None)


def test_samples_of_one_prompt_travel_together_where_they_need_no_seeds() -> None:
    asked = [Call(MODEL, prompt, HOT, sample) for sample in range(5) for prompt in ("x", "y")]
    with FaultyServer() as server:
        got = chat(server, own_seeds=False, prompts_per_request=3).sample(asked)
        assert sorted((body["messages"][0]["content"], body["n"]) for body in server.asked) == [
            ("x", 2), ("x", 3), ("y", 2), ("y", 3),
        ]  # fmt: skip
        assert not any("seed" in body for body in server.asked)
        texts = {name: [c.text for call, c in zip(asked, got, strict=True) if call.prompt == name] for name in "xy"}
        for name in "xy":
            assert texts[name] == [answer_to(name, place) for place in (0, 1, 0, 1, 2)]


def test_draws_have_seeds_of_their_own_whatever_they_travel_with() -> None:
    asked = [Call(MODEL, "x", HOT, sample) for sample in range(20)]
    with FaultyServer() as server:
        together = [c.text for c in chat(server).sample(asked)]
        alone = [chat(server).sample([call])[0].text for call in asked]
        assert together == alone and len(set(together)) > 3
        assert all("n" not in body and body["seed"] >= 0 for body in server.asked)
        twice = [c.text for c in chat(server).sample([asked[0], asked[0]])]
        assert twice == [together[0]] * 2
        server.asked.clear()
        chat(server, own_seeds=False).sample([Call(MODEL, "x", GREEDY, sample) for sample in range(3)])
        assert len(server.asked) == 3 and not any("n" in body for body in server.asked)


def test_a_server_that_gives_one_sample_where_more_were_asked_for_is_told() -> None:
    asked = [Call(MODEL, "x", HOT, sample) for sample in range(3)]
    with FaultyServer(always=choices(lambda them: them.__delitem__(slice(1, None)))) as server:
        with pytest.raises(ServingError, match="sent 1 completions where 3 were asked for"):
            chat(server, own_seeds=False, retries=1).sample(asked)
        assert [c.error for c in chat(server).sample(asked)] == [None] * 3


def test_counts_are_shared_out_where_a_server_tells_a_sum() -> None:
    asked = [Call(MODEL, "one two three four five", HOT, sample) for sample in range(3)]
    with FaultyServer() as server:
        exact = chat(server, own_seeds=False).sample(asked)
        assert [(c.prompt_tokens, c.completion_tokens) for c in exact] == [(5, 2)] * 3
        shared = chat(server, own_seeds=False, dialect="openai").sample(asked)
        assert (sum(c.prompt_tokens for c in shared), sum(c.completion_tokens for c in shared)) == (5, 6)
        assert not {"return_token_ids", "repetition_penalty", "top_k", "min_p"} & set(server.asked[-1])


def test_log_probabilities_a_schema_and_stop_strings_are_asked_for() -> None:
    params = SamplingParams(stop=("\n",), top_p=0.5, json_schema='{"type": "integer"}', logprob=True)
    with FaultyServer([choices(lambda them: them[0].update(logprobs={"content": [{}]}))]) as server:
        assert [c.logprob for c in chat(server).sample(calls(1, params))] == [-0.75]
        assert len(server.asked) == 2  # the first reply had none
        body = server.asked[0]
        assert (body["logprobs"], body["stop"], body["top_p"]) == (True, ["\n"], 0.5)
        assert body["response_format"]["type"] == "json_schema"
        assert body["response_format"]["json_schema"]["schema"] == {"type": "integer"}


# As OpenAI's models that think put it, and as a gateway does that leaves out which field it is.
REFUSALS = [
    ("max_tokens", "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.", True),
    ("max_tokens", "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.", False),
    ("top_p", "Unsupported parameter: 'top_p' is not supported with this model.", True),
]


@pytest.mark.parametrize(("field", "words", "named"), REFUSALS)
def test_a_field_that_a_model_refuses_and_can_be_without_is_left_out_from_then_on(
    field: str, words: str, named: bool
) -> None:
    fault = refusing(message=words, **({"param": field, "code": "unsupported_parameter"} if named else {}))
    with FaultyServer() as server:
        server.refuse = lambda path, asked: fault if field in asked else None
        opened, asked = chat(server, requests_under_way=1), calls(5)
        assert_right(asked, opened.sample(asked))
        assert_right(asked, opened.sample(asked))
        assert [field in body for body in server.asked] == [True] + [False] * 10
        if field == "max_tokens":
            assert {body["max_completion_tokens"] for body in server.asked[1:]} == {3}


def test_several_such_fields_are_left_out_one_after_the_other() -> None:
    def refuse(path: str, asked: Body) -> Fault | None:
        names = [name for name in ("max_tokens", "temperature", "top_p") if name in asked]
        return refusing(message=f"Unsupported parameter: '{names[0]}' ...", param=names[0]) if names else None

    with FaultyServer() as server:
        server.refuse = refuse
        [got] = chat(server).sample([Call(MODEL, "x", HOT)])
        assert got.error is None and len(server.asked) == 4


@pytest.mark.parametrize("field", ["temperature", "top_p", "stop", "max_completion_tokens"])
def test_a_field_that_changes_the_draw_is_not_left_out(field: str) -> None:
    params = SamplingParams(temperature=0.5, top_p=0.5, stop=(".",))
    fault = refusing(message=f"Unsupported value: '{field}' is not supported with this model.", param=field)
    with FaultyServer(always=fault) as server:
        with pytest.raises(ServingError, match=rf"{CHAT} with 400: Unsupported value: '{field}'"):
            chat(server).sample(calls(1, params))
        assert len(server.asked) == 1


def test_one_prompt_that_is_too_long_fails_alone() -> None:
    fault = refusing(message="too long by far", param="input_tokens", code=400)
    with FaultyServer() as server:
        server.refuse = lambda path, asked: fault if asked["messages"][0]["content"] == "long" else None
        asked = [Call(MODEL, prompt, HOT, sample) for prompt in ("a", "long") for sample in range(3)]
        got = chat(server, own_seeds=False).sample(asked)
        assert [c.error for c in got] == [None] * 3 + ["too long by far"] * 3
        assert len(server.asked) == 2


# vLLM 0.27's words for a model without a chat template, and OpenAI's for a model that only chats.
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    "tokenizer does not define one."
)
ONLY_CHATS = (
    "This is a chat model and not supported in the v1/completions endpoint. Did you mean to use v1/chat/completions?"
)


@pytest.mark.parametrize(
    ("endpoint", "status", "words", "remedy"),
    [("chat", 400, NO_TEMPLATE, "--chat-template FILE"), ("completions", 404, ONLY_CHATS, "set it to 'chat'")],
)
def test_the_other_endpoint_is_pointed_to(endpoint: str, status: int, words: str, remedy: str) -> None:
    fault = Fault(status=status, body=json.dumps({"error": {"message": words, "code": status}}).encode())
    with FaultyServer(always=fault) as server:
        with pytest.raises(InputError, match=r"^serving\.http\.endpoint: is ") as raised:
            sampler(server, endpoint=endpoint).sample(calls(3))
        assert remedy in raised.value.remedy and server.url in raised.value.problem
        assert len(server.asked) == 1 or endpoint == "chat"
