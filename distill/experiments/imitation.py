"""Does an imitator take over the overseer's steps, and is H^A then as accurate as before?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from amplification.benchmarks.base import Measured
from amplification.dispatch import Dispatcher
from amplification.overseers.imitator import ImitatingOverseer, imitator_agent
from amplification.overseers.program import ProgramOverseer
from amplification.serving import open_sampler
from amplification.serving.config import ServingConfig
from amplification.store import Store
from amplification.tasks.base import Task
from distill.config import ImitatorTraining
from distill.experiments.recording import LIMITS, answered, between_levels, sampled_questions
from distill.imitate_overseer import imitate, lessons_from, recorded
from distill.progress import Progress


@dataclass(frozen=True)
class Imitation(Measured):
    """`steps_*` are steps of H on the held-out questions; `real_calls_*` those that the real overseer decided, without
    and with the imitator. The questions `between` have sizes that were never recorded."""

    task: str
    seed: int
    lessons: int
    parameters: int
    training_seconds: float
    threshold: float
    questions: int
    accuracy_before: float
    accuracy_after: float
    real_calls_before: int
    real_calls_after: int
    taken_over: float
    between_questions: int
    between_accuracy_before: float
    between_accuracy_after: float
    between_taken_over: float
    seconds: float

    def as_line(self) -> str:
        return (
            f"{self.taken_over:.1%} of {self.real_calls_before} steps taken over, accuracy {self.accuracy_before:.4f} "
            f"-> {self.accuracy_after:.4f}; between levels {self.between_taken_over:.1%}, "
            f"{self.between_accuracy_before:.4f} -> {self.between_accuracy_after:.4f}"
        )


def imitation(
    task: Task,
    settings: ImitatorTraining,
    serving: ServingConfig,
    folder: Path,
    seed: int,
    progress: Progress,
    record: int = 1_200,
    held_out: int = 300,
) -> Imitation:
    """Record the task's program overseer on `record` training questions a level, imitate it from the stored episodes,
    and measure H^A with each on `held_out` questions a level. A is exact, so that only the overseer can be wrong."""
    begun = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    real = ProgramOverseer({task.name: task})
    store = Store.at(folder / "store.sqlite")
    sampler = open_sampler(serving.model_copy(update={"max_model_len": settings.model.max_length}))
    try:
        answered(task, real, sampled_questions(task, "train", record, seed), store)
        lessons = lessons_from(recorded(store))
        trained = imitate(lessons, settings, sampler, folder / "imitator", seed, progress)
        agent, threshold = imitator_agent(folder / "imitator")
        texts, between = sampled_questions(task, "held_out", held_out, seed), between_levels(task, held_out // 4, seed)
        before, between_before = answered(task, real, texts), answered(task, real, between)
        dispatcher = Dispatcher(sampler)
        imitating, strange = (
            ImitatingOverseer(agent, dispatcher, LIMITS.workspace_chars, threshold, real) for _ in range(2)
        )
        after, between_after = answered(task, imitating, texts, store), answered(task, strange, between)
    finally:
        sampler.close()
        store.close()
    return Imitation(
        task=task.name,
        seed=seed,
        lessons=trained["lessons"],
        parameters=trained["parameters"],
        training_seconds=trained["seconds"],
        threshold=threshold,
        questions=len(texts),
        accuracy_before=before.accuracy,
        accuracy_after=after.accuracy,
        real_calls_before=before.cost.overseer_steps,
        real_calls_after=imitating.asked,
        taken_over=imitating.imitated / max(imitating.imitated + imitating.asked, 1),
        between_questions=len(between),
        between_accuracy_before=between_before.accuracy,
        between_accuracy_after=between_after.accuracy,
        between_taken_over=strange.imitated / max(strange.imitated + strange.asked, 1),
        seconds=time.monotonic() - begun,
    )
