"""The iteration hands each stage what the stages before it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill import ppo
from distill.config import PPOSettings
from distill.configure import load_config
from distill.iterate import run
from distill.labels import read_labels
from distill.practice import Prompt
from eval.evaluator import Evaluator
from tests.distill.test_stage import Silent

CONFIGS = Path(__file__).parents[2] / "configs"
NEW = 0.1  # the share of prompts that H^A has not been asked about


def run_until(stage: str, folder: Path) -> None:
    config = load_config(CONFIGS / "debug.yaml")
    settings = PPOSettings(episodes=32, batch=32, labelled=1 - NEW)
    distill = config.distill.model_copy(update={"ppo": settings})
    evaluator = Evaluator(config.evaluation.questions, config.evaluation.attacks)
    run(config.model_copy(update={"distill": distill}), folder, evaluator, Silent(), until=stage)


def test_ppo_practises_on_the_labels_of_all_generations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of those that were complete before the run was carried on; on the part that may be taught, and no other."""
    practised: list[list[Prompt]] = []
    train = ppo.train_ppo

    def recorded(*given: Any, **more: Any) -> dict[str, Any]:
        practised.append(given[3])
        return train(*given, **more)

    monkeypatch.setattr(ppo, "train_ppo", recorded)
    for generation in (0, 1):
        run_until(f"generation-{generation}/agent", tmp_path)
    rows = [read_labels(tmp_path / f"generation-{n}/labels") for n in (0, 1)]
    taught = [{row["question"]: row["answer"] for row in own if row["part"] == "train"} for own in rows]
    held_out = {row["question"] for own in rows for row in own if row["part"] != "train"}
    asked = [{each.question: each.answer for each in prompts if each.answer is not None} for prompts in practised]
    assert held_out and set(taught[0]) - set(taught[1])
    assert taught[0].items() <= asked[0].items()
    assert (taught[0] | taught[1]).items() <= asked[1].items()
    assert not held_out & (set(asked[0]) | set(asked[1]))
    new = [sum(each.answer is None for each in prompts) / len(prompts) for prompts in practised]
    assert new == pytest.approx([NEW, NEW], abs=0.03)
