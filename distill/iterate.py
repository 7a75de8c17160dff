"""Iteration: H -> A0 -> H^A0 -> A1 -> H^A1 -> ... as stages that write files and can be killed and resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amplification.agent import Agent
from amplification.episode import Cost
from amplification.errors import InputError
from amplification.store import Store
from amplification.tasks import vocabulary
from amplification.tasks.attacks import extra_words
from distill.adversary import Target
from distill.archive import FOUND_FILE, questions_of, read_found
from distill.config import RunConfig
from distill.evaluation import Evaluator
from distill.labels import Labeller
from distill.models import Ask, Models
from distill.processes import check_with_accelerate
from distill.progress import Progress, Reporter
from distill.results import generation_result
from distill.stage import Done, Metrics, RunFolder, Work, exclusive, state_of

if TYPE_CHECKING:
    from distill.practice import Prompt
    from distill.refresh import Watched

STAGES = ("labels", "warm_start", "reward", "adversary", "agent", "evaluation")


class Turn(NamedTuple):
    """One turn of the iteration: the folder of its stages, the index of the new level, the seed of its draws."""

    name: str
    level: int
    seed: int


class _Ended(Exception):
    """Raised inside `Iteration` alone, after the last stage that it was told to do."""


class Iteration:
    """One run in one folder. `until` ends it after the stage of that name; `only` does that stage and no other."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        evaluator: Evaluator,
        reporter: Reporter,
        until: str | None = None,
        only: str | None = None,
    ) -> None:
        self.config, self.evaluator, self.reporter = config, evaluator, reporter
        self.until, self.only = until, only
        self.names = stage_names(config)
        for name in (until, only):
            if name is not None and name not in self.names:
                raise InputError(
                    "command line", f"this run has no stage '{name}'", f"choose from {', '.join(self.names)}"
                )
        if config.distill.adversary.enabled:
            from distill.adversaries import check_sources

            check_sources(config.distill.adversary, config.serving)
        self.run_folder = RunFolder(folder, config, reporter)
        self.folder = folder
        self.models = Models(config, Store.at(folder / "store.sqlite"))
        self.found: list[str] = []
        self.earlier_labels: list[Path] = []  # oldest first

    def close(self) -> None:
        self.models.close()

    def run(self) -> Path | None:
        """All stages that are not complete yet, then the report. Returns its path, None if told to end before it."""
        self.reporter.expect(len(self.names))
        try:
            return self._run()
        except _Ended:
            return None

    def stage(self, name: str, work: Work) -> Done:
        """One stage of this run, unless it is told to do another one only."""
        if self.only not in (None, name) and not (self.folder / name).exists():
            raise InputError(self.folder / name, "this earlier stage is not complete", f"do it first: --only {name}")
        done = self.run_folder.stage(name, work)
        if name in (self.until, self.only):
            raise _Ended
        return done

    def _run(self) -> Path:
        base = self.stage("base", self._train_base)
        start = self.models.agent("base", base.folder, None)
        base_evaluation = self.stage("base_evaluation", self._evaluate(0, "base_evaluation", {"agent": start}, None))
        results, adapter = [], None
        for n in range(self.config.generations + 1):
            done = self._generation(n, base.folder, adapter)
            adapter = done["agent"].folder
            metrics = {name: stage.metrics for name, stage in done.items()}
            seconds = sum(stage.seconds for stage in done.values())
            results.append(generation_result(n, seconds, metrics["evaluation"], [metrics]))
        return self._report(base, base_evaluation, results)

    def _report(self, base: Done, base_evaluation: Done, results: Sequence[dict[str, Any]]) -> Path:
        seconds = base.seconds + base_evaluation.seconds + sum(result["seconds"] for result in results)
        return self.evaluator.report(
            {
                "config": self.config.model_dump(mode="json"),
                "seconds": seconds,
                "base": base_evaluation.metrics,
                "generations": list(results),
            },
            self.folder,
        )

    def _generation(self, n: int, base: Path, adapter: Path | None) -> dict[str, Done]:
        """H^A(n-1) -> A(n): every stage of one generation, by name."""
        done: dict[str, Done] = {}
        turn = Turn(f"generation-{n}", n, self.config.seed)
        previous = self.models.agent(f"A{n - 1}" if n else "base", base, adapter)

        def stage(name: str, work: Work) -> Path:
            done[name] = self.stage(f"{turn.name}/{name}", work)
            return done[name].folder

        labels = stage("labels", self._label(turn, previous, base, adapter))
        start = adapter
        if self.config.distill.warm_start.enabled:
            start = stage("warm_start", self._warm_start(turn, base, adapter, [labels]))
        reward = stage("reward", self._reward(turn, previous, base, start, [labels]))
        warm = self.models.agent(f"A{n} before PPO", base, start)
        adversary, found = None, list[str]()
        if self.config.distill.adversary.enabled:
            adversary = stage("adversary", self._attack(turn, warm, previous, reward, base))
            found = questions_of(read_found(adversary / FOUND_FILE))
        self.found += found
        agent = stage("agent", self._ppo(turn, base, start, [labels], reward, list(self.found), previous, adversary))
        self.earlier_labels.append(labels)
        trained = self.models.agent(f"A{n}", base, agent)
        answerers = {"agent": trained, "agent_before_ppo": warm, "previous": previous}
        stage("evaluation", self._evaluate(n, f"{turn.name}/evaluation", answerers, trained))
        return done

    def _train_base(self, out: Path, progress: Progress) -> Metrics:
        from distill.base import train_base

        words = (*vocabulary(), *extra_words())
        return train_base(
            self.models.tasks, words, self.config.model, self.config.base, out, self.config.seed, progress
        )

    def _label(self, turn: Turn, previous: Agent, base: Path, start: Path | None) -> Work:
        """H^A with `previous` is asked; `start` is the agent that the labels will teach."""

        def work(out: Path, progress: Progress) -> Metrics:
            from distill.curriculum import choose
            from distill.labels import make_labels

            settings, adversary = self.config.distill.labels, self.config.distill.adversary
            share, tasks = adversary.share if adversary.enabled else 0.0, self.models.tasks
            labeller = self._labeller(turn, previous)
            chosen = choose(tasks, turn.level, settings, share, self.found, turn.seed)
            if settings.selection.by == "random":
                return make_labels(labeller, tasks, chosen, settings, out, progress)
            from distill.learners import Learners
            from distill.selected_labels import select_labels

            pool = choose(tasks, turn.level, settings.candidates(), share, self.found, turn.seed)
            seed, state = self._seed(turn), state_of(out)
            learner = Learners(base, start, tasks, self.config.distill, state, seed)
            return select_labels(labeller, tasks, pool, len(chosen), learner, settings, out, state, seed, progress)

        return work

    def _labeller(self, turn: Turn, previous: Agent) -> Labeller:
        """Who answers a turn's questions."""
        return self.models.judge(previous, f"{turn.name}/labels")

    def _warm_start(self, turn: Turn, base: Path, adapter: Path | None, labels: Sequence[Path]) -> Work:
        def work(out: Path, progress: Progress) -> Metrics:
            from distill.imitation import warm_start
            from distill.labels import contradicted, newest_labels

            distill, rows = self.config.distill, newest_labels(labels)
            settings = distill.warm_start.of(turn.level)
            self.models.rest()
            metrics = warm_start(base, adapter, rows, distill.adapter, settings, out, self._seed(turn), progress)
            return {**metrics, "contradicted": contradicted(labels)}

        return work

    def _reward(
        self,
        turn: Turn,
        previous: Agent,
        base: Path,
        start: Path | None,
        labels: Sequence[Path],
        earlier: Path | None = None,
    ) -> Work:
        def work(out: Path, progress: Progress) -> Metrics:
            from distill.labels import contradicted, newest_labels
            from distill.pairs import write_pairs
            from distill.reward import enough_labels, make_pairs, train_reward

            settings = self.config.distill.reward
            rows = enough_labels(newest_labels(labels), settings, self._seed(turn))
            scope = f"{turn.name}/reward"
            used = Cost()
            ask = self.models.asker(self.models.agent("before PPO", base, start), scope, used)
            # A program finds one answer acceptable, so its label is its judgement, and asking again would be waste.
            judge = None
            if self.config.overseer.kind != "program":
                judge = self.models.judge(previous, scope)
            judging, left_out = judge.judge if judge else None, Counter[str]()
            pairs = make_pairs(self.models.tasks, rows, ask, settings, self._seed(turn), judging, left_out)
            adapter = self.config.distill.adapter
            self.models.rest()
            metrics = train_reward(base, start, pairs, adapter, settings, out, self._seed(turn), progress, earlier)
            metrics |= {"own_tokens": used.tokens, "contradicted": contradicted(labels)}
            if settings.refresh.most:
                write_pairs(pairs, out)
            if judge is None:
                return metrics
            counted = {"judged": len(rows), **left_out, "unreadable": judge.unreadable}
            return {**metrics, **counted, "judge_cost": asdict(judge.cost)}

        return work

    def _attack(self, turn: Turn, warm: Agent, previous: Agent, reward: Path, base: Path) -> Work:
        def work(out: Path, progress: Progress) -> Metrics:
            from distill.adversaries import Parts, open_search
            from distill.adversary import hunt
            from distill.ensemble import RewardEnsemble
            from distill.utilisation import device

            settings, scope = self.config.distill.adversary, f"{turn.name}/adversary"
            used = Cost()
            judged = self.models.judge(previous, scope)
            ensemble = RewardEnsemble.load(base, reward, self.config.distill.reward).to(device())
            target = Target(_texts(self.models.asker(warm, scope, used)), judged.verdicts, ensemble.rate)
            served = partial(self.models.dispatcher, scope)
            search = open_search(settings, Parts(self.models.tasks, turn.level, self.config.serving, served))
            ppo = self.config.distill.ppo.of(turn.level)
            prompts = ppo.episodes // ppo.answers
            metrics = hunt(search, target, out, prompts, settings.practised, self._seed(turn), progress)
            spent = {"tokens": used.tokens, "scored_tokens": ensemble.scored_tokens}
            return {**metrics, **spent, "judge_cost": asdict(judged.cost)}

        return work

    def _ppo(
        self,
        turn: Turn,
        base: Path,
        start: Path | None,
        labels: Sequence[Path],
        reward: Path,
        found: list[str],
        previous: Agent,
        adversary: Path | None = None,
    ) -> Work:
        all_labels = [*self.earlier_labels, *labels]

        def work(out: Path, progress: Progress) -> Metrics:
            from distill.launch import train_in_processes
            from distill.ppo import train_ppo

            distill = self.config.distill
            alone = distill.ppo.processes == 1 and distill.ppo.accelerate is None
            train: Callable[..., Metrics] = train_ppo if alone else train_in_processes
            train = partial(train, serving=self.config.serving)
            if distill.ppo.watch.every:
                train = partial(train, watched=self._watched(turn, previous, all_labels, reward))
            train = partial(train, attack_share=distill.adversary.practised)
            prompts, ppo = self._prompts(turn, all_labels, found, adversary), distill.ppo.of(turn.level)
            seed, state = self._seed(turn), state_of(out)
            self.models.rest()
            metrics = train(base, start, reward, prompts, distill.adapter, ppo, out, seed, progress, state)
            kept = self._kept(turn, base, start, labels, out) if start else {"kept": True}
            return {**metrics, **kept}

        return work

    def _prompts(self, turn: Turn, labels: Sequence[Path], found: list[str], adversary: Path | None) -> list[Prompt]:
        """What PPO practises on: questions that H^A has been asked, as many as the settings say, and new ones.

        `labels` are also those of earlier generations, for which H^A need not be asked again.
        """
        from distill.curriculum import labelled, practice
        from distill.labels import newest_labels

        distill = self.config.distill
        ppo, answered, new = distill.ppo.of(turn.level), [], 0
        if ppo.labelled:
            answered = labelled(newest_labels(labels), read_found(adversary / FOUND_FILE) if adversary else ())
            new = round(len(answered) * (1 - ppo.labelled) / ppo.labelled)
        else:
            new = ppo.episodes // ppo.answers
        return answered + practice(self.models.tasks, turn.level, new, distill.adversary.practised, found, turn.seed)

    def _watched(self, turn: Turn, previous: Agent, labels: Sequence[Path], reward: Path) -> Watched:
        """What H^A is asked while PPO trains: about questions that taught no reward model."""
        from distill.curriculum import watched_questions
        from distill.held_out_judge import HeldOutJudge
        from distill.labels import newest_labels
        from distill.pairs import read_pairs
        from distill.refresh import Watched

        distill, tasks = self.config.distill, self.models.tasks
        taught = {str(row["question"]) for row in newest_labels(labels) if row["part"] == "train"}
        questions = watched_questions(tasks, turn.level, distill.ppo.watch.questions, taught, turn.seed)
        judge, settings = self.models.judge(previous, f"{turn.name}/agent"), distill.reward
        judges = self.config.overseer.kind != "program"
        held_out = HeldOutJudge(judge, tasks, questions, settings, distill.labels.heldout, judges)
        pairs = read_pairs(reward) if settings.refresh.most else []
        return Watched(held_out, pairs, settings, distill.adapter)

    def _kept(self, turn: Turn, base: Path, start: Path, labels: Sequence[Path], out: Path) -> Metrics:
        """Go back to the agent that PPO started from unless H^A's held-out labels are met clearly more often."""
        from distill.keep import agreements, better, go_back
        from distill.labels import newest_labels

        scope, rows, used = f"{turn.name}/agent", newest_labels(labels), Cost()
        asks = [
            self.models.asker(self.models.agent(name, base, folder), scope, used)
            for name, folder in (("before PPO", start), ("after PPO", out))
        ]
        before, after = (agreements(ask, rows) for ask in asks)
        kept = better(before, after)
        if not kept:
            go_back(out, start)
        asked = max(1, len(before))
        agreed = {"agreement_before": sum(before) / asked, "agreement_after": sum(after) / asked}
        return {"kept": kept, **agreed, "kept_tokens": used.tokens}

    def _evaluate(self, n: int, scope: str, agents: Mapping[str, Agent], amplified: Agent | None) -> Work:
        """Measure agents and, given one that has been trained, H^A with it, its robustness and its predecessor's."""

        def work(_out: Path, progress: Progress) -> Metrics:
            asks: dict[str, Ask] = {name: self.models.asker(agent, scope) for name, agent in agents.items()}
            tasks, seed = self.models.tasks, self.config.seed
            if amplified is None:
                return {"ladder": self.evaluator.measure(tasks, asks, seed)}
            judge = self.models.judge(amplified, scope)
            ladder = self.evaluator.measure(tasks, {**asks, "amplified": judge.ask}, seed)
            cost = asdict(judge.cost)

            def attacker(cap: int) -> int | None:
                from distill.adversary import calls_to_failure

                target = Target(_texts(asks["agent"]), judge.verdicts)
                return calls_to_failure(tasks, target, n, cap, seed)

            progress(1, 2)
            robustness = self.evaluator.attack(tasks, asks["previous"], asks["agent"], judge, attacker, seed)
            return {"ladder": ladder, "robustness": robustness, "amplified_cost": cost}

        return work

    def _seed(self, turn: Turn) -> int:
        from distill.curriculum import generation_seed

        return generation_seed(turn.seed, turn.level)


def _texts(ask: Ask) -> Callable[[Sequence[str]], list[str]]:
    """Answers as texts; a failed one is "", which no judge accepts."""
    return lambda texts: [answer.text for answer in ask(texts)]


def stage_names(config: RunConfig) -> list[str]:
    """The stages of a run in the order in which they are done.

    In the collapsed scheme which round ends a generation is found out on the way: its evaluations stand at the end.
    """
    left_out = set()
    if not config.distill.warm_start.enabled:
        left_out.add("warm_start")
    if not config.distill.adversary.enabled:
        left_out.add("adversary")
    kept = [name for name in STAGES if name not in left_out]
    if config.scheme == "collapsed":
        rounds = [f"round-{r}/{name}" for r in range(1, config.collapsed.rounds + 1) for name in (*kept[:-1], "copy")]
        levels = [f"generation-{n}/evaluation" for n in range(config.generations + 1)]
        return ["base", "base_evaluation", *rounds, *levels]
    each = [f"generation-{n}/{name}" for n in range(config.generations + 1) for name in kept]
    return ["base", "base_evaluation", *each]


def run(
    config: RunConfig,
    folder: Path,
    evaluator: Evaluator,
    reporter: Reporter,
    until: str | None = None,
    only: str | None = None,
) -> Path | None:
    """Run, or carry on with, iterated amplification in `folder`. Returns the report's path, None if ended before it.

    Raises InputError for a folder of another configuration, StageError for a stage that fails.
    """
    from distill.collapsed import CollapsedIteration  # which is made from this module

    if config.distill.ppo.accelerate is not None:
        check_with_accelerate(config.distill.ppo.accelerate)  # now, and not when PPO's turn comes
    scheme = CollapsedIteration if config.scheme == "collapsed" else Iteration
    with exclusive(folder):
        iteration = scheme(config, folder, evaluator, reporter, until, only)
        try:
            return iteration.run()
        finally:
            iteration.close()
