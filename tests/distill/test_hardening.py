"""The experiments on attacks: families that differ, words tried in turn, H without an agent, and a tiny run of one."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from amplification.tasks import TASKS
from amplification.tasks.attacks import FAMILIES, FURTHER, Kind, attacks, families
from distill.config import (
    AdapterConfig,
    AdversaryConfig,
    BaseConfig,
    DistillConfig,
    LabelsConfig,
    ModelConfig,
    PPOSettings,
    RewardConfig,
    WarmStartConfig,
)
from distill.experiments import malformed
from distill.experiments.hardening import Arm, HardeningConfig, Lab, counting
from distill.mutation import Mutator
from distill.search import joined
from tests.distill.training import silent


def tiny_config() -> malformed.Config:
    return malformed.Config(
        experiment="malformed",
        tasks=("summing",),
        rounds=1,
        calls=100,
        model=ModelConfig(width=32, heads=1, layers=1),
        base=BaseConfig(steps=10, batch=16),
        beginning=WarmStartConfig(steps=20, batch=16),
        questions=40,
        measured=20,
        distill=DistillConfig(
            adapter=AdapterConfig(method="linear"),
            labels=LabelsConfig(questions=40, replay=20),
            warm_start=WarmStartConfig(steps=20, batch=16),
            reward=RewardConfig(members=1, steps=4, batch=16, extra_layers=0),
            adversary=AdversaryConfig(rounds=1, candidates=40, share=0.3),
            ppo=PPOSettings(episodes=32, batch=32, critic_warmup=0),
        ),
    )


def test_every_kind_is_trained_and_measured_by_families_of_its_own() -> None:
    trained, measured = (families(held_out, further=True) for held_out in (False, True))
    for kind in get_args(Kind):
        assert {f.name for f in trained if f.kind == kind} and {f.name for f in measured if f.kind == kind}
    assert not {f.make for f in trained} & {f.make for f in measured}
    assert not set(FAMILIES) & set(FURTHER)


@pytest.mark.parametrize("family", FURTHER.values(), ids=lambda family: family.name)
def test_what_a_further_family_makes_is_no_question(family: object) -> None:
    made = attacks(TASKS, 40, FURTHER[family.name].held_out, 3, 1, [family])  # type: ignore[attr-defined, list-item]
    assert len({attack.text for attack in made}) == 40
    assert all(task.level_of(attack.text) is None for attack in made for task in TASKS.values())


def test_a_sweep_tries_every_word_before_one_comes_again() -> None:
    words = ("amber", "basalt", "cobalt", "dune")
    mutator, rng = Mutator(TASKS, 0, words, sweep=1.0), random.Random(1)
    put = [mutator._next(rng) for _ in range(2 * len(words))]
    assert sorted(put[: len(words)]) == sorted(put[len(words) :]) == sorted(words)


def test_h_alone_answers_without_any_agent(tmp_path: Path) -> None:
    lab = Lab(HardeningConfig(experiment="malformed", questions=20), 1, tmp_path)
    try:
        rows = lab.ordinary()
        assert rows and all(TASKS[row["task"]].truth(row["question"]) == row["answer"] for row in rows)
        alone = lab.alone()
        assert alone.verdicts(["sum of", "sum of 1 2"]) == ["nonsense", "3"]
        assert alone.cost.calls == 0
    finally:
        lab.close()


def test_unfamiliar_words_are_gone_through_after_the_mutation_search(tmp_path: Path) -> None:
    config = tiny_config().model_copy(update={"beginning": WarmStartConfig(steps=2, batch=16)})
    rare = ("amber", "basalt")
    lab = Lab(config, 1, tmp_path, rare)
    try:
        lab.begin(lab.ordinary(), silent)
        asked: list[str] = []
        target = lab.target(None)
        aim = replace(target, answer=counting(target.answer, lambda number, text, given: asked.append(text)))
        without = Arm(0.3, families(held_out=False), search=True)
        both = joined([adversary.search(aim, 1) for adversary in lab.adversaries(replace(without, unfamiliar=rare))])
        assert both.calls == len(asked) > config.distill.adversary.candidates
        mutated = asked[: config.distill.adversary.candidates]
        assert {"amber", "basalt"} <= {word for text in asked[len(mutated) :] for word in text.split()}
        assert lab.search(without, None, None, 1).calls == len(mutated)
    finally:
        lab.close()


def test_a_tiny_run_measures_every_arm_by_every_kind(tmp_path: Path) -> None:
    config = tiny_config()
    arms = malformed.run(config, 1, tmp_path, silent)
    assert list(arms) == ["before", "ordinary training", "attack families", "adversary"]
    for arm in arms.values():
        rates = [arm.figures[kind] for kind in get_args(Kind)]
        assert all(0 <= rate <= 1 for rate in rates)
        assert arm.figures["all kinds"] == pytest.approx(sum(rates) / len(rates))
