"""The experiment on drift: how its overseer makes more of a doubt, and what a tiny run of it leaves."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Cost
from amplification.overseers.alone import LoneOverseer
from amplification.overseers.program import ProgramOverseer
from amplification.question import digest
from amplification.serving.base import Call, ModelRef
from amplification.serving.scripted import ScriptedSampler
from amplification.tasks.base import NONSENSE, questions
from amplification.tasks.counting import Counting
from distill.alone import PartlyAlone
from distill.config import BaseConfig, ModelConfig, PPOSettings, RewardConfig, WarmStartConfig
from distill.experiments.cautious import WORDINGS, CautiousOverseer
from distill.experiments.drift import Config, Remedies, run
from distill.judgement import Answers, Judge
from tests.distill.training import silent

ASKED = "how many of 3 7 are odd"


def said(*answers: str) -> tuple[str | None, list[str]]:
    """What the cautious H says where the agent answers the wordings so, and what it asked."""
    waiting = list(answers)

    def answer(call: Call) -> str:
        return waiting.pop(0)

    sampler = ScriptedSampler(answers=answer)
    agent = Agent("A", ModelRef("none"), "digest")
    judge = Judge(Amplified(CautiousOverseer(Counting()), agent, Dispatcher(sampler), Limits()), "test")
    return judge.verdicts([ASKED])[0], [call.prompt.removesuffix(" :") for call in sampler.calls]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (("2", "2", "1"), "2"),
        (("1", "2", "2"), "2"),
        (("2", NONSENSE, "2"), NONSENSE),
        ((NONSENSE, NONSENSE, NONSENSE), NONSENSE),
    ],
)
def test_one_refusal_is_enough(answers: tuple[str, ...], expected: str) -> None:
    verdict, asked = said(*answers)
    assert verdict == expected
    assert asked[0] == ASKED
    assert len(set(asked)) == WORDINGS
    assert {Counting().truth(text) for text in asked} == {"2"}


@pytest.mark.parametrize(("alone", "grows"), [(0.0, True), (0.5, True), (0.75, False), (0.9, False)])
def test_a_small_doubt_dies_out_where_h_judges_alone_more_than_two_thirds_of_the_time(
    alone: float, grows: bool
) -> None:
    """H makes three of one doubt: where the agent refuses q, labels refuse (1 - p)(1 - (1 - q)^3), some 3 (1 - p) q."""
    task, doubt = Counting(), 0.1

    def answer(call: Call) -> str:
        text = call.prompt.removesuffix(" :")
        doubts = int(digest("doubt", text)[:8], 16) < doubt * 2**32
        return NONSENSE if doubts else task.truth(text)

    texts = list(islice(questions(task, 4, "train", 1), 600))
    dispatcher, agent = Dispatcher(ScriptedSampler(answers=answer)), Agent("A", ModelRef("none"), "digest")
    cautious, lone = CautiousOverseer(task), LoneOverseer(ProgramOverseer({task.name: task}))
    judges = [Judge(Amplified(overseer, agent, dispatcher, Limits()), "test") for overseer in (cautious, lone)]
    said = PartlyAlone(judges[0], judges[1], alone, 1).answer(texts).answers
    refused = said.count(NONSENSE) / len(texts)
    assert refused == pytest.approx((1 - alone) * (1 - (1 - doubt) ** 3), abs=0.04)
    assert (refused > doubt) == grows


def tiny(arms: dict[str, Remedies]) -> Config:
    return Config(
        experiment="drift",
        rounds=1,
        labels=40,
        questions=100,
        fault=1.0,
        model=ModelConfig(width=32, heads=1, layers=1),
        base=BaseConfig(steps=10, batch=16),
        teaching=WarmStartConfig(steps=10, batch=16),
        slipping=WarmStartConfig(steps=20, batch=16, learning_rate=1e-2),
        first_reward_steps=4,
        reward=RewardConfig(members=1, pairs_per_label=3, steps=4, batch=16, extra_layers=0),
        ppo=PPOSettings(episodes=32, batch=32, critic_warmup=0),
        arms=arms,
    )


def test_every_arm_is_measured_in_every_round(tmp_path: Path) -> None:
    config = tiny(
        {
            "no fault": Remedies(planted=False),
            "no remedy": Remedies(),
            "throttle": Remedies(max_kl=1e-4),
            "average": Remedies(average=0.9, judge_without_agent=1.0),
        }
    )
    arms = run(config, 1, tmp_path, silent)
    assert list(arms) == list(config.arms)
    for arm in arms.values():
        assert [x for x, _ in arm.curves["refused"]] == [0, 1, 2]
        assert all(0 <= y <= 1 for points in arm.curves.values() for _, y in points)
    after = {name: dict(arm.curves["refused"]) for name, arm in arms.items()}
    assert after["no fault"][1] == after["no fault"][0]
    assert after["no remedy"][1] > after["throttle"][1] > after["no fault"][1]
    assert dict(arms["average"].curves["labels that refuse"])[2] == 0


def test_a_drift_that_is_complete_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that all refuse teach no reward model, and the arm is measured all the same."""
    monkeypatch.setattr(PartlyAlone, "answer", lambda _, texts: Answers((NONSENSE,) * len(texts), Cost()))
    arm = run(tiny({"no remedy": Remedies()}), 1, tmp_path, silent)["no remedy"]
    assert dict(arm.curves["labels that refuse"])[2] == 1
    assert [x for x, _ in arm.curves["refused"]] == [0, 1, 2]
