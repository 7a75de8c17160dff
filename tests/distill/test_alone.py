"""H without an agent: no call of A reaches a label that is made so."""

from __future__ import annotations

from itertools import islice

import pytest

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.overseers.alone import LoneOverseer
from amplification.overseers.program import ProgramOverseer
from amplification.serving.base import Call, ModelRef
from amplification.serving.scripted import ScriptedSampler
from amplification.tasks.base import questions
from distill.alone import PartlyAlone, judged_alone
from distill.judgement import Judge
from tests.distill.training import TASKS

SUMMING = TASKS["summing"]
TEXTS = list(islice(questions(SUMMING, 4, "train", 0), 60))


def zero(call: Call) -> str:
    """An agent that says 0 to everything."""
    return "0"


def labeller(share: float, sampler: ScriptedSampler) -> PartlyAlone:
    agent, dispatcher, program = Agent("A", ModelRef("none"), "digest"), Dispatcher(sampler), ProgramOverseer(TASKS)
    judges = [
        Judge(Amplified(overseer, agent, dispatcher, Limits()), "labels")
        for overseer in (program, LoneOverseer(program))
    ]
    return PartlyAlone(judges[0], judges[1], share, seed=1)


def test_labels_without_the_agent_are_right_whatever_it_says_and_ask_it_nothing() -> None:
    sampler = ScriptedSampler(answers=zero)
    found = labeller(1.0, sampler).answer(TEXTS)
    assert list(found.answers) == [SUMMING.truth(text) for text in TEXTS]
    assert sampler.calls == []
    assert (found.cost.calls, found.cost.tokens, found.cost.memo_hits) == (0, 0, 0)
    assert found.cost.overseer_steps > 7 * len(TEXTS)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_only_the_others_rest_on_the_agent(share: float) -> None:
    sampler = ScriptedSampler(answers=zero)
    found = labeller(share, sampler).answer(TEXTS)
    alone = {text for text in TEXTS if judged_alone(text, share, 1)}
    assert abs(len(alone) - share * len(TEXTS)) < len(TEXTS) / 5
    for text, answer in zip(TEXTS, found.answers, strict=True):
        assert answer == (SUMMING.truth(text) if text in alone else "0"), text
    halves = {" ".join([*text.split()[:-4], *part]) for text in set(TEXTS) - alone for part in _halves(text)}
    assert {call.prompt.removesuffix(" :") for call in sampler.calls} == halves


def _halves(text: str) -> tuple[list[str], list[str]]:
    return text.split()[-4:-2], text.split()[-2:]


def test_another_seed_judges_other_questions_alone() -> None:
    first, second = ([judged_alone(text, 0.5, seed) for text in TEXTS] for seed in (1, 2))
    assert first != second
