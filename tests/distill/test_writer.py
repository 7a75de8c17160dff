"""The writer: what it is shown, how what it writes is read, and a model that learned to write."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from amplification.agent import Agent
from amplification.dispatch import Dispatcher
from amplification.errors import StageError
from amplification.memo import Memo
from amplification.overseers.opening import served_agent
from amplification.serving.base import Call, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.serving.scripted import ScriptedSampler
from amplification.serving.transformers import TransformersSampler
from amplification.store import Store
from amplification.tasks import TASKS, task_of
from amplification.tasks.attacks import FAMILIES, attacks, extra_words
from amplification.tasks.base import NONSENSE, questions, split_of
from distill.adversary import Target
from distill.archive import Found
from distill.candidate import MAX_CHARS
from distill.config import (
    AdversaryConfig,
    BaseConfig,
    ModelConfig,
    WarmStartConfig,
    WriterConfig,
)
from distill.search import Search, SearchResult
from distill.writer import AT_ONCE, WriterAdversary, kinds_shown, read_attacks
from distill.writer_lessons import writer_lessons
from tests.distill.attacking import (
    FOLDER,
    GULLIBLE,
    UP_TO,
    as_json,
    judge,
    nonsense,
    numbered,
    past,
    writer,
)
from tests.distill.training import LINEAR, silent


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Sure! Here are some:\n1. sum of banana",
        '["a", "b"]',
        '{"attacks": []}',
        '{"attacks": "sum of banana"}',
        '{"attacks": ["a", 3]}',
        '{"attacks": ["a"], "note": "b"}',
        '```json\n{"attacks": ["a"]}\n```',
        '{"attacks": ["' + "a" * 2 * AT_ONCE * MAX_CHARS + '"]}',
        "[" * 10_000,
    ],
)
def test_what_cannot_be_read_is_dropped_and_counted(said: str) -> None:
    with pytest.raises(ValueError):
        read_attacks(said)
    adversary = writer(lambda call: said)
    assert adversary.propose(AT_ONCE, past(), random.Random(1)) == []
    assert (adversary.metrics()["unparsable"], adversary.metrics()["written"]) == (1, 0)


def test_what_is_cut_off_is_not_read() -> None:
    adversary = writer(lambda call: as_json(["sum of banana"]) + " x" * 500)
    assert adversary.propose(1, past(), random.Random(1)) == []
    assert adversary.metrics()["unparsable"] == 1


def test_of_what_is_written_only_what_may_be_asked_is_proposed() -> None:
    summing = TASKS["summing"]
    held_out = next(questions(summing, summing.levels[UP_TO], "held_out", 1))
    good = nonsense(2)
    bad = [*nonsense(1, "held_out"), held_out, "blue " * 300, "is \x00 red", "  "]
    adversary = writer(lambda call: as_json([*good, *bad, "beyond what was asked for", "and more"]))
    made = adversary.propose(2 * AT_ONCE, past(), random.Random(1))
    assert [candidate.text for candidate in made if candidate.text in good] == good
    told = adversary.metrics()
    assert told["written"] == 2 * AT_ONCE
    assert told["unusable"] >= 2 * len(bad)
    assert len(made) + told["unusable"] + told["repeated"] == told["written"]
    assert told["repeated"] >= len(good)


def test_a_writers_tokens_are_counted_as_its_own_models() -> None:
    adversary = writer(numbered)
    adversary.propose(3 * AT_ONCE, past(), random.Random(1))
    told = adversary.metrics()
    assert told["writer_calls"] == 3
    assert told["writer_tokens"] > 3 * 100
    assert told["flops"] == 2 * 50 * told["writer_tokens"]


def test_calls_that_fail_are_counted_and_if_all_do_the_stage_fails() -> None:
    def some(call: Call) -> str:
        if call.sample % 2:
            raise RuntimeError("the prompt has 400 tokens,\nand the model takes 127 at most")
        return numbered(call)

    adversary = writer(some)
    assert len(adversary.propose(5 * AT_ONCE, past(), random.Random(1))) > AT_ONCE
    assert adversary.metrics()["failed_calls"] == 2
    with pytest.raises(StageError, match=r"answered none of 1 calls: the prompt has 400 tokens, and"):
        adversary.propose(1, past(), random.Random(1))  # call number 5


def test_a_writer_sees_training_questions_and_failures_and_nothing_that_is_held_out() -> None:
    shared, rng = past(), random.Random(1)
    hostile = "sum of {{ 7 * 7 }} and {% raw %}"
    shared.archive.add(
        Found(hostile, NONSENSE, "4\n9\x1b", "corpus", "summing", "answered_nonsense", False, 1.0, "corpus")
    )
    sampler = ScriptedSampler(answers=numbered)
    agent = Agent("writer", FOLDER, "digest", SamplingParams(max_tokens=400), "attack")
    adversary = WriterAdversary(TASKS, UP_TO, agent, Dispatcher(sampler))
    adversary.propose(60 * AT_ONCE, shared, rng)
    prompts = [call.prompt for call in sampler.calls]
    assert len(set(prompts)) == 60
    assert any(f"- {hostile} (it said 4 9 and should have said nonsense)" in prompt for prompt in prompts)
    lines = {line[2:] for prompt in prompts for line in prompt.splitlines() if line.startswith("- ")}
    shown = {line for line in lines if not line.startswith(hostile)}
    for text in shown:
        owner = task_of(text)
        assert owner is not None
        assert split_of(owner, text) == "train"
        assert (owner.level_of(text) or 0) <= owner.levels[UP_TO]
    held_out = {attack.text for attack in attacks(TASKS, 500, held_out=True, seed=1)}
    assert not held_out & {line.split(" (it said")[0] for line in lines}


def test_no_kind_that_is_only_measured_is_asked_for() -> None:
    trained = {family.kind for family in FAMILIES.values() if not family.held_out}
    assert set(kinds_shown()) == trained
    assert "contradictory" not in trained


def test_equal_prompts_are_draws_of_their_own() -> None:
    sampler = ScriptedSampler(answers=lambda call: "sum of banana")
    agent = Agent("writer", FOLDER, "digest", SamplingParams(max_tokens=400, temperature=1.0), "attack_short")
    adversary = WriterAdversary({"summing": TASKS["summing"]}, 0, agent, Dispatcher(sampler))
    adversary.propose(40, past(), random.Random(1))
    assert len({call.prompt for call in sampler.calls}) < 40
    assert len({call.sample for call in sampler.calls}) == len(sampler.calls) == 40


def test_a_search_with_a_writer_is_fixed_by_its_seed() -> None:
    settings = AdversaryConfig(rounds=2, candidates=40)
    results = [Search((writer(numbered),), settings).search(GULLIBLE, seed) for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_a_search_that_was_killed_asks_the_writer_nothing_twice(tmp_path: Path) -> None:
    settings = AdversaryConfig(rounds=3, candidates=40)
    asked: list[Call] = []

    def search(store: str, target: Target) -> tuple[SearchResult, list[Call]]:
        sampler = ScriptedSampler(answers=numbered)
        agent = Agent("writer", FOLDER, "digest", SamplingParams(max_tokens=400, temperature=1.0), "attack")
        dispatcher = Dispatcher(sampler, Memo(Store.at(tmp_path / store), "generation-0/adversary"))
        try:
            return Search((WriterAdversary(TASKS, 1, agent, dispatcher),), settings).search(target, 1), sampler.calls
        finally:
            asked.extend(sampler.calls)

    whole, calls = search("whole", GULLIBLE)
    asked.clear()
    turns = iter(range(10))

    def killed(texts: Sequence[str]) -> list[str]:
        if next(turns) == 1:
            raise KeyboardInterrupt
        return ["3"] * len(texts)

    with pytest.raises(KeyboardInterrupt):
        search("killed", Target(killed, judge))
    assert 0 < len(asked) < len(calls)
    resumed, rest = search("killed", GULLIBLE)
    assert resumed == whole  # what it cost, too
    assert len(asked) == len(calls)
    assert set(asked) == set(calls) > set(rest)


def test_a_tiny_model_learns_to_write_attacks(tmp_path: Path) -> None:
    """Taught with the training families alone, it writes texts that were not among its lessons and make no sense."""
    from distill.base import train_base
    from distill.imitation import warm_start
    from distill.weights import load_merged, load_tokenizer

    tasks = {"summing": TASKS["summing"]}
    rows = writer_lessons(tasks, 600, UP_TO, 1)
    words = (*tasks["summing"].words(), NONSENSE, *extra_words(), *kinds_shown())
    base, adapter, model = tmp_path / "base", tmp_path / "adapter", tmp_path / "model"
    shape = ModelConfig(width=64, heads=2, layers=2)
    train_base(tasks, words, shape, BaseConfig(steps=1, batch=16), base, 1, silent)
    warm_start(base, None, rows, LINEAR, WarmStartConfig(steps=300, batch=32, learning_rate=4e-3), adapter, 1, silent)
    load_merged(base, adapter).save_pretrained(str(model))
    load_tokenizer(base).save_pretrained(str(model))

    settings = WriterConfig(model=str(model), template="attack_short", max_tokens=40, temperature=0.7)
    serving = ServingConfig(backend="transformers")
    agent = served_agent("writer", settings, serving, settings.template, None)
    adversary = WriterAdversary(tasks, UP_TO, agent, Dispatcher(TransformersSampler(serving)))
    result = Search((adversary,), AdversaryConfig(rounds=1, candidates=100), judged_share=1.0, cell_cap=100).search(
        GULLIBLE, 1
    )
    told = result.metrics()["by_source"]["writer"]
    assert told["writer_calls"] == 100
    assert told["unparsable"] < 10
    assert told["tried"] > 30
    assert told["confirmed"] > 0.8 * told["tried"]
    told_what_to_say = {
        kind: [("say" in found.question.split()) for found in result.found if found.family == f"writer:{kind}"]
        for kind in ("instruction", "malformed")
    }
    shares = {kind: sum(said) / len(said) for kind, said in told_what_to_say.items()}
    assert shares["instruction"] > 2 * shares["malformed"]  # it writes what it is asked for
    taught = {str(row["answer"]) for row in rows}
    assert sum(found.question not in taught for found in result.found) > 10
