"""An imitator decides where it is sure; elsewhere the real overseer is asked, and the episode says who decided."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Episode
from amplification.errors import InputError
from amplification.memo import Memo
from amplification.overseers.imitator import IMITATOR_FILE, ImitatingOverseer, imitator_agent
from amplification.overseers.program import ProgramOverseer
from amplification.question import Question
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.scripted import ScriptedSampler
from amplification.store import Store
from amplification.tasks import TASKS

AGENT = Agent("a", ModelRef("agent"), "agent")
MODEL = Agent("i", ModelRef("imitator"), "imitator", SamplingParams(max_tokens=100, logprob=True), "step_short")
QUESTION = "sum of 3 7"
REAL = ProgramOverseer(TASKS)


def imitated(writes: str, probability: float, memo: Memo | None = None) -> tuple[Episode, ImitatingOverseer]:
    """The episode of a question for which the imitator writes this at the first step and always replies 99 later."""

    def say(call: Call) -> str:
        if call.model.base == "agent":
            return TASKS["summing"].truth(call.prompt.removesuffix(" :"))
        return '{"reply": "99"}' if "answer:" in call.prompt else writes

    sampler = ScriptedSampler(answers=say, logprobs=lambda call: math.log(probability))
    dispatcher = Dispatcher(sampler, memo)
    overseer = ImitatingOverseer(MODEL, dispatcher, 4_000, 0.9, REAL)
    return asyncio.run(Amplified(overseer, AGENT, dispatcher, Limits()).answer(Question(QUESTION))), overseer


ASKS = json.dumps({"ask": ["sum of 3", "sum of 7"]})


def test_where_it_is_sure_it_decides() -> None:
    episode, overseer = imitated(ASKS, 0.95)
    assert episode.answer.text == "99"
    assert {step.by for step in episode.tree.steps or ()} == {overseer.by}
    assert (overseer.imitated, overseer.asked) == (2, 0)


def test_where_it_is_not_the_real_overseer_is_asked() -> None:
    episode, overseer = imitated(ASKS, 0.85)
    assert episode.answer.text == "10"
    assert {step.by for step in episode.tree.steps or ()} == {REAL.name}
    assert (overseer.imitated, overseer.asked) == (0, 2)
    assert episode.cost.overseer_calls == 2  # its own model's, which were in vain


@pytest.mark.parametrize("writes", ["", "{", '{"look": "$1", "from": 0}', "9" * 1_000])
def test_what_is_no_action_is_never_taken_however_sure_it_is(writes: str) -> None:
    episode, overseer = imitated(writes, 1.0)
    assert [step.by for step in episode.tree.steps or ()] == [REAL.name, overseer.by]


def test_after_a_restart_it_is_as_sure_as_before(tmp_path: Path) -> None:
    first, _ = imitated(ASKS, 0.95, Memo(Store.at(tmp_path / "s.sqlite"), "one"))
    again, overseer = imitated("nothing", 0.1, Memo(Store.at(tmp_path / "s.sqlite"), "one"))
    assert again.tree == first.tree
    assert overseer.asked == 0


def test_it_needs_log_probabilities() -> None:
    with pytest.raises(ValueError, match="log-probabilities"):
        ImitatingOverseer(AGENT, Dispatcher(ScriptedSampler()), 4_000, 0.9, REAL)


@pytest.mark.parametrize("record", [None, "{", "[]", '{"threshold": 0.5}', '{"threshold": "high", "max_tokens": 3}'])
def test_a_folder_that_holds_no_imitator_is_told(tmp_path: Path, record: str | None) -> None:
    if record is not None:
        (tmp_path / IMITATOR_FILE).write_text(record, encoding="utf-8")
    with pytest.raises(InputError, match="amplify imitate"):
        imitator_agent(tmp_path)
