"""The collapsed scheme: one agent that is trained and at the same time defines its own reward, round by round.

A round: H^A with a copy of the agent answers a few new questions -> a slice of warm start on all labels of the level so
far -> the reward ensemble is trained on -> a slice of PPO -> the throttle -> the copy that later rounds consult. Once
the copy that H would consult next agrees with H^A's labels at the newest level, the next level is begun. The rounds of
one level are a generation, measured at its end as in the sequential scheme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amplification.agent import Agent
from amplification.episode import Cost
from distill.alone import PartlyAlone, judged_alone
from distill.archive import FOUND_FILE, questions_of, read_found
from distill.curriculum import SEEDS_A_GENERATION
from distill.iterate import Iteration, Turn
from distill.labels import Labeller
from distill.models import Ask
from distill.progress import Progress
from distill.results import generation_result
from distill.stage import Done, Metrics, Work

# Questions on which the throttle measures a round's step.
MEASURED_ON = 256


@dataclass
class Course:
    """Where the run has come to. Folders of None are the base's; `copies[r]` is what round r left to be consulted."""

    base: Path
    agents: list[Path | None] = field(default_factory=lambda: [None])
    copies: list[Path | None] = field(default_factory=lambda: [None])
    reward: Path | None = None
    level: int = 0
    labels: list[Path] = field(default_factory=list)  # of the newest level's rounds
    rounds: list[dict[str, Done]] = field(default_factory=list)  # of the newest level
    start: Path | None = None  # the agent that the newest level began with


class CollapsedIteration(Iteration):
    """A run in the collapsed scheme."""

    def _run(self) -> Path:
        base = self.stage("base", self._train_base)
        start = self.models.agent("base", base.folder, None)
        base_evaluation = self.stage("base_evaluation", self._evaluate(0, "base_evaluation", {"agent": start}, None))
        course, results = Course(base.folder), []
        settings = self.config.collapsed
        for number in range(1, settings.rounds + 1):
            done = self._round(number, course)
            shares = done["copy"].metrics["agreement"]
            agreed = min(shares.values()) >= settings.agreement
            if agreed or number == settings.rounds:
                results.append(self._level_result(course, agreed))
                if course.level == self.config.generations:
                    break
                course.level, course.labels, course.rounds, course.start = course.level + 1, [], [], course.agents[-1]
        return self._report(base, base_evaluation, results)

    def _round(self, number: int, course: Course) -> dict[str, Done]:
        """Every stage of one round, by name; `course` moves on by it."""
        # Each round draws questions of its own.
        turn = Turn(f"round-{number}", course.level, self.config.seed * SEEDS_A_GENERATION + number)
        done: dict[str, Done] = {}
        base, before, distill = course.base, course.agents[-1], self.config.distill
        assistant = self.models.agent("copy", base, consulted(course.copies, self.config.collapsed.lag))

        def stage(name: str, work: Work) -> Path:
            done[name] = self.stage(f"{turn.name}/{name}", work)
            return done[name].folder

        labels = [*course.labels, stage("labels", self._label(turn, assistant, base, before))]
        start = before
        if distill.warm_start.enabled:
            start = stage("warm_start", self._warm_start(turn, base, before, labels))
        reward = stage("reward", self._reward(turn, assistant, base, start, labels, course.reward))
        adversary = None
        if distill.adversary.enabled:
            warm = self.models.agent("before PPO", base, start)
            adversary = stage("adversary", self._attack(turn, warm, assistant, reward, base))
            self.found += questions_of(read_found(adversary / FOUND_FILE))
        practised = self._ppo(turn, base, start, labels, reward, list(self.found), assistant, adversary)
        agent = stage("agent", self._throttled(turn, base, before, practised))
        course.agents.append(agent)
        averaged = stage("copy", self._copy(turn, course, labels[-1]))
        course.copies.append(agent if self.config.collapsed.average is None else averaged)
        course.reward, course.labels = reward, labels
        course.rounds.append(done)
        return done

    def _label(self, turn: Turn, previous: Agent, base: Path, start: Path | None) -> Work:
        work, share = super()._label(turn, previous, base, start), self.config.collapsed.judge_without_agent

        def labelled(out: Path, progress: Progress) -> Metrics:
            from distill.labels import read_labels

            metrics = work(out, progress)
            alone = sum(judged_alone(str(row["question"]), share, self._seed(turn)) for row in read_labels(out))
            return {**metrics, "consulted": previous.digest, "judged_without_agent": alone}

        return labelled

    def _labeller(self, turn: Turn, previous: Agent) -> Labeller:
        share, scope = self.config.collapsed.judge_without_agent, f"{turn.name}/labels"
        alone = self.models.judge(previous, scope, alone=True)
        return PartlyAlone(self.models.judge(previous, scope), alone, share, self._seed(turn))

    def _throttled(self, turn: Turn, base: Path, before: Path | None, work: Work) -> Work:
        """The round's agent, no further from the one before than the throttle allows."""
        distill, most = self.config.distill, self.config.collapsed.max_kl

        def bounded(out: Path, progress: Progress) -> Metrics:
            metrics = work(out, progress)
            if most is None:
                return metrics
            from distill.curriculum import practice
            from distill.throttle import bound_step

            prompts = practice(self.models.tasks, turn.level, MEASURED_ON, 0.0, [], turn.seed)
            texts = [prompt.question for prompt in prompts]
            found = bound_step(base, before, out, texts, most, distill.adapter, distill.ppo.answer_tokens)
            return {**metrics, "throttle": found._asdict()}

        return bounded

    def _copy(self, turn: Turn, course: Course, labels: Path) -> Work:
        """The moving average, where there is one, and how far the copy that is consulted next agrees with H^A."""
        settings, adapter = self.config.collapsed, self.config.distill.adapter
        copies, agent = list(course.copies), course.agents[-1]

        def work(out: Path, progress: Progress) -> Metrics:
            from distill.labels import read_labels

            newest = agent
            if settings.average is not None:
                from distill.averaging import save_between

                # The base knows nothing: an average that began with it would spoil many rounds' labels.
                share = 1.0 if len(copies) == 1 else 1 - settings.average
                save_between(course.base, copies[-1], agent, share, adapter, out)
                newest = out
            next_copy = consulted([*copies, newest], settings.lag)
            used = Cost()
            ask = self.models.asker(self.models.agent("copy", course.base, next_copy), f"{turn.name}/copy", used)
            levels = {name: task.levels[turn.level] for name, task in self.models.tasks.items()}
            return {"agreement": agreement_by_task(ask, read_labels(labels), levels), "tokens": used.tokens}

        return work

    def _level_result(self, course: Course, agreed: bool) -> dict[str, Any]:
        """What the rounds of the newest level come to, as the evaluator's report reads a generation."""
        n, last = course.level, course.rounds[-1]
        agents: dict[str, Agent] = {}
        warm = last["warm_start"].folder if "warm_start" in last else course.agents[-2]
        for name, folder in (("agent", course.agents[-1]), ("agent_before_ppo", warm), ("previous", course.start)):
            agents[name] = self.models.agent(name, course.base, folder)
        scope = f"generation-{n}/evaluation"
        evaluation = self.stage(scope, self._evaluate(n, scope, agents, agents["agent"]))
        rounds = [{name: stage.metrics for name, stage in done.items()} for done in course.rounds]
        seconds = evaluation.seconds + sum(stage.seconds for done in course.rounds for stage in done.values())
        result = generation_result(n, seconds, evaluation.metrics, rounds)
        told = {"level_agreed": agreed, "rounds": [_told(metrics) for metrics in rounds]}
        return result | {"ppo": {**result["ppo"], **told}}


def consulted(copies: Sequence[Path | None], lag: int) -> Path | None:
    """The copy that the next round's H consults: `lag` rounds old, or the oldest there is."""
    return copies[max(0, len(copies) - 1 - lag)]


def agreement_by_task(ask: Ask, labels: Sequence[Mapping[str, Any]], levels: Mapping[str, int]) -> dict[str, float]:
    """For each task, the share of H^A's labels at its level that an agent meets: of the held-out ones if there are any.

    Facts are all taught, so a level of facts is measured on what was taught. 0 where H^A came to no answer at all.
    """
    shares = {}
    for task, level in levels.items():
        rows = [row for row in labels if (row["task"], row["level"], row["source"]) == (task, level, "task")]
        rows = [row for row in rows if row["part"] == "heldout"] or rows
        answers = ask([str(row["question"]) for row in rows])
        met = sum(answer.ok and answer.text == row["answer"] for answer, row in zip(answers, rows, strict=True))
        shares[task] = met / len(rows) if rows else 0.0
    return shares


def _told(metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    """What the report says of one round."""
    labels, agent = metrics["labels"], metrics["agent"]
    told = {key: labels[key] for key in ("labels", "unanswered", "consulted", "judged_without_agent")}
    shown = ("reward_before", "reward_after", "kl", "kept", "throttled", "collapsed", "throttle")
    told |= {key: agent[key] for key in shown if key in agent}
    return told | {"agreement": metrics["copy"]["agreement"]}
