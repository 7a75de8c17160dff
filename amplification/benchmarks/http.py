"""Throughput of H^A over HTTP beside a bare client's requests for the same tree, on one vLLM server."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from amplification.agent import Agent
from amplification.benchmarks.base import Measured, Settings
from amplification.benchmarks.episode import MOST_CALLS, distinct_questions, run_episode, tiny_agent
from amplification.benchmarks.server import vllm_server
from amplification.errors import StageError
from amplification.question import Question
from amplification.serving.config import HttpConfig, ServingConfig
from amplification.serving.openai import OpenAISampler

# One prompt a request is an order of magnitude slower: a share of the calls tells its rate.
ONE_PROMPT_SHARE = 8


@dataclass(frozen=True)
class Http(Measured):
    """Medians over the repeats, in calls per second; `ratio` is H^A's over that of list-prompt requests."""

    calls_per_second: float
    list_prompt_calls_per_second: float
    one_prompt_calls_per_second: float
    ratio: float
    lowest_ratio: float
    calls: int
    repeats: int

    def as_line(self) -> str:
        return (
            f"H^A {self.calls_per_second:.0f} calls/s, list prompts {self.list_prompt_calls_per_second:.0f} calls/s, "
            f"one prompt a request {self.one_prompt_calls_per_second:.0f} calls/s, ratio {self.ratio:.3f} "
            f"({self.calls} distinct calls an episode, medians of {self.repeats} repeats)"
        )


def http(settings: Settings) -> Http:
    """Measure one episode of distinct agent calls (2,048 by default) on a server of a tiny model, with a cold memo.

    A repeat measures H^A, a bare client that sends the tree level by level, all lists of a level at once, and the same
    client with one prompt a request. The ratio is the median of the repeats' ratios, since a busy machine's speed
    changes between them. Raises InputError for a number of calls that cannot all be distinct.
    """
    calls, repeats = settings.calls_within(2048, 2, MOST_CALLS), settings.repeats or 7
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        agent, questions = tiny_agent(folder / "model", apart=True), distinct_questions(calls)
        with vllm_server(folder / "model") as server:
            options = HttpConfig(servers=(server.url,))
            sampler = OpenAISampler(ServingConfig(backend="openai", http=options))
            bare = Bare(options, agent)
            levels = [[agent.call(question.text).prompt for question in level] for level in tree_levels(questions)]
            share = [[prompt for level in levels for prompt in level][:: min(ONE_PROMPT_SHARE, calls)]]
            bare.seconds(levels, options.prompts_per_request)  # the server's first batches are part of no figure
            rates: list[tuple[float, float, float]] = []
            for repeat in range(repeats):
                amplified = run_episode(sampler, agent, questions, folder / f"{repeat}.sqlite")
                lists = bare.seconds(levels, options.prompts_per_request)
                ones = bare.seconds(share, 1)
                rates.append((calls / amplified, calls / lists, len(share[0]) / ones))
            sampler.close()
    ratios = [amplified / lists for amplified, lists, _ in rates]
    medians = [statistics.median(column) for column in zip(*rates, strict=True)]
    return Http(medians[0], medians[1], medians[2], statistics.median(ratios), min(ratios), calls, repeats)


def tree_levels(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """The questions by the depth at which HalvingOverseer asks them: halves as it does, down to single questions."""
    nodes = [list(questions)]
    while nodes:
        halves = [
            half
            for node in nodes
            for half in (node[: (len(node) + 1) // 2], node[(len(node) + 1) // 2 :])
            if half and len(node) > 1
        ]
        level = [half[0] for half in halves if len(half) == 1]
        if level:
            yield level
        nodes = [half for half in halves if len(half) > 1]


class Bare:
    """The least client that uses the server well: nothing but requests, and their texts put in order."""

    def __init__(self, options: HttpConfig, agent: Agent) -> None:
        self.options, self.agent = options, agent

    def seconds(self, levels: Sequence[Sequence[str]], prompts_per_request: int) -> float:
        """Seconds for all levels, one after the other. Raises StageError if a prompt gets no answer."""
        started = time.perf_counter()
        asyncio.run(self._run(levels, prompts_per_request))
        return time.perf_counter() - started

    async def _run(self, levels: Sequence[Sequence[str]], size: int) -> None:
        under_way = self.options.requests_under_way * (1 if size > 1 else 16)
        limits = httpx.Limits(max_connections=under_way, keepalive_expiry=2)
        async with httpx.AsyncClient(trust_env=False, verify=False, limits=limits, timeout=300) as client:
            for level in levels:
                parts = [level[start : start + size] for start in range(0, len(level), size)]
                texts = [text for part in await asyncio.gather(*(self._ask(client, p) for p in parts)) for text in part]
                if len(texts) != len(level):
                    raise StageError(f"bench: {len(level)} prompts got {len(texts)} answers")

    async def _ask(self, client: httpx.AsyncClient, prompts: Sequence[str]) -> list[str]:
        params = self.agent.params
        body = {
            "model": self.agent.model.base,
            "prompt": list(prompts),
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
        }
        response = await client.post(f"{self.options.servers[0]}/completions", json=body)
        choices = response.raise_for_status().json()["choices"]
        return [choice["text"] for choice in sorted(choices, key=lambda choice: int(choice["index"]))]
