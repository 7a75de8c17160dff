"""One curriculum in both schemes: what the last agent can do, and what it cost to get there.

Sequential: a generation is trained once, by H^A with the agent before it. Collapsed: one agent is trained round by
round and defines its own reward, until its lagged copy meets H^A's labels at a level. Each arm is a whole run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import Field

from amplification.tasks.attacks import attacks
from amplification.tasks.base import Task, questions
from distill.config import EvaluationConfig, RunConfig
from distill.configure import check
from distill.evaluation import Attacker
from distill.experiments.base import Arm, ExperimentConfig
from distill.experiments.hardening import unacceptable
from distill.iterate import run as run_iteration
from distill.judgement import Judge
from distill.models import Ask
from distill.progress import Progress
from distill.stage import Metrics, state_of


class Config(ExperimentConfig):
    """runs: the configuration of each arm's run; their seeds are the experiment's."""

    runs: dict[str, RunConfig] = Field(min_length=1)

    def check(self, where: str) -> None:
        for name, settings in self.runs.items():
            check(settings, f"{where}: runs.{name}")


def run(config: Config, seed: int, folder: Path, progress: Progress) -> dict[str, Arm]:
    """Every run from its beginning to its end; one that was killed carries on."""
    found: dict[str, Arm] = {}
    for place, (name, settings) in enumerate(config.runs.items()):
        measuring, told = Measuring(settings.evaluation), Told(place, len(config.runs), progress)
        run_iteration(settings.model_copy(update={"seed": seed}), state_of(folder) / name, measuring, told)
        found[name] = arm(measuring.results["generations"], settings.generations)
    return found


def arm(generations: Sequence[Mapping[str, Any]], top: int) -> Arm:
    """What a run's generations come to: of the last agent, `top` being the index of the highest level it was to learn,
    and level by level. A run in the collapsed scheme may end before it."""
    last, flops = generations[-1], [each["costs"]["flops"] for each in generations]
    # A level has the same place among each task's; levels of facts have no held-out questions.
    ladders = list(last["ladder"].values())
    highest, older = measured(ladders, top, top + 1), measured(ladders, 0, top)
    reached = {g["n"]: measured(g["ladder"].values(), g["n"], g["n"] + 1) for g in generations}
    figures = {
        "accuracy at the top level": mean(highest),
        "lowest task there": min(highest),
        "attacks that succeed": last["robustness"]["unacceptable"],
        "TFLOP": sum(flops) / 1e12,
        "episodes of H^A": float(sum(each["costs"]["amplified_episodes"] for each in generations)),
        "episodes of A": float(sum(each["costs"]["training_episodes"] for each in generations)),
        "rounds": float(sum(len(each["ppo"].get("rounds", [0])) for each in generations)),
        "levels": float(len(generations)),
    }
    if older:
        figures["accuracy at older levels"] = mean(older)
    spent = [(float(g["n"]), sum(flops[: place + 1]) / 1e12) for place, g in enumerate(generations)]
    own = [(float(n), mean(cells)) for n, cells in reached.items() if cells]
    return Arm(figures, {"accuracy at each generation's level": own, "TFLOP so far": spent})


def measured(ladders: Iterable[Sequence[float | None]], first: int, end: int) -> list[float]:
    """The accuracies from one place to before another in all tasks' ladders, where there are held-out questions."""
    return [value for ladder in ladders for value in ladder[first:end] if value is not None]


class Measuring:
    """Measures accuracy by the truth, which nobody else is told, and held-out attacks by H^A; keeps a run's results."""

    def __init__(self, settings: EvaluationConfig) -> None:
        self.settings, self.results = settings, dict[str, Any]()

    def measure(self, tasks: Mapping[str, Task], answerers: Mapping[str, Ask], seed: int) -> Metrics:
        """The agent's accuracy at each level of each task, None where a level has no held-out questions."""
        return {
            name: [self._accuracy(task, size, answerers["agent"], seed) for size in task.levels]
            for name, task in tasks.items()
        }

    def _accuracy(self, task: Task, size: int, agent: Ask, seed: int) -> float | None:
        texts = list(islice(questions(task, size, "held_out", seed), self.settings.questions))
        given = agent(texts) if texts else []
        return mean(a.text == task.truth(q) for a, q in zip(given, texts, strict=True)) if texts else None

    def attack(
        self, tasks: Mapping[str, Task], before: Ask, after: Ask, judge: Judge, attacker: Attacker, seed: int
    ) -> Metrics:
        """The share of the held-out attacks that succeed against the agent."""
        texts = [attack.text for attack in attacks(tasks, self.settings.attacks, held_out=True, seed=seed)]
        return {"unacceptable": unacceptable([answer.text for answer in after(texts)], judge.verdicts(texts))}

    def report(self, results: Mapping[str, Any], folder: Path) -> Path:
        """Keep the results."""
        self.results = dict(results)
        return folder


class Told:
    """Tells an experiment's progress, in thousandths of each run, of the stages that are done."""

    def __init__(self, place: int, runs: int, progress: Progress) -> None:
        self.place, self.runs, self.inner = place, runs, progress
        self.done, self.stages = 0, 1

    def expect(self, stages: int) -> None:
        self.stages = stages

    def started(self, name: str) -> None:
        """A stage that begins is no step yet."""

    def progress(self, done: int, total: int) -> None:
        """Steps within a stage are too small to be told."""

    def finished(self, name: str, seconds: float, metrics: Mapping[str, Any]) -> None:
        self.skipped(name)

    def skipped(self, name: str) -> None:
        self.done += 1
        self.inner(1000 * self.place + 1000 * self.done // self.stages, 1000 * self.runs)
