"""A run's overseer is the configured one, with its own way to its own model."""

from __future__ import annotations

import json
from pathlib import Path

from amplification.agent import Agent
from amplification.overseers.config import LanguageModelConfig, OverseerConfig
from amplification.serving.base import ModelRef
from amplification.serving.config import ServingConfig
from amplification.store import Store
from distill.config import RunConfig
from distill.models import Models

STEP = "question: {}\n{}left: {} calls, {} tokens, 10 levels, 100 seconds\nstep:"


def scripted(path: Path, answers: dict[str, str]) -> ServingConfig:
    path.write_text(json.dumps(answers), encoding="utf-8")
    return ServingConfig(backend="scripted", script=path)


def test_a_language_model_served_elsewhere_decides_the_labels(tmp_path: Path) -> None:
    asked = "asked: half of it\nanswer: 7\n"
    steps = {
        STEP.format("all of it", "", 1_000, 1_000_000): '{"ask": ["half of it"]}',
        STEP.format("all of it", asked, 100, 100_000): '{"reply": "14"}',
    }
    elsewhere = scripted(tmp_path / "overseer.json", steps)
    model = LanguageModelConfig(model="some/model", serving=elsewhere, template="step_short")
    config = RunConfig(
        serving=scripted(tmp_path / "agent.json", {"half of it :": "7"}),
        overseer=OverseerConfig(kind="language_model", language_model=model),
    )
    models = Models(config, Store.at(tmp_path / "store.sqlite"))
    judge = models.judge(Agent("a", ModelRef("a"), "a"), "labels")
    assert judge.answer(["all of it"]).answers == ("14",)
    assert (judge.cost.calls, judge.cost.overseer_calls) == (1, 2)
    models.close()
