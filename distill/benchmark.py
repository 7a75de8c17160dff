"""PPO's episodes a second, memory and utilisation beside TRL's own loop, on one configuration in one process.

The questions are level 1 of all embedded tasks with a quarter of nonsense, the reward model is an ensemble of two.
TRL's loop is measured as it is, and again with all that can be had without changing it: without its two garbage
collections an update and, where ours computes in bfloat16, inside torch's autocast (its own `bf16` does nothing).
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from amplification.benchmarks.base import Measured, Settings
from amplification.errors import InputError
from amplification.overseers.program import ProgramOverseer
from amplification.question import Answer, Question
from amplification.tasks import TASKS, vocabulary
from amplification.tasks.attacks import extra_words
from amplification.tasks.base import NONSENSE
from amplification.workspace import Reply, Workspace
from distill.actor_critic import ValueHead
from distill.base import train_base
from distill.benchmark_sizes import SIZES, Size
from distill.config import LabelsConfig, PPOSettings
from distill.curriculum import choose, practice
from distill.ensemble import RewardEnsemble
from distill.optimizer import trainable
from distill.ppo import Parts, make_optimizer, make_trainer, trl_arguments
from distill.ppo_trainer import PPOTrainer, TrlPPOTrainer, trl_ppo
from distill.precision import Precision
from distill.progress import silent
from distill.reward import make_pairs, train_reward
from distill.utilisation import GIB, device, matmul_flops, peak_memory, work_of
from distill.weights import load_merged, load_policy, load_tokenizer, parameters, prompt_ids, quiet, scorer_from

NONSENSE_SHARE = 0.25
SEED = 1
# Updates at a training's end over which its reward and KL are averaged.
LAST = 8


@dataclass(frozen=True)
class PPOSpeed(Measured):
    """Medians over interleaved repeats: episodes per second; ratios of ours to TRL's; reward and KL at the end.

    peak_memory_gib: of the GPU's memory that tensors took; None on a CPU. utilisation: multiplications and additions
    that ours takes, over what the device does in the same time where it multiplies large matrices in our precision.
    """

    episodes_per_second: float
    trl_episodes_per_second: float
    trl_without_gc_episodes_per_second: float
    ratio: float
    ratio_without_gc: float
    reward: float
    trl_reward: float
    kl: float
    trl_kl: float
    peak_memory_gib: float | None
    trl_peak_memory_gib: float | None
    trl_without_gc_peak_memory_gib: float | None
    utilisation: float
    trl_utilisation: float
    trl_without_gc_utilisation: float
    device: str
    precision: str
    parameters: int
    episodes: int
    repeats: int

    def as_line(self) -> str:
        line = (
            f"PPO {self.episodes_per_second:.0f} episodes/s, TRL's loop {self.trl_episodes_per_second:.0f} (ratio "
            f"{self.ratio:.2f}), without its gc.collect {self.trl_without_gc_episodes_per_second:.0f} (ratio "
            f"{self.ratio_without_gc:.2f}); reward {self.reward:.3f} and {self.trl_reward:.3f}, KL {self.kl:.3f} and "
            f"{self.trl_kl:.3f}; utilisation {self.utilisation:.1%}, {self.trl_utilisation:.1%} and "
            f"{self.trl_without_gc_utilisation:.1%}"
        )
        if self.peak_memory_gib is not None:
            line += (
                f"; peak memory {self.peak_memory_gib:.2f}, {self.trl_peak_memory_gib:.2f} and "
                f"{self.trl_without_gc_peak_memory_gib:.2f} GiB"
            )
        return line + (
            f" ({self.parameters / 1e6:.1f}M parameters in {self.precision} on {self.device}, medians of "
            f"{self.repeats} repeats of {self.episodes} episodes)"
        )


@dataclass(frozen=True)
class Trial:
    """One training. `memory`: peak bytes on the GPU; None on a CPU."""

    episodes_per_second: float
    reward: float
    kl: float
    memory: int | None


def ppo(settings: Settings) -> PPOSpeed:
    """Measure the three, one after the other, each repeat. Takes a few minutes, of which one makes base and reward.

    Raises InputError for a size that wants a GPU where there is none.
    """
    if settings.size != "embedded" and not torch.cuda.is_available():
        problem = f"--size {settings.size} trains for hours without a GPU, and there is none"
        raise InputError("command line", problem, "leave it out, or run this on a machine with one")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return measure(Bench(Path(folder), SIZES[settings.size]), settings.repeats or 3)


def measure(bench: Bench, repeats: int) -> PPOSpeed:
    """The three side by side."""
    ours, trl, without_gc = list[Trial](), list[Trial](), list[Trial]()
    with quiet():
        for repeat in range(repeats):
            ours.append(bench.ours(SEED + repeat))
            trl.append(bench.theirs(SEED + repeat))
            without_gc.append(bench.theirs(SEED + repeat, as_it_is=False))
    share = bench.flops_per_episode / matmul_flops(bench.precision.dtype)
    return PPOSpeed(
        episodes_per_second=_median(ours, "episodes_per_second"),
        trl_episodes_per_second=_median(trl, "episodes_per_second"),
        trl_without_gc_episodes_per_second=_median(without_gc, "episodes_per_second"),
        ratio=_ratio(ours, trl),
        ratio_without_gc=_ratio(ours, without_gc),
        reward=_median(ours, "reward"),
        trl_reward=_median(trl, "reward"),
        kl=_median(ours, "kl"),
        trl_kl=_median(trl, "kl"),
        peak_memory_gib=_memory(ours),
        trl_peak_memory_gib=_memory(trl),
        trl_without_gc_peak_memory_gib=_memory(without_gc),
        utilisation=share * _median(ours, "episodes_per_second"),
        trl_utilisation=share * _median(trl, "episodes_per_second"),
        trl_without_gc_utilisation=share * _median(without_gc, "episodes_per_second"),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        precision=bench.precision.name,
        parameters=bench.parameters,
        episodes=bench.size.ppo.episodes,
        repeats=repeats,
    )


def _median(trials: Sequence[Trial], name: str) -> float:
    return float(statistics.median(getattr(trial, name) for trial in trials))


def _ratio(ours: Sequence[Trial], theirs: Sequence[Trial]) -> float:
    return statistics.median(a.episodes_per_second / b.episodes_per_second for a, b in zip(ours, theirs, strict=True))


def _memory(trials: Sequence[Trial]) -> float | None:
    return None if trials[0].memory is None else _median(trials, "memory") / GIB


class Bench:
    """A base that knows the form of questions, and a reward model that knows level 1 as H does; trainings on them.

    `flops_per_episode` is known after the first of ours.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size = folder, size
        self.base, self.reward = folder / "base", folder / "reward"
        self.precision = Precision.of(size.ppo.precision)
        self.flops_per_episode = 0.0
        words = (*vocabulary(), *extra_words())
        made = train_base(TASKS, words, size.model, size.base, self.base, SEED, silent)
        self.parameters = int(made["parameters"])
        chosen = choose(TASKS, 0, LabelsConfig(questions=size.labels), NONSENSE_SHARE, [], SEED)
        labels = [
            {"question": c.question, "answer": _h_alone(c.question), "task": c.task, "part": part}
            for number, c in enumerate(chosen)
            for part in ["heldout" if number % 10 == 0 else "train"]
        ]
        pairs = make_pairs(TASKS, labels, lambda texts: [Answer.failed("not asked")] * len(texts), size.reward, SEED)
        train_reward(self.base, None, pairs, size.adapter, size.reward, self.reward, SEED, silent)
        self.tokenizer = load_tokenizer(self.base)
        prompts = practice(TASKS, 0, size.ppo.episodes, NONSENSE_SHARE, [], SEED)
        self.questions = [prompt.question for prompt in prompts]
        self.prompts = prompt_ids(self.tokenizer, self.questions)

    def with_ppo(self, **changes: object) -> Bench:
        """The same models with other settings of PPO."""
        other = copy.copy(self)
        other.size = replace(self.size, ppo=PPOSettings.model_validate(self.size.ppo.model_dump() | changes))
        other.precision = Precision.of(other.size.ppo.precision)
        return other

    def trainer(self, seed: int, **ours: Any) -> PPOTrainer:
        """Our trainer, ready to train; `ours` goes to its own part."""
        return make_trainer(self._parts(None, seed), **ours)

    def ours(self, seed: int) -> Trial:
        """A training by our loop."""
        trainer = self.trainer(seed)
        done = self._timed(trainer.train, trainer.history)
        policy, ensemble = trainer.inner.policy, trainer.reward_model
        trained = sum(p.numel() for p in trainable(policy))
        work = work_of(trainer.tokens, parameters(policy), trained, self.size.ppo.epochs)
        work += 2 * trainer.tokens * len(ensemble.centre) * ensemble.parameters_of_member()
        self.flops_per_episode = work / self.size.ppo.episodes
        return done

    def theirs(self, seed: int, as_it_is: bool = True) -> Trial:
        """The same by TRL's trainer, its critic a model of its own, as it wants it."""
        value = scorer_from(self._reference(), int(self.tokenizer.pad_token_id), self.size.adapter, zero_head=True)
        trainer: Any = TrlPPOTrainer(**trl_arguments(self._parts(value, seed)))
        history: list[dict[str, float]] = []
        trainer.log, trainer.accelerator.print = history.append, lambda *_: None
        if as_it_is:
            return self._timed(trainer.train, history)
        # Around the whole training: weights that are kept in 16 bits once would never be updated.
        kind = self.precision
        cast = torch.autocast(device().type, kind.dtype, cache_enabled=False) if kind.mixed else nullcontext()
        with _without_collections(), cast:
            return self._timed(trainer.train, history)

    def _reference(self) -> Any:
        return load_merged(self.base, None).requires_grad_(False)

    def _parts(self, value: Any, seed: int) -> Parts:
        """Models of their own for each training: ours are made to compute in another precision than TRL's."""
        policy: Any = load_policy(self.base, None, self.size.adapter, seed)
        reference, ensemble = self._reference(), RewardEnsemble.load(self.base, self.reward)
        value = ValueHead(reference.config.hidden_size) if value is None else value
        optimizers = make_optimizer(policy, value, self.size.adapter, self.size.ppo)
        return Parts(
            *(policy, reference, value, ensemble, self.prompts),
            *(self.tokenizer, optimizers, self.size.ppo, str(self.folder / "scratch"), seed),
        )

    def _timed(self, train: Callable[[], None], history: Sequence[dict[str, float]]) -> Trial:
        with peak_memory() as peak:
            started = time.perf_counter()
            train()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
        last = history[-LAST:]
        reward, kl = (sum(e[key] for e in last) / len(last) for key in ("objective/scores", "objective/kl"))
        return Trial(self.size.ppo.episodes / seconds, reward, kl, peak.bytes)


def _h_alone(question: str) -> str:
    """What H knows itself: the primitive step, and what makes no sense."""
    for task in ProgramOverseer(TASKS).tasks.values():
        if task.level_of(question) is not None:
            action = task.act(Workspace(Question(question)))
            return action.text if isinstance(action, Reply) else NONSENSE
    return NONSENSE


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
