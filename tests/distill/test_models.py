"""A run's overseer is the configured one, with its own way to its own model; a training has the GPU to itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from amplification import serving
from amplification.agent import Agent
from amplification.overseers.config import LanguageModelConfig, OverseerConfig
from amplification.serving.base import Call, Completion, ModelRef
from amplification.serving.config import ServingConfig
from amplification.store import Store
from distill.config import RunConfig
from distill.configure import load_config
from distill.iterate import run
from distill.models import Models
from distill.progress import TerminalReporter
from eval.evaluator import Evaluator

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


class Counting:
    """A back end that loads its model at the first call, and again at the first after it was closed."""

    made: list[Counting]

    def __init__(self, settings: ServingConfig) -> None:
        self.loaded, self.loads = False, 0
        self.made.append(self)

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        self.loads += not self.loaded
        self.loaded = True
        return [Completion("7", 1, 1) for _ in calls]

    def parameters(self, model: ModelRef) -> int:
        return 1

    def close(self) -> None:
        self.loaded = False


def test_a_training_has_the_gpu_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a way to the agent keeps it, and it is loaded again when it is asked, once and in one place."""
    Counting.made = []
    monkeypatch.setattr(serving, "open_sampler", Counting)
    models = Models(RunConfig(), Store.at(tmp_path / "store.sqlite"))
    ask, later = (models.asker(Agent("a", ModelRef("a"), "a"), scope) for scope in ("labels", "agent"))
    ask(["first"])
    [back_end] = Counting.made
    models.rest()
    assert back_end.loaded == (not torch.cuda.is_available())  # on a CPU it is in nobody's way
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    models.rest()
    assert not back_end.loaded
    loads = back_end.loads
    later(["second"])
    ask(["third"])
    assert back_end.loaded and back_end.loads == loads + 1 and Counting.made == [back_end]
    models.close()
    assert not back_end.loaded


def test_the_gpu_is_left_before_every_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a generation: after what a stage asks first, so with nothing in between."""
    seen: list[str] = []

    def noted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*given: Any, **named: Any) -> Any:
            seen.append(name)
            return work(*given, **named)

        return noting

    trainings = ("distill.imitation:warm_start", "distill.reward:train_reward", "distill.ppo:train_ppo")
    for place in ("distill.models:Models.rest", "distill.models:Models.asker", *trainings):
        module, _, name = place.partition(":")
        owner: Any = Models if name.startswith("Models.") else import_module(module)
        name = name.removeprefix("Models.")
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    config = load_config(Path(__file__).parents[2] / "configs" / "debug.yaml")
    reporter = TerminalReporter(Console(file=StringIO()))
    run(config, tmp_path / "run", Evaluator(8, 8), reporter, until="generation-0/agent")
    for training in ("warm_start", "train_reward", "train_ppo"):
        assert seen[seen.index(training) - 1] == "rest", training
    assert seen.count("rest") == len(trainings)
