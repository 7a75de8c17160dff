"""Throughput of H^A beside vLLM's own offline generation on the same prompts, in one run on one engine."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amplification.agent import Agent
from amplification.ask import last_agent
from amplification.benchmarks.base import Measured, Settings
from amplification.benchmarks.episode import MOST_CALLS, distinct_questions, run_episode, tiny_agent
from amplification.question import Question
from amplification.serving.vllm import VLLMSampler


@dataclass(frozen=True)
class Throughput(Measured):
    """Medians over the repeats, in calls per second; `ratio` is H^A's over that of LLM.generate."""

    calls_per_second: float
    raw_calls_per_second: float
    ratio: float
    calls: int
    repeats: int

    def as_line(self) -> str:
        return (
            f"H^A {self.calls_per_second:.0f} calls/s, LLM.generate {self.raw_calls_per_second:.0f} calls/s, "
            f"ratio {self.ratio:.3f} ({self.calls} distinct calls an episode, medians of {self.repeats} repeats)"
        )


def throughput(settings: Settings) -> Throughput:
    """Measure one episode of distinct agent calls (2,048 by default), cold memo and cold prefix cache, each repeat.

    Takes the last agent of a run, or a tiny model made for the purpose. Each repeat measures both, one after the
    other. Raises InputError for a number of calls that cannot all be distinct, StageError if the episode fails.
    """
    calls, repeats = settings.calls_within(2048, 2, MOST_CALLS), settings.repeats or 5
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        agent = last_agent(settings.run) if settings.run else tiny_agent(folder / "model")
        questions = distinct_questions(calls)
        sampler = VLLMSampler(settings.serving)
        try:
            _raw(sampler, agent, questions)  # the engine's start and first batch are part of neither figure
            amplified_rates, raw_rates = [], []
            for repeat in range(repeats):
                sampler.reset_prefix_cache()
                seconds = run_episode(sampler, agent, questions, folder / f"{repeat}.sqlite")
                amplified_rates.append(calls / seconds)
                raw_rates.append(calls / _raw(sampler, agent, questions))
        finally:
            sampler.close()
    amplified, raw = statistics.median(amplified_rates), statistics.median(raw_rates)
    return Throughput(amplified, raw, amplified / raw, calls, repeats)


def _raw(sampler: VLLMSampler, agent: Agent, questions: Sequence[Question]) -> float:
    """Seconds that LLM.generate takes for the same prompts."""
    prompts = [agent.call(question.text).prompt for question in questions]
    sampler.reset_prefix_cache()
    started = time.perf_counter()
    sampler.raw_generate(agent.model, prompts, agent.params)
    return time.perf_counter() - started
