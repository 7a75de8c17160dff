"""Iteration: H -> A0 -> H^A0 -> A1 -> H^A1 -> ... as stages that write files and can be killed and resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from amplification.agent import Agent
from amplification.store import Store
from amplification.tasks import vocabulary
from amplification.tasks.attacks import extra_words
from amplification.tasks.base import Task
from distill.config import RunConfig
from distill.judgement import Judge
from distill.ledger import generation_cost
from distill.models import Ask, Models
from distill.progress import Progress, Reporter
from distill.stage import Done, Metrics, RunFolder, exclusive

STAGES = ("labels", "warm_start", "reward", "adversary", "agent", "evaluation")


class Evaluator(Protocol):
    """What measures agents and writes the report; the composition root hands it in."""

    def measure(
        self, generation: int, tasks: Mapping[str, Task], answerers: Mapping[str, Ask], judge: Judge | None, seed: int
    ) -> Metrics:
        """Accuracy of each answerer on held-out questions and, with a judge, unacceptable answers under attack."""
        ...

    def report(self, results: Mapping[str, Any], folder: Path) -> Path:
        """Write report.json, report.md and report.html into the run folder; returns the last one's path."""
        ...


class Iteration:
    """One run in one folder. `until` ends it early, after the stage of that name (for example generation-1/labels)."""

    def __init__(self, config: RunConfig, folder: Path, evaluator: Evaluator, reporter: Reporter) -> None:
        self.config, self.evaluator, self.reporter = config, evaluator, reporter
        self.run_folder = RunFolder(folder, config, reporter)
        self.folder = folder
        self.models = Models(config, Store.at(folder / "store.sqlite"))
        self.found: list[str] = []

    def close(self) -> None:
        self.models.close()

    def run(self) -> Path:
        """All stages that are not complete yet, then the report. Returns the report's path."""
        generations = self.config.generations + 1
        self.reporter.expect(2 + generations * (len(STAGES) - (not self.config.distill.warm_start.enabled)))
        base = self.run_folder.stage("base", self._train_base)
        start = self.models.agent("base", base.folder, None)
        base_evaluation = self.run_folder.stage("base_evaluation", self._evaluate(-1, {"agent": start}, None))
        results, adapter = [], None
        for n in range(generations):
            done = self._generation(n, base.folder, adapter)
            adapter = done["agent"].folder
            results.append(self._result(n, done))
        seconds = base.seconds + base_evaluation.seconds + sum(result["seconds"] for result in results)
        return self.evaluator.report(
            {
                "config": self.config.model_dump(mode="json"),
                "seconds": seconds,
                "base": base_evaluation.metrics,
                "generations": results,
            },
            self.folder,
        )

    def _generation(self, n: int, base: Path, adapter: Path | None) -> dict[str, Done]:
        """H^A(n-1) -> A(n): every stage of one generation, by name."""
        done: dict[str, Done] = {}
        previous = self.models.agent(f"A{n - 1}" if n else "base", base, adapter)

        def stage(name: str, work: Callable[[Path, Progress], Metrics]) -> Path:
            done[name] = self.run_folder.stage(f"generation-{n}/{name}", work)
            return done[name].folder

        labels = stage("labels", self._label(n, previous))
        start = adapter
        if self.config.distill.warm_start.enabled:
            start = stage("warm_start", self._warm_start(n, base, adapter, labels))
        reward = stage("reward", self._reward(n, base, start, labels))
        warm = self.models.agent(f"A{n} before PPO", base, start)
        found: list[str] = []
        if self.config.distill.adversary.enabled:
            found = self._found(stage("adversary", self._attack(n, warm, previous, reward, base)))
        agent = stage("agent", self._ppo(n, base, start, reward, self.found + found))
        self.found += found
        trained = self.models.agent(f"A{n}", base, agent)
        answerers = {"agent": trained, "agent_before_ppo": warm, "previous": previous}
        stage("evaluation", self._evaluate(n, answerers, trained))
        return done

    def _train_base(self, out: Path, progress: Progress) -> Metrics:
        from distill.base import train_base

        words = (*vocabulary(), *extra_words())
        return train_base(self.models.tasks, words, self.config.model, self.config.base, out, self.config.seed, progress)

    def _label(self, n: int, previous: Agent) -> Callable[[Path, Progress], Metrics]:
        def work(out: Path, progress: Progress) -> Metrics:
            from distill.curriculum import choose
            from distill.labels import make_labels

            settings, adversary = self.config.distill.labels, self.config.distill.adversary
            share = adversary.share if adversary.enabled else 0.0
            chosen = choose(self.models.tasks, n, settings, share, self.found, self.config.seed)
            judge = self.models.judge(previous, f"generation-{n}/labels")
            return make_labels(judge, chosen, settings, out, progress)

        return work

    def _warm_start(self, n: int, base: Path, adapter: Path | None, labels: Path) -> Callable[[Path, Progress], Metrics]:
        def work(out: Path, progress: Progress) -> Metrics:
            from distill.imitation import warm_start
            from distill.labels import read_labels

            distill = self.config.distill
            return warm_start(
                base, adapter, read_labels(labels), distill.adapter, distill.warm_start, out, self._seed(n), progress
            )

        return work

    def _reward(self, n: int, base: Path, start: Path | None, labels: Path) -> Callable[[Path, Progress], Metrics]:
        def work(out: Path, progress: Progress) -> Metrics:
            from distill.labels import read_labels
            from distill.reward import make_pairs, train_reward

            settings = self.config.distill.reward
            rows = read_labels(labels)
            ask = self.models.asker(self.models.agent(f"A{n} before PPO", base, start), f"generation-{n}/reward")
            pairs = make_pairs(self.models.tasks, rows, ask, settings, self._seed(n))
            return train_reward(base, start, pairs, self.config.distill.adapter, settings, out, self._seed(n), progress)

        return work

    def _evaluate(
        self, n: int, agents: Mapping[str, Agent], amplified: Agent | None
    ) -> Callable[[Path, Progress], Metrics]:
        def work(_out: Path, progress: Progress) -> Metrics:
            scope = f"generation-{n}/evaluation" if n >= 0 else "base_evaluation"
            answerers: dict[str, Ask] = {name: self.models.asker(agent, scope) for name, agent in agents.items()}
            judge = None
            if amplified is not None:
                judge = self.models.judge(amplified, scope)
                answerers["amplified"] = judge.ask
            return self.evaluator.measure(n, self.models.tasks, answerers, judge, self.config.seed)

        return work

    def _seed(self, n: int) -> int:
        from distill.curriculum import generation_seed

        return generation_seed(self.config.seed, n)


def run(config: RunConfig, folder: Path, evaluator: Evaluator, reporter: Reporter) -> Path:
    """Run, or carry on with, iterated amplification in `folder`. Returns the path of the report.

    Raises InputError for a folder of another configuration, StageError for a stage that fails.
    """
    with exclusive(folder):
        iteration = Iteration(config, folder, evaluator, reporter)
        try:
            return iteration.run()
        finally:
            iteration.close()
