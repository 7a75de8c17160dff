"""Hardening: rounds of adversarial training of one agent, as a generation of a run does it, for experiments' arms.

A round: search for failures (if the arm has an adversary), H^A's labels, warm start, reward ensemble, PPO. Arms differ
in the attacks among their labels and prompts; steps, episodes and all else are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from amplification.agent import Agent
from amplification.serving.base import ModelRef
from amplification.serving.config import ServingConfig
from amplification.store import Store
from amplification.tasks.attacks import AttackFamily, attacks, extra_words
from amplification.tasks.base import Task
from amplification.verdict import AnswerTexts, JudgeTexts
from distill.adversary import Adversary, MutationAdversary, SearchResult, Target
from distill.archive import Found, in_turn
from distill.config import BaseConfig, DistillConfig, ModelConfig, RunConfig, WarmStartConfig
from distill.curriculum import Chosen, curriculum, generation_seed, place_of, practice, share_of
from distill.ensemble import RewardEnsemble
from distill.experiments.base import ExperimentConfig
from distill.imitation import warm_start
from distill.judgement import Judge
from distill.labels import make_labels, read_labels
from distill.models import Models
from distill.ppo import train_ppo
from distill.probing import PROBING, ProbingAdversary
from distill.progress import Progress, silent
from distill.reward import make_pairs, train_reward
from distill.search import joined
from distill.weights import load_merged, load_tokenizer, quiet

Row = Mapping[str, Any]


class HardeningConfig(ExperimentConfig):
    """What is trained: `level` is the index of the tasks' highest level, `beginning` teaches the agent that all arms
    start from, and `distill` says what a round of an arm is. `measured`: held-out texts of each kind."""

    tasks: tuple[str, ...] = ("summing", "permutation")
    level: int = Field(default=1, ge=0)
    rounds: int = Field(default=2, ge=1)
    model: ModelConfig = ModelConfig(width=64, layers=2, heads=2)
    base: BaseConfig = BaseConfig(steps=100, batch=64)
    beginning: WarmStartConfig = WarmStartConfig(steps=500)
    questions: int = Field(default=800, ge=1)  # of each task and level, to begin with
    distill: DistillConfig = DistillConfig()
    measured: int = Field(default=200, ge=1)


@dataclass(frozen=True)
class Arm:
    """What sets one arm apart: its share of attacks, the families they come from, and whether a search adds to them.

    `unfamiliar`: words that no question and no attack of a run has, which a search may put into questions; where there
    are such, all words are gone through as well (`distill.probing`).
    """

    share: float
    families: Sequence[AttackFamily]
    search: bool
    unfamiliar: Sequence[str] = ()


@dataclass
class Hardened:
    """An agent after its rounds, and what its searches found."""

    agent: Path
    found: list[Found] = field(default_factory=list)
    searches: list[SearchResult] = field(default_factory=list)


class Lab:
    """The base, the agents and H^A of one seed of an experiment. `folder` holds all of them."""

    def __init__(self, config: HardeningConfig, seed: int, folder: Path, words: Sequence[str] = ()) -> None:
        """`words`: what the base's tokenizer knows beside the tasks' words and the attacks'."""
        self.config, self.seed, self.folder, self.words = config, seed, folder, tuple(words)
        serving = ServingConfig(backend="transformers")
        run = RunConfig(seed=seed, tasks=config.tasks, serving=serving, distill=config.distill, model=config.model)
        self.models = Models(run, Store.at(folder / "store.sqlite"))
        self.tasks: Mapping[str, Task] = self.models.tasks
        self.base = folder / "base"

    def close(self) -> None:
        self.models.close()

    def agent(self, adapter: Path | None) -> Agent:
        return self.models.agent(adapter.parent.name if adapter else "base", self.base, adapter)

    def answer(self, adapter: Path | None) -> AnswerTexts:
        """The agent's answers as texts; a failed one is "", which no judge accepts."""
        ask = self.models.asker(self.agent(adapter), "experiment")
        return lambda texts: [answer.text for answer in ask(texts)]

    def target(self, adapter: Path | None, reward: Path | None = None) -> Target:
        """The agent, H^A with it, and the reward ensemble's scores, which guide a search."""
        rate = RewardEnsemble.load(self.base, reward, self.config.distill.reward).rate if reward else None
        return Target(self.answer(adapter), self.judge(adapter).verdicts, rate)

    def alone(self) -> Judge:
        """H without any agent: it works all out by itself."""
        nobody = Agent("none", ModelRef("none"), "none")
        return self.models.judge(nobody, "H alone", alone=True)

    def judge(self, adapter: Path | None) -> Judge:
        """H^A with this agent."""
        return self.models.judge(self.agent(adapter), "experiment")

    def ordinary(self) -> list[Row]:
        """Questions of all levels up to the highest, as labels; H's own answers."""
        each = self.config.questions
        chosen = curriculum(self.tasks, self.config.level, each, each, self.seed)
        answers = self.alone().verdicts([choice.question for choice in chosen])
        return [
            {**asdict(choice), "answer": answer, "part": "train"}
            for choice, answer in zip(chosen, answers, strict=True)
            if answer is not None
        ]

    def begin(self, rows: Sequence[Row], progress: Progress) -> None:
        """A base that has learned `rows`, as one plain model: nothing is left of what it was before."""
        from amplification.tasks import vocabulary
        from distill.base import train_base

        config, form, taught = self.config, self.folder / "form", self.folder / "taught"
        words = (*vocabulary(), *extra_words(), *self.words)
        train_base(self.tasks, words, config.model, config.base, form, self.seed, silent)
        adapter = config.distill.adapter
        warm_start(form, None, rows, adapter, config.beginning, taught, self.seed, progress)
        with quiet():
            load_merged(form, taught).save_pretrained(str(self.base))
            load_tokenizer(form).save_pretrained(str(self.base))

    def harden(self, name: str, arm: Arm, progress: Progress) -> Hardened:
        """The base after all rounds of an arm."""
        done, adapter, reward = Hardened(self.base), None, None
        for turn in range(self.config.rounds):
            folder = self.folder / name / f"round-{turn}"
            folder.mkdir(parents=True)
            seed = generation_seed(self.seed, turn)
            if arm.search:
                result = self.search(arm, adapter, reward, seed)
                done.searches.append(result)
                # What this agent fails at now, and what agents before it failed at, in turn.
                done.found = in_turn({"new": result.found, "old": done.found})
            adapter, reward = self._round(arm, adapter, done.found, folder, seed)
            progress(turn + 1, self.config.rounds)
        assert adapter is not None
        done.agent = adapter
        return done

    def search(self, arm: Arm, adapter: Path | None, reward: Path | None, seed: int) -> SearchResult:
        """The arm's searches against the agent, one after the other."""
        target = self.target(adapter, reward)
        return joined([adversary.search(target, seed) for adversary in self.adversaries(arm)])

    def adversaries(self, arm: Arm) -> list[Adversary]:
        return [self.mutation(arm), *([self.probing(arm)] if arm.unfamiliar else [])]

    def mutation(self, arm: Arm, rounds: int | None = None) -> Adversary:
        """The mutation search, of so many rounds if not of as many as the configuration says."""
        settings = self.config.distill.adversary
        if rounds is not None:
            settings = settings.model_copy(update={"rounds": rounds})
        return MutationAdversary(self.tasks, settings, self.config.level, words=arm.unfamiliar, among=arm.families)

    def probing(self, arm: Arm) -> Adversary:
        known = [word for task in self.tasks.values() for word in task.words()]
        words = (*known, *extra_words(), *arm.unfamiliar)
        return ProbingAdversary(self.tasks, self.config.level, words, arm.unfamiliar)

    def _round(
        self, arm: Arm, adapter: Path | None, found: Sequence[Found], folder: Path, seed: int
    ) -> tuple[Path, Path]:
        """Labels, warm start, reward and PPO; the agent's folder and the reward's."""
        settings, base = self.config.distill, self.base
        chosen = curriculum(self.tasks, self.config.level, settings.labels.questions, settings.labels.replay, seed)
        made = share_of(len(chosen), arm.share)
        # What a search finds comes on top: taken from the families' share it would cost more than it brings.
        hostile = self._hostile(arm, made, found[:made], seed)
        make_labels(self.judge(adapter), self.tasks, [*chosen, *hostile], settings.labels, folder, silent)
        rows = read_labels(folder)
        warm, reward, agent = folder / "warm", folder / "reward", folder / "agent"
        warm_start(base, adapter, rows, settings.adapter, settings.warm_start, warm, seed, silent)
        ask = self.models.asker(self.agent(warm), "experiment")
        pairs = make_pairs(self.tasks, rows, ask, settings.reward, seed)
        train_reward(base, warm, pairs, settings.adapter, settings.reward, reward, seed, silent)
        episodes = settings.ppo.episodes
        attacked = round(episodes * arm.share)
        finds = found[: attacked // 2]
        more = [choice.question for choice in self._hostile(arm, attacked - len(finds), finds, seed + 500)]
        prompts = practice(self.tasks, self.config.level, episodes - len(more), 0.0, [], seed)
        train_ppo(base, warm, reward, [*prompts, *more], settings.adapter, settings.ppo, agent, seed, silent)
        return agent, reward

    def _hostile(self, arm: Arm, made: int, finds: Sequence[Found], seed: int) -> list[Chosen]:
        """Finds, and `made` attacks of the arm's families.

        A find is learned with its task's attacks, one whose cause is known in a lesson of its own: the more it costs
        the agent, the more often it comes (`distill.lessons`).
        """
        known = [PROBING if each.family.startswith(PROBING) else each.task for each in finds]
        places = [place_of(self.tasks, each.question) for each in finds]
        return [
            *(Chosen(f.question, *at, f"adversary/{by}") for f, at, by in zip(finds, places, known, strict=True)),
            *(
                Chosen(attack.text, "", 0, f"attack:{attack.family}/{attack.task}")
                for attack in attacks(self.tasks, made, False, seed, self.config.level, arm.families)
            ),
        ]


def unacceptable(answers: Sequence[str], judged: Sequence[str | None]) -> float:
    """Share of answers that are not H^A's, among the questions that it has a view on."""
    decided = [given == view for given, view in zip(answers, judged, strict=True) if view is not None]
    return 1 - sum(decided) / len(decided) if decided else 0.0


def counting(answer: AnswerTexts, told: Callable[[int, str, str], None]) -> AnswerTexts:
    """`answer` that tells of each answer: how many were asked so far, question, answer."""
    asked = 0

    def watched(texts: Sequence[str]) -> Sequence[str]:
        nonlocal asked
        answers = answer(texts)
        for text, given in zip(texts, answers, strict=True):
            asked += 1
            told(asked, text, given)
        return answers

    return watched


__all__ = ["Arm", "Hardened", "HardeningConfig", "JudgeTexts", "Lab", "Row", "counting", "unacceptable"]
