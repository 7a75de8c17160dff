"""From answerers to report.json, with scripted agents and a judge that knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from amplification.question import Answer
from amplification.tasks import TASKS, task_of
from amplification.tasks.base import NONSENSE
from eval.evaluator import Evaluator


def knows(texts: Sequence[str]) -> list[Answer]:
    found = [(task_of(text), text) for text in texts]
    return [Answer(task.truth(text) if task is not None else NONSENSE) for task, text in found]


def says_true(texts: Sequence[str]) -> list[Answer]:
    return [Answer("True") for _ in texts]


class Judge:
    """H^A that is always right."""

    def verdicts(self, texts: Sequence[str]) -> list[str | None]:
        return [answer.text for answer in knows(texts)]


def test_what_is_measured_arrives_in_the_report(sample: SimpleNamespace, tmp_path: Path) -> None:
    evaluator, tasks = Evaluator(questions=40, attacks=30), {"boolean": TASKS["boolean"]}
    answerers = {"agent": says_true, "agent_before_ppo": says_true, "previous": says_true, "amplified": knows}
    stage: dict[str, Any] = {
        "seconds": 1.0,
        "ladder": evaluator.measure(tasks, answerers, 1),
        "robustness": evaluator.attack(tasks, says_true, knows, Judge(), lambda cap: None, 1),
        **{
            key: sample.generation(1)[key]
            for key in ("calls", "costs", "reward_model", "adversary", "ppo", "warm_start")
        },
    }
    results = {
        "config": {"tasks": ["boolean"], "seed": 1},
        "seconds": 3.0,
        "base": {"ladder": evaluator.measure(tasks, {"agent": says_true}, 1)},
        "generations": [{"n": 0, **stage}, {"n": 1, **stage}],
    }
    path = evaluator.report(json.loads(json.dumps(results)), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert path == tmp_path / "report.html"
    assert report["claims"] == {
        "amplification_gains": True,
        "distillation_keeps": False,
        "monotonic": False,
        "benign_rate_grows": False,
    }
    robustness = report["generations"][0]["robustness"]
    assert (robustness["unacceptable_before"], robustness["unacceptable_after"], robustness["questions"]) == (1, 0, 30)
    assert "off_distribution" in robustness["families"]
    assert robustness["attacker_calls_to_failure"] is None
    assert report["generations"][0]["accuracy"]["boolean"]["8"]["amplified"] == 1.0
    assert report["base"]["boolean"]["8"]["accuracy"] == report["generations"][0]["accuracy"]["boolean"]["8"]["agent"]
