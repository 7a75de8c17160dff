"""Two server processes, one of them killed in the middle of an episode: same answer, every call paid exactly once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.benchmarks.episode import LIMITS, PREFIX, HalvingOverseer, distinct_questions
from amplification.benchmarks.server import vllm_server
from amplification.dispatch import Dispatcher
from amplification.episode import Episode, StopReason
from amplification.memo import Memo
from amplification.question import Question
from amplification.serving.base import Completion, ModelRef
from amplification.serving.config import HttpConfig, ServingConfig
from amplification.serving.openai import OpenAISampler
from amplification.store import Store

ROOT = Path(__file__).parents[3]
CALLS = 5_000
AGENT = Agent("a", ModelRef("served"), "digest")


class Watched(Memo):
    """Tells how many completions it has been given so far."""

    def __init__(self, store: Store, heard: Callable[[int], None]) -> None:
        super().__init__(store, "test")
        self.heard, self.given = heard, 0

    def put(self, entries: Sequence[tuple[Any, Completion]]) -> None:
        super().put(entries)
        self.given += len(entries)
        self.heard(self.given)


@contextmanager
def server_process(model: Path) -> Iterator[tuple[Callable[[], None], str]]:
    """What kills a server, and its URL.

    With AMPLIFY_SERVERS=vllm it is vLLM with this model (as the benchmarks report), else one that starts in no
    time.
    """
    if os.environ.get("AMPLIFY_SERVERS") == "vllm":
        with vllm_server(
            model, "--served-model-name", AGENT.model.base, "--dtype", "float32", "--max-model-len", "64"
        ) as server:
            yield server.kill, server.url
        return
    command = [sys.executable, "-m", "tests.amplification.serving.faulty_server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def kill() -> None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()

        try:
            assert process.stdout is not None
            yield kill, process.stdout.readline().strip()
        finally:
            process.kill()


def episode(urls: Sequence[str], store: Store, heard: Callable[[int], None]) -> Episode:
    http = HttpConfig(servers=tuple(urls), prompts_per_request=32, requests_under_way=4, deadline=60)
    sampler = OpenAISampler(ServingConfig(backend="openai", http=http))
    digits = " ".join(question.text.removeprefix(PREFIX) for question in distinct_questions(CALLS))
    amplified = Amplified(HalvingOverseer(), AGENT, Dispatcher(sampler, Watched(store, heard)), LIMITS)
    return asyncio.run(amplified.answer(Question(PREFIX + digits)))


def test_an_episode_survives_the_death_of_a_server(tmp_path: Path, tiny_model: Path) -> None:
    killed: list[int] = []
    with server_process(tiny_model) as (kill, first), server_process(tiny_model) as (_, second):

        def kill_in_the_middle(given: int) -> None:
            if given > CALLS // 5 and not killed:
                kill()
                killed.append(given)

        store, undisturbed_store = Store.at(tmp_path / "killed.sqlite"), Store.at(tmp_path / "whole.sqlite")
        undisturbed = episode([first, second], undisturbed_store, lambda given: None)
        disturbed = episode([first, second], store, kill_in_the_middle)
    assert killed and killed[0] < CALLS // 2
    assert disturbed.answer == undisturbed.answer
    for result, at in ((undisturbed, undisturbed_store), (disturbed, store)):
        assert result.stop is StopReason.REPLIED
        assert (result.cost.calls, result.cost.memo_hits) == (CALLS, 0)
        rows = [(row.prompt, row.text) for row in at.memo_rows(AGENT.digest)]
        assert len(rows) == len(set(rows)) == CALLS
        at.close()
    assert disturbed.cost.tokens == undisturbed.cost.tokens
