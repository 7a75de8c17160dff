"""Imitators learn from recorded steps of real overseers alone, and take over what they are sure of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplification.amplified import Amplified
from amplification.benchmarks.server import vllm_server
from amplification.dispatch import Dispatcher
from amplification.errors import InputError
from amplification.overseers.config import OverseerConfig
from amplification.overseers.imitator import IMITATOR, ImitatingOverseer, imitator_agent
from amplification.overseers.notation import parse_action
from amplification.overseers.opening import Parts, open_overseer
from amplification.overseers.program import ProgramOverseer
from amplification.question import Question
from amplification.serving import open_sampler
from amplification.serving.base import Call, ModelRef
from amplification.serving.config import HttpConfig, ServingConfig
from amplification.serving.transformers import TransformersSampler
from amplification.store import Store
from amplification.tasks import TASKS
from amplification.tasks.summing import PHRASINGS
from amplification.workspace import Reply, Workspace
from distill.config import ImitatorTraining, ModelConfig
from distill.experiments.imitation import imitation
from distill.experiments.recording import LIMITS, answered, exact_agent
from distill.imitate_overseer import MISTAKES, Tried, imitate, lessons_from, recorded, threshold_from
from distill.overseer_model import byte_tokenizer
from tests.distill.training import silent

TASK = TASKS["summing"]
REAL = ProgramOverseer({"summing": TASK})
SETTINGS = ImitatorTraining(model=ModelConfig(width=64, layers=2, heads=2, max_length=256), steps=120, batch=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with episodes of sums of one digit and of two."""
    store = Store.at(tmp_path_factory.mktemp("recorded") / "store.sqlite")
    digits = [f"{phrasing} {digit}" for phrasing in PHRASINGS for digit in range(10)]
    answered(TASK, REAL, [*digits, "sum of 3 7"], store)
    yield store
    store.close()


def test_every_recorded_step_is_a_lesson_once(store: Store) -> None:
    lessons = lessons_from(recorded(store))
    assert len(lessons) == 52
    asked = next(lesson for lesson in lessons if lesson.kind == "Ask")
    assert parse_action(asked.action, Workspace(Question("sum of 3 7"))) == next(
        step.action for _, step in recorded(store) if step.children
    )


def test_what_an_imitator_decided_teaches_nothing(store: Store) -> None:
    steps = list(recorded(store))
    for _, step in steps[1:]:
        step.by = f"{IMITATOR}abc"
    assert len(lessons_from(steps)) == 1


def test_all_steps_of_a_question_are_kept_aside_or_none(store: Store) -> None:
    aside: dict[str, set[bool]] = {}
    for lesson in lessons_from(recorded(store)):
        aside.setdefault(lesson.prompt.splitlines()[0], set()).add(lesson.aside)
    assert all(len(kept) == 1 for kept in aside.values())
    assert set().union(*aside.values()) == {True, False}


tried = st.lists(st.builds(Tried, st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]), st.booleans()), min_size=1, max_size=40)


@given(tried)
def test_a_threshold_keeps_mistakes_out(found: list[Tried]) -> None:
    threshold = threshold_from(found)
    taken = [one.right for one in found if one.probability >= threshold and threshold < 1]
    assert taken.count(False) <= MISTAKES * len(taken)


def test_what_is_always_right_is_nearly_all_taken() -> None:
    found = [Tried(0.5 + number / 1_000, True) for number in range(400)]
    threshold = threshold_from(found)
    assert sum(one.probability < threshold for one in found) == 16  # four in a hundred are left


def test_the_tokenizer_can_write_anything() -> None:
    tokenizer = byte_tokenizer(["sum of 3 7"], 300)
    for text in ('{"ask": ["sum of 3", "é\\u4e2d \\n"]}', "a\tb\u2028c  d", "\U0001f600"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.fixture(scope="module")
def imitator(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imitator")
    lessons = [lesson for lesson in lessons_from(recorded(store)) if lesson.kind == "Reply"]
    sampler = TransformersSampler(ServingConfig(backend="transformers", max_model_len=256))
    metrics = imitate(lessons, SETTINGS, sampler, folder, 1, silent)
    assert metrics["lessons"] + metrics["aside"] == len(lessons)
    return folder


def test_an_imitator_takes_the_real_overseers_steps(imitator: Path) -> None:
    agent, threshold = imitator_agent(imitator)
    dispatcher = Dispatcher(TransformersSampler(ServingConfig(backend="transformers", max_model_len=256)))
    overseer = ImitatingOverseer(agent, dispatcher, LIMITS.workspace_chars, min(threshold, 0.5), REAL)
    a, exact = exact_agent(TASK)
    amplified = Amplified(overseer, a, exact, LIMITS)
    texts = [f"sum of {digit}" for digit in range(10)]
    episodes = [asyncio.run(amplified.answer(Question(text))) for text in texts]
    assert [episode.answer.text for episode in episodes] == [str(digit) for digit in range(10)]
    assert overseer.imitated >= 5
    assert {episode.tree.steps[0].by for episode in episodes if episode.tree.steps} <= {overseer.by, REAL.name}


def test_too_few_steps_are_told(tmp_path: Path) -> None:
    sampler = TransformersSampler(ServingConfig(backend="transformers"))
    with pytest.raises(InputError, match="too few"):
        imitate([], SETTINGS, sampler, tmp_path / "out", 1, silent)


def test_the_action_is_what_the_model_was_asked_for(imitator: Path) -> None:
    agent, _ = imitator_agent(imitator)
    sampler = TransformersSampler(ServingConfig(backend="transformers", max_model_len=256))
    prompt = "question: sum of 4\nleft: 1000 calls, 1000000 tokens, 10 levels, 100 seconds\nstep:"
    [written] = sampler.sample([Call(ModelRef(str(imitator)), prompt, agent.params)])
    assert isinstance(parse_action(written.text, Workspace(Question("sum of 4"))), Reply)


def test_a_model_behind_a_url_is_the_overseer(imitator: Path, tmp_path: Path) -> None:
    """A real vLLM server on loopback: constrained to the schema of actions, named by URL and model alone, by its
    completions and by its chat, whose template here adds no more than completions do."""
    plain = tmp_path / "plain.jinja"
    plain.write_text("{{ bos_token }}{{ messages[0]['content'] }}", encoding="utf-8")
    options = ("--max-model-len", "256", "--served-model-name", "overseer", "--chat-template", str(plain))
    tokens = []
    with vllm_server(imitator, *options) as server:
        for endpoint in ("completions", "chat"):
            http = HttpConfig.model_validate({"servers": [server.url], "endpoint": endpoint})
            serving = ServingConfig(backend="openai", http=http)
            section = {"model": "overseer", "serving": serving, "template": "step_short", "max_tokens": 64}
            config = OverseerConfig.model_validate({"kind": "language_model", "language_model": section})
            sampler = open_sampler(serving)
            dispatcher = Dispatcher(sampler)
            overseer = open_overseer(config, Parts({}, LIMITS, serving, {serving: dispatcher}.__getitem__))
            found = answered(TASK, overseer, [f"sum of {digit}" for digit in range(10)])
            sampler.close()
            assert found.accuracy == 1.0
            assert (found.cost.overseer_calls, found.cost.calls) == (10, 0)
            tokens.append(found.cost.overseer_tokens)
    assert 0 < tokens[0] == tokens[1] < 10 * 256


def test_an_imitator_that_has_learned_nothing_takes_over_nothing(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 2, "max_tokens": 12})
    serving = ServingConfig(backend="transformers")
    measured = imitation(TASK, settings, serving, tmp_path, 1, silent, record=30, held_out=4)
    assert measured.taken_over == 0
    assert measured.real_calls_after == measured.real_calls_before > 0
    assert (measured.accuracy_before, measured.accuracy_after) == (1.0, 1.0)
    assert json.loads(json.dumps(measured.as_dict()))["task"] == "summing"
