"""A language-model overseer on a vLLM server of its own, end to end: how accurate H^A is, and how often it misspoke."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from amplification.benchmarks.base import Measured
from amplification.benchmarks.server import vllm_server
from amplification.dispatch import Dispatcher
from amplification.overseers.config import LanguageModelConfig
from amplification.overseers.imitator import TEMPLATE
from amplification.overseers.language_model import LanguageModelOverseer
from amplification.overseers.opening import language_model_agent
from amplification.overseers.program import ProgramOverseer
from amplification.serving import open_sampler
from amplification.serving.config import HttpConfig, ServingConfig
from amplification.tasks.base import Task
from distill.config import ImitatorTraining
from distill.experiments.recording import LIMITS, answered, sampled_questions
from distill.imitate_overseer import episode_steps, lessons_from, train_imitator
from distill.progress import Progress


@dataclass(frozen=True)
class ServedOverseer(Measured):
    """`asked_again` are steps whose first output was no action, `given_up` those whose second was none either."""

    task: str
    seed: int
    questions: int
    accuracy: float
    steps: int
    calls: int
    asked_again: int
    given_up: int
    seconds_answering: float
    seconds: float

    def as_line(self) -> str:
        return (
            f"accuracy {self.accuracy:.4f} on {self.questions} held-out questions, {self.steps} steps of H: "
            f"{self.asked_again} asked again, {self.given_up} given up; {self.seconds_answering:.1f} s of answering"
        )


def served_overseer(
    task: Task,
    settings: ImitatorTraining,
    folder: Path,
    seed: int,
    progress: Progress,
    record: int = 1_200,
    held_out: int = 100,
    constrained: bool = True,
) -> ServedOverseer:
    """Train a small model to follow the template `step_short` for a task, serve it with vLLM on loopback, and ask H^A
    with it as the overseer `held_out` questions a level. A is exact. `folder` may hold the model already."""
    begun = time.monotonic()
    model = folder / "model"
    if not (model / "model.safetensors").is_file():
        texts = sampled_questions(task, "train", record, seed)
        episodes = answered(task, ProgramOverseer({task.name: task}), texts).episodes
        lessons = lessons_from(step for episode in episodes for step in episode_steps(episode))
        train_imitator(lessons, settings, model, seed, progress)
    length = str(settings.model.max_length)
    with vllm_server(model, "--max-model-len", length, "--served-model-name", "overseer") as server:
        serving = ServingConfig(backend="openai", http=HttpConfig(servers=(server.url,), parameters=1))
        config = LanguageModelConfig(
            model="overseer", template=TEMPLATE, max_tokens=settings.max_tokens, constrained=constrained
        )
        sampler = open_sampler(serving)
        try:
            agent = language_model_agent(config, serving)
            overseer = LanguageModelOverseer(agent, Dispatcher(sampler), LIMITS.workspace_chars)
            texts, started = sampled_questions(task, "held_out", held_out, seed), time.monotonic()
            found = answered(task, overseer, texts)
            seconds = time.monotonic() - started
        finally:
            sampler.close()
    return ServedOverseer(
        task=task.name,
        seed=seed,
        questions=len(texts),
        accuracy=found.accuracy,
        steps=found.cost.overseer_steps,
        calls=found.cost.overseer_calls,
        asked_again=overseer.asked_again,
        given_up=overseer.given_up,
        seconds_answering=seconds,
        seconds=time.monotonic() - begun,
    )
