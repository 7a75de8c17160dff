"""Votes are counted as they say, corrections always end somewhere, slots are never lost."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from pydantic import ValidationError

import prompts
from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.collector import rare_collections
from amplification.corrections import Corrections
from amplification.dispatch import Dispatcher
from amplification.memo import Memo
from amplification.overseers.program import ProgramOverseer
from amplification.question import Answer, Question
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams
from amplification.slots import Slots
from amplification.store import Store
from amplification.tasks import TASKS
from amplification.voting import Voting

ANSWERS = st.lists(st.sampled_from(["1", "2", "3", ""]), min_size=1, max_size=9)


@given(ANSWERS)
def test_the_majority_wins_and_of_equals_the_first(texts: list[str]) -> None:
    answers = [Answer(text) if text else Answer.failed("no") for text in texts]
    elected = Voting().elect(answers, [None] * len(answers))
    given_ones = [text for text in texts if text]
    if not given_ones:
        assert not elected.ok
        return
    most = max(map(given_ones.count, given_ones))
    assert elected.text == next(text for text in given_ones if given_ones.count(text) == most)


def test_by_probability_one_sure_answer_outweighs_two_unsure_ones() -> None:
    answers, logprobs = [Answer("2"), Answer("1"), Answer("2")], [-3.0, -0.1, -2.0]
    assert Voting(weights="probability").elect(answers, logprobs).text == "1"
    assert Voting(weights="majority").elect(answers, logprobs).text == "2"
    assert Voting(weights="probability").elect(answers, [None, None, None]).text == "2"


def test_votes_by_probability_ask_for_probabilities_and_keep_them_in_the_store(tmp_path: Path) -> None:
    class Unsure:
        def sample(self, calls: Sequence[Call]) -> list[Completion]:
            assert all(call.params.logprob for call in calls)
            return [
                Completion("1" if call.sample == 0 else "2", 2, 1, logprob=-0.1 - 3 * call.sample) for call in calls
            ]

        def parameters(self, model: ModelRef) -> int:
            return 1

        def close(self) -> None:
            pass

    store, voting = Store.at(tmp_path / "s.sqlite"), Voting(samples=(3,), weights="probability")
    agent = Agent("a", ModelRef("base"), "d", SamplingParams(temperature=1.0))
    for hits in (0, 3):  # the second time all three are from the store, and weigh the same
        dispatcher = Dispatcher(Unsure(), Memo(store, f"scope {hits}"))
        amplified = Amplified(ProgramOverseer(TASKS), agent, dispatcher, Limits(), voting)
        episode = asyncio.run(amplified.answer(Question("sum of 1 0")))
        assert episode.answer.text == "2"  # A says 1 to both halves
        assert episode.cost.memo_hits == 2 * hits
    store.close()


def test_the_last_number_of_samples_goes_for_all_that_is_deeper() -> None:
    assert [Voting(samples=(5, 3, 1)).samples_at(depth) for depth in (0, 1, 2, 9)] == [5, 3, 1, 1]
    for samples in ((), (0,), (3, -1), (1_001,)):
        with pytest.raises(ValidationError):
            Voting(samples=samples)


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("abcdef"), max_size=6), st.sampled_from("abcdef"))
def test_edits_of_edits_end_even_in_a_circle(edits: dict[str, str], start: str) -> None:
    corrections = Corrections(edited={Question(k).digest: Question(v) for k, v in edits.items()})
    asked = corrections.asked(Question(start)).text
    seen, at = [start], start
    while at in edits and edits[at] not in seen:
        at = edits[at]
        seen.append(at)
    assert asked == at


def test_a_rejection_is_of_one_answer_to_one_question() -> None:
    corrections = Corrections().rejecting(Question("q"), Answer("wrong"))
    assert corrections.rejects(Question("q"), Answer("wrong"))
    assert not corrections.rejects(Question("q"), Answer("right"))
    assert not corrections.rejects(Question("other"), Answer("wrong"))
    assert not corrections.rejects(Question("q"), Answer("wrong", failure="none"))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_slots_are_kept_to_and_none_is_lost_when_waiters_are_cancelled(seed: int, count: int) -> None:
    rng = random.Random(seed)
    slots, inside, most = Slots(count), 0, 0

    async def work(depth: int) -> None:
        nonlocal inside, most
        async with slots:
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(0)
            finally:
                inside -= 1
            if depth and rng.random() < 0.6:
                with slots.lent():
                    await asyncio.gather(*(work(depth - 1) for _ in range(2)))

    async def run() -> None:
        tasks = [asyncio.create_task(work(3)) for _ in range(10)]
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
            rng.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    assert slots.free == count
    assert most <= count


def test_the_newest_waits_least() -> None:
    order: list[int] = []

    async def work(slots: Slots, number: int) -> None:
        async with slots:
            order.append(number)
            await asyncio.sleep(0)

    async def run() -> None:
        slots = Slots(1)
        await asyncio.gather(*(work(slots, number) for number in range(4)))

    asyncio.run(run())
    assert order == [0, 3, 2, 1]


def test_a_memo_forgets_in_memory_what_its_store_keeps(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "s.sqlite")
    memo = Memo(store, "one", most=10)
    keys = [("a", f"prompt {n}", "p", 0) for n in range(50)]
    for key in keys:
        memo.put([(key, Completion(key[1], 2, 1, logprob=-0.5))])
    assert len(memo._known) == 10
    for key in keys:
        assert memo.get(key) == (Completion(key[1], 2, 1, logprob=-0.5), True)
    assert memo.get(("a", "prompt 50", "p", 0)) == (None, False)
    resumed = Memo(store, "one", most=10)
    resumed.load("a")
    for key in keys:  # what the same scope wrote before counts as a call the first time, whether in memory or not
        assert resumed.get(key) == (Completion(key[1], 2, 1, logprob=-0.5), False)
        assert resumed.get(key) == (Completion(key[1], 2, 1, logprob=-0.5), True)
    store.close()


def test_the_collector_is_as_before_once_the_last_episode_ends() -> None:
    before = gc.get_threshold()
    with rare_collections():
        with pytest.raises(RuntimeError), rare_collections():
            raise RuntimeError
        assert gc.get_threshold() > before
        assert gc.isenabled()
    assert gc.get_threshold() == before


@given(st.text())
def test_a_plain_prompt_is_filled_in_as_jinja_does(text: str) -> None:
    template, plain = prompts._prompt("direct")
    assert plain is not None
    assert prompts.render("direct", question=text) == template.render(question=text)


def test_a_missing_variable_raises() -> None:
    with pytest.raises(UndefinedError):
        prompts.render("direct", answer="x")


def test_only_text_around_one_variable_is_plain() -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment()
    for source in ("{{ q | upper }}", "{{ q }}{{ q }}", "{% if q %}{{ q }}{% endif %}", "{{ q.x }}", "text", "{{ 1 }}"):
        assert prompts._plain(environment.parse(source)) is None
    assert prompts._plain(environment.parse("a{# no #}b {{ q }} c")) == ("ab ", "q", " c")
