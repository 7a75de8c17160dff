"""PPO's episodes a second beside TRL's own loop, on one configuration in one process.

The configuration: the demo's model, level 1 of all embedded tasks with a quarter of nonsense, batches of 64, the reward
model an ensemble of two. TRL's loop is measured as it is, and again without its two garbage collections an update.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from amplification.benchmarks.base import Measured, Settings
from amplification.overseers.program import ProgramOverseer
from amplification.question import Answer, Question
from amplification.tasks import TASKS, vocabulary
from amplification.tasks.attacks import extra_words
from amplification.tasks.base import NONSENSE
from amplification.workspace import Reply, Workspace
from distill.actor_critic import ValueHead
from distill.base import train_base
from distill.config import AdapterConfig, BaseConfig, LabelsConfig, ModelConfig, PPOSettings, RewardConfig
from distill.curriculum import choose, practice
from distill.ensemble import RewardEnsemble
from distill.ppo import Parts, make_optimizer, make_trainer, trl_arguments
from distill.ppo_trainer import TrlPPOTrainer, trl_ppo
from distill.progress import silent
from distill.reward import make_pairs, train_reward
from distill.weights import load_merged, load_policy, load_tokenizer, prompt_ids, quiet, scorer_from

ADAPTER = AdapterConfig(method="linear")
PPO = PPOSettings(episodes=2_048, batch=64, learning_rate=1e-3, kl_coefficient=0.1, critic_warmup=2)
NONSENSE_SHARE = 0.25
SEED = 1
# Updates at a training's end over which its reward and KL are averaged.
LAST = 8


@dataclass(frozen=True)
class PPOSpeed(Measured):
    """Medians over interleaved repeats: episodes per second; ratios of ours to TRL's; reward and KL at the end."""

    episodes_per_second: float
    trl_episodes_per_second: float
    trl_without_gc_episodes_per_second: float
    ratio: float
    ratio_without_gc: float
    reward: float
    trl_reward: float
    kl: float
    trl_kl: float
    episodes: int
    repeats: int

    def as_line(self) -> str:
        return (
            f"PPO {self.episodes_per_second:.0f} episodes/s, TRL's loop {self.trl_episodes_per_second:.0f} (ratio "
            f"{self.ratio:.2f}), without its gc.collect {self.trl_without_gc_episodes_per_second:.0f} (ratio "
            f"{self.ratio_without_gc:.2f}); reward {self.reward:.3f} and {self.trl_reward:.3f}, KL {self.kl:.3f} and "
            f"{self.trl_kl:.3f} (medians of {self.repeats} repeats of {self.episodes} episodes)"
        )


def ppo(settings: Settings) -> PPOSpeed:
    """Measure the three, one after the other, each repeat. Takes a few minutes, of which one makes base and reward."""
    torch.set_num_threads(1)
    repeats = settings.repeats or 3
    with quiet(), tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder))
        found: dict[str, list[tuple[float, float, float]]] = {"ours": [], "trl": [], "without_gc": []}
        for repeat in range(repeats):
            found["ours"].append(bench.ours(SEED + repeat))
            found["trl"].append(bench.theirs(SEED + repeat))
            with _without_collections():
                found["without_gc"].append(bench.theirs(SEED + repeat))
    speeds, rewards, kls = (
        {name: statistics.median(run[place] for run in runs) for name, runs in found.items()} for place in range(3)
    )
    return PPOSpeed(
        speeds["ours"],
        speeds["trl"],
        speeds["without_gc"],
        statistics.median(a[0] / b[0] for a, b in zip(found["ours"], found["trl"], strict=True)),
        statistics.median(a[0] / b[0] for a, b in zip(found["ours"], found["without_gc"], strict=True)),
        rewards["ours"],
        rewards["trl"],
        kls["ours"],
        kls["trl"],
        PPO.episodes,
        repeats,
    )


class _Bench:
    """A base that knows the form of questions, and a reward model that knows level 1 as H does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base, self.reward = folder, folder / "base", folder / "reward"
        words = (*vocabulary(), *extra_words())
        train_base(TASKS, words, ModelConfig(), BaseConfig(steps=150, batch=64), self.base, SEED, silent)
        chosen = choose(TASKS, 0, LabelsConfig(questions=500), NONSENSE_SHARE, [], SEED)
        labels = [
            {"question": c.question, "answer": _h_alone(c.question), "task": c.task, "part": part}
            for number, c in enumerate(chosen)
            for part in ["heldout" if number % 10 == 0 else "train"]
        ]
        pairs = make_pairs(TASKS, labels, lambda texts: [Answer.failed("not asked")] * len(texts), RewardConfig(), SEED)
        train_reward(self.base, None, pairs, ADAPTER, RewardConfig(steps=150), self.reward, SEED, silent)
        self.tokenizer = load_tokenizer(self.base)
        self.ensemble = RewardEnsemble.load(self.base, self.reward)
        self.reference: Any = load_merged(self.base, None).requires_grad_(False)
        prompts = practice(TASKS, 0, PPO.episodes, NONSENSE_SHARE, [], SEED)
        self.prompts = prompt_ids(self.tokenizer, [prompt.question for prompt in prompts])

    def ours(self, seed: int) -> tuple[float, float, float]:
        """Episodes per second, and reward and KL at the end."""
        value = ValueHead(self.reference.config.hidden_size)
        trainer = make_trainer(self._parts(value, seed))
        seconds = _timed(trainer.train)
        return self._ended(seconds, trainer.history)

    def theirs(self, seed: int) -> tuple[float, float, float]:
        """The same for TRL's trainer, its critic a model of its own, as it wants it."""
        value = scorer_from(self.reference, int(self.tokenizer.pad_token_id), ADAPTER, zero_head=True)
        trainer: Any = TrlPPOTrainer(**trl_arguments(self._parts(value, seed)))
        history: list[dict[str, float]] = []
        trainer.log, trainer.accelerator.print = history.append, lambda *_: None
        seconds = _timed(trainer.train)
        return self._ended(seconds, history)

    def _parts(self, value: Any, seed: int) -> Parts:
        policy: Any = load_policy(self.base, None, ADAPTER, seed)
        optimizers, scratch = make_optimizer(policy, value, ADAPTER, PPO), str(self.folder / "scratch")
        return Parts(
            *(policy, self.reference, value, self.ensemble, self.prompts),
            *(self.tokenizer, optimizers, PPO, scratch, seed),
        )

    def _ended(self, seconds: float, history: list[dict[str, float]]) -> tuple[float, float, float]:
        last = history[-LAST:]
        reward, kl = (sum(e[key] for e in last) / len(last) for key in ("objective/scores", "objective/kl"))
        return PPO.episodes / seconds, reward, kl


def _h_alone(question: str) -> str:
    """What H knows itself: the primitive step, and what makes no sense."""
    for task in ProgramOverseer(TASKS).tasks.values():
        if task.level_of(question) is not None:
            action = task.act(Workspace(Question(question)))
            return action.text if isinstance(action, Reply) else NONSENSE
    return NONSENSE


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def _without_collections() -> Iterator[None]:
    """TRL's module sees a `gc` whose `collect` does nothing; everybody else's is as it was."""

    class NoCollect:
        @staticmethod
        def collect(*_: Any) -> int:
            return 0

    original = trl_ppo.gc
    trl_ppo.gc = NoCollect
    try:
        yield
    finally:
        trl_ppo.gc = original
