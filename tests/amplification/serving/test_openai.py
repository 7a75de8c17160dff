"""The openai back end against servers that misbehave: right completions, or one error; nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from amplification.errors import InputError, ServingError
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams, StreamingSampler
from amplification.serving.config import HttpConfig, ServingConfig
from amplification.serving.openai import OpenAISampler
from amplification.serving.openai_protocol import share_out
from tests.amplification.serving.faulty_server import Body, Fault, FaultyServer, answer_to

MODEL = ModelRef("served")
GREEDY = SamplingParams(max_tokens=3)
HOT = SamplingParams(max_tokens=3, temperature=1.0)
SOON = {"timeout": 0.5, "deadline": 2.0}


def sampler(*servers: FaultyServer | str, **options: Any) -> OpenAISampler:
    urls = tuple(server if isinstance(server, str) else server.url for server in servers)
    return OpenAISampler(ServingConfig(backend="openai", http=HttpConfig(servers=urls, **options)))


def calls(number: int, params: SamplingParams = GREEDY) -> list[Call]:
    return [Call(MODEL, f"prompt number {i}", params) for i in range(number)]


def assert_right(asked: list[Call], got: list[Completion]) -> None:
    assert [(c.text, c.finished, c.error) for c in got] == [(answer_to(call.prompt), True, None) for call in asked]


def dead_url() -> str:
    """Where nobody listens any more."""
    with FaultyServer() as server:
        return server.url


def choices(change: Callable[[list[Body]], object]) -> Fault:
    return Fault(change=lambda reply: change(reply["choices"]))


FAULTS = {
    "500": Fault(status=500),
    "502 in HTML": Fault(status=502, body=b"<html>Bad Gateway</html>"),
    "503 with Retry-After": Fault(status=503, headers={"Retry-After": "0"}),
    "429 with Retry-After": Fault(status=429, headers={"Retry-After": "0"}),
    "429 without": Fault(status=429),
    "408": Fault(status=408),
    "half a body": Fault(cut=True),
    "no word": Fault(drop=True),
    "too slow": Fault(hang=True),
    "garbage": Fault(body=b"{]"),
    "an empty body": Fault(body=b" "),
    "deep JSON": Fault(body=b"[" * 100_000),
    "a list": Fault(body=b"[1]"),
    "no choices": Fault(body=b'{"object": "text_completion"}'),
    "too few": choices(lambda them: them.pop()),
    "too many": choices(lambda them: them.append(dict(them[-1], index=len(them)))),
    "one index twice": choices(lambda them: them[0].update(index=1)),
    "an index that is no number": choices(lambda them: them[0].update(index=[0])),
    "no text": choices(lambda them: them[0].update(text=None)),
    "broken off": choices(lambda them: them[0].update(finish_reason="abort")),
    "no reason": choices(lambda them: them[0].pop("finish_reason")),
    "not even objects": Fault(change=lambda reply: reply.update(choices=[1, 2])),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_got_over(name: str) -> None:
    with FaultyServer([FAULTS[name], FAULTS[name]]) as server:
        asked = calls(20)
        assert_right(asked, sampler(server, timeout=0.5, prompts_per_request=8).sample(asked))
        assert server.answered == Counter(call.prompt for call in asked)
        assert len(server.asked) == 3 + 2


@pytest.mark.parametrize("name", [name for name in FAULTS if "429" not in name and "503" not in name])
def test_a_fault_that_stays_ends_in_one_error_that_names_the_server(name: str) -> None:
    with FaultyServer(always=FAULTS[name]) as server:
        with pytest.raises(ServingError) as raised:
            sampler(server, retries=2, timeout=0.3).sample(calls(4))
        assert server.url in str(raised.value) and str(raised.value).isprintable()
        assert len(server.asked) == 3 and not server.answered


@pytest.mark.parametrize("fault", [Fault(status=429), Fault(status=503, headers={"Retry-After": "60"})])
def test_a_server_that_stays_busy_ends_at_the_deadline(fault: Fault) -> None:
    with (
        FaultyServer(always=fault) as server,
        pytest.raises(ServingError, match=f"{server.url} answered {fault.status}"),
    ):
        sampler(server, deadline=0.5).sample(calls(4))


def test_retry_after_is_kept_to() -> None:
    with FaultyServer([Fault(status=429, headers={"Retry-After": "1"})]) as slow, FaultyServer() as other:
        asked = calls(64)
        # One request at a time: after its refusal, the first server gets none of the others, which take no second.
        got = sampler(slow, other, requests_under_way=1, prompts_per_request=4).sample(asked)
        assert_right(asked, got)
        assert slow.answered + other.answered == Counter(call.prompt for call in asked)
        assert len(slow.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_told_in_the_servers_words_and_not_asked_again(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sesame")
    words = json.dumps({"error": {"message": "no\x1b[31m\n such sesame " + "x" * 9_000}}).encode()
    with FaultyServer(always=Fault(status=status, body=words)) as server:
        with pytest.raises(ServingError, match=rf"{status}: no \[31m such \[key\] xxx") as raised:
            sampler(server, api_key_env="SERVER_KEY").sample(calls(4))
        assert len(server.asked) == 1 and len(str(raised.value)) < 500 and str(raised.value).isprintable()
        assert server.headers[0]["authorization"] == "Bearer sesame"


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVER_KEY", raising=False)
    with pytest.raises(InputError, match=r"\$SERVER_KEY"):
        sampler("http://127.0.0.1:1/v1", api_key_env="SERVER_KEY")


def test_empty_texts_and_cut_off_answers_are_answers() -> None:
    def change(them: list[Body]) -> None:
        them[0].update(text="")
        them[1].update(finish_reason="length")

    with FaultyServer([choices(change)]) as server:
        empty, cut, whole = sampler(server).sample(calls(3))
        assert (empty.text, empty.finished, empty.error) == ("", True, None)
        assert (cut.finished, whole.finished) == (False, True)


def test_half_a_character_does_no_harm() -> None:
    with FaultyServer([choices(lambda them: them[0].update(text="a\ud83d"))]) as server:
        broken, fine = sampler(server).sample([Call(MODEL, "a\ud83d", GREEDY), Call(MODEL, "b", GREEDY)])
        assert broken.error == "the prompt is not valid text"
        assert fine.text.encode() and fine.error is None


def test_one_prompt_that_is_too_long_fails_alone() -> None:
    words = {"error": {"message": "too long by far", "param": "input_tokens", "code": 400}}

    def refuse(path: str, asked: Body) -> Fault | None:
        return Fault(status=400, body=json.dumps(words).encode()) if "long" in " ".join(asked["prompt"]) else None

    with FaultyServer() as server:
        server.refuse = refuse
        asked = [*calls(30), Call(MODEL, "long", GREEDY), *calls(3), Call(MODEL, " ", GREEDY)]
        got = sampler(server).sample(asked)
        assert [c.error for c in got if c.error] == ["too long by far", "the prompt is empty"]
        fine = [i for i, c in enumerate(got) if not c.error]
        assert_right([asked[i] for i in fine], [got[i] for i in fine])
        assert server.answered == Counter(asked[i].prompt for i in fine)


def test_a_dead_server_is_left_alone_and_all_go_to_the_other() -> None:
    with FaultyServer() as alive:
        asked = calls(100)
        opened = sampler(dead_url(), alive, prompts_per_request=10)
        assert_right(asked, opened.sample(asked))
        assert_right(asked, opened.sample(asked))
        assert set(alive.answered.values()) == {2} and len(alive.answered) == 100


def test_when_all_are_down_the_error_names_them() -> None:
    one, two = dead_url(), dead_url()
    with pytest.raises(ServingError) as raised:
        sampler(one, two, **SOON).sample(calls(3))
    assert one in str(raised.value) and two in str(raised.value)


def test_a_server_that_dies_in_the_middle_loses_nothing() -> None:
    with FaultyServer([Fault(), Fault(drop=True)], always=Fault(drop=True)) as dying, FaultyServer() as alive:
        asked = calls(200)
        assert_right(asked, sampler(dying, alive, prompts_per_request=10).sample(asked))
        assert dying.answered + alive.answered == Counter(call.prompt for call in asked)


def test_requests_are_spread_over_servers_and_bounded() -> None:
    with FaultyServer() as one, FaultyServer() as two:
        asked = calls(130)
        got = sampler(one, two, prompts_per_request=64).sample(asked)
        assert_right(asked, got)
        assert sorted(len(body["prompt"]) for body in one.asked + two.asked) == [43, 43, 44]
        assert one.asked and two.asked


def test_it_streams_and_a_consumer_that_stops_aborts_what_is_under_way() -> None:
    async def first(opened: StreamingSampler, asked: list[Call]) -> list[tuple[int, Completion]]:
        pieces = opened.stream(asked)
        async for piece in pieces:
            await pieces.aclose()  # type: ignore[attr-defined]
            return piece
        raise AssertionError

    with FaultyServer([Fault()], always=Fault(hang=True)) as server:
        asked = calls(8)
        piece = asyncio.run(first(sampler(server, prompts_per_request=2, requests_under_way=2), asked))
        assert_right([asked[place] for place, _ in piece], [completion for _, completion in piece])
        assert server.aborted.wait(10)


def test_streams_side_by_side_in_one_loop_and_then_in_another() -> None:
    async def collect(opened: OpenAISampler, asked: list[Call]) -> dict[int, Completion]:
        return {place: completion async for piece in opened.stream(asked) for place, completion in piece}

    async def both(opened: OpenAISampler, asked: list[Call]) -> None:
        for got in await asyncio.gather(collect(opened, asked), collect(opened, asked)):
            assert_right(asked, [got[i] for i in range(len(asked))])
        assert_right(asked, opened.sample(asked))  # inside a running loop as well

    with FaultyServer() as server:
        opened, asked = sampler(server, prompts_per_request=5, requests_under_way=2), calls(50)
        for _ in range(2):
            asyncio.run(both(opened, asked))
        opened.close()
        opened.close()
        assert_right(asked, opened.sample(asked))
        assert set(server.answered.values()) == {7}


def test_counts_are_exact_from_token_ids_and_shared_out_without() -> None:
    asked = [Call(MODEL, prompt, GREEDY) for prompt in ("one", "one two three four", "one two")]
    with FaultyServer() as server:
        exact = sampler(server).sample(asked)
        assert [(c.prompt_tokens, c.completion_tokens) for c in exact] == [(1, 2), (4, 2), (2, 2)]
        shared = sampler(server, dialect="openai").sample(asked)
        assert sum(c.prompt_tokens for c in shared) == 7 and sum(c.completion_tokens for c in shared) == 6
        vllms, plain = server.asked
        assert vllms["return_token_ids"] and vllms["repetition_penalty"] == 1.0
        assert not {"return_token_ids", "repetition_penalty", "top_k", "min_p"} & set(plain)


def test_shares_add_up() -> None:
    assert share_out(7, [1, 1, 1]) == [3, 2, 2]
    assert share_out(5, [0, 0]) == [3, 2]
    assert share_out(0, [3, 4]) == [0, 0]
    assert share_out(10, [0, 1]) == [0, 10]


def test_log_probabilities_are_summed_when_asked_for() -> None:
    with FaultyServer([choices(lambda them: them[0]["logprobs"].update(token_logprobs=[None]))]) as server:
        asked = calls(2, SamplingParams(logprob=True))
        assert [c.logprob for c in sampler(server).sample(asked)] == [-0.75, -0.75]
        assert len(server.asked) == 2 and server.asked[0]["logprobs"] == 0
        assert sampler(server).sample(calls(1))[0].logprob is None


def test_a_schema_and_stop_strings_are_passed_on() -> None:
    params = SamplingParams(stop=("\n", "."), top_p=0.5, json_schema='{"type": "integer"}')
    with FaultyServer() as server:
        sampler(server).sample(calls(2, params))
        body = server.asked[0]
        assert (body["stop"], body["top_p"], body["max_tokens"]) == (["\n", "."], 0.5, 4)
        assert body["response_format"]["json_schema"]["schema"] == {"type": "integer"}
        with pytest.raises(InputError, match="json_schema"):
            sampler(server).sample(calls(1, SamplingParams(json_schema="{")))


def test_draws_have_seeds_of_their_own_whatever_they_travel_with() -> None:
    asked = [Call(MODEL, "x", HOT, sample) for sample in range(20)]
    with FaultyServer() as server:
        together = [c.text for c in sampler(server).sample(asked)]
        alone = [sampler(server).sample([call])[0].text for call in asked]
        assert together == alone and len(set(together)) > 3
        assert all(len(body["prompt"]) == 1 and body["seed"] >= 0 for body in server.asked)
        server.asked.clear()
        sampler(server, own_seeds=False).sample(asked)
        assert [len(body["prompt"]) for body in server.asked] == [20] and "seed" not in server.asked[0]


def test_an_adapter_is_loaded_once_under_a_name_made_of_its_weights(tiny_adapter: Path, other_adapter: Path) -> None:
    one, two = ModelRef("base", str(tiny_adapter)), ModelRef("base", str(other_adapter))
    asked = [Call(model, f"p {i}", GREEDY) for i in range(3) for model in (one, two, ModelRef("base"))]
    with FaultyServer() as server:
        opened = sampler(server, model="served")
        assert_right(asked, opened.sample(asked))
        assert_right(asked, opened.sample(asked))
        loads = [body for path, body in zip(server.paths, server.asked, strict=True) if path == "/v1/load_lora_adapter"]
        # Each event loop asks once more: it may be another server by then, and to ask again does no harm.
        assert Counter(load["lora_path"] for load in loads) == {str(tiny_adapter): 2, str(other_adapter): 2}
        names = {body["model"] for path, body in zip(server.paths, server.asked, strict=True) if "completions" in path}
        assert names == {"served", *(load["lora_name"] for load in loads)} and len(names) == 3


def test_a_server_that_lost_its_adapters_is_told_again(tiny_adapter: Path) -> None:
    asked = [Call(ModelRef("base", str(tiny_adapter)), "p", GREEDY)]
    with FaultyServer([Fault(), Fault(status=404)]) as server:
        assert_right(asked, sampler(server).sample(asked))
        assert server.paths == ["/v1/load_lora_adapter", "/v1/completions"] * 2


def test_a_server_without_the_route_may_know_the_adapter_already(tiny_adapter: Path) -> None:
    asked = [Call(ModelRef("base", str(tiny_adapter)), "p", GREEDY)]
    with FaultyServer([Fault(status=404, body=b'{"detail": "Not Found"}')]) as server:
        assert_right(asked, sampler(server).sample(asked))
    missing = Fault(status=404, body=b'{"detail": "Not Found"}')
    with FaultyServer(always=missing) as server, pytest.raises(ServingError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        sampler(server, retries=1).sample(asked)


def test_an_adapter_that_the_server_cannot_load_is_told(tiny_adapter: Path) -> None:
    words = b'{"error": {"message": "rank 64 is above max_lora_rank"}}'
    with FaultyServer(always=Fault(status=400, body=words)) as server, pytest.raises(ServingError, match="rank 64 is"):
        sampler(server).sample([Call(ModelRef("base", str(tiny_adapter)), "p", GREEDY)])


def test_one_served_name_cannot_stand_for_two_models() -> None:
    with FaultyServer() as server, pytest.raises(InputError, match=r"serving\.http\.model"):
        sampler(server, model="served").sample([Call(ModelRef("one"), "p", GREEDY), Call(ModelRef("two"), "p", GREEDY)])


def test_parameters_come_from_the_settings_or_the_folder(tiny_model: Path) -> None:
    assert sampler("http://h/v1", parameters=7).parameters(MODEL) == 7
    assert sampler("http://h/v1").parameters(ModelRef(str(tiny_model))) > 10_000
    with pytest.raises(InputError, match=r"serving\.http\.parameters"):
        sampler("http://h/v1").parameters(ModelRef("./no-such-folder"))


@pytest.mark.parametrize("servers", [(), ("localhost:8000",), ("ftp://h/v1",), ("http://h/v1", "http://h/v1")])
def test_servers_must_be_urls(servers: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="servers"):
        HttpConfig(servers=servers)


def test_a_proxy_from_the_environment_is_not_used_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", dead_url())
    monkeypatch.delenv("NO_PROXY", raising=False)
    with FaultyServer() as server:
        assert_right(calls(2), sampler(server).sample(calls(2)))
