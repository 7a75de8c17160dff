"""Throughput of H^A beside vLLM's own offline generation on the same prompts, in one run on one engine."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.ask import last_agent
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import StopReason
from amplification.errors import InputError, StageError
from amplification.memo import Memo
from amplification.overseer import Decision, Overseer
from amplification.question import Question
from amplification.serving.base import ModelRef, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.serving.vllm import VLLMSampler
from amplification.store import Store
from amplification.workspace import Action, Ask, Reply, SubQuestion, Workspace

PREFIX = "sum of "
DIGITS_PER_CALL = 6
MOST_CALLS = 100_000

# An episode of this size is one root question far above any task's levels; the limits must not be what ends it.
LIMITS = Limits(calls=10**12, tokens=10**15, depth=20, seconds=600, workspace_chars=10**7)


@dataclass(frozen=True)
class Throughput:
    """Medians over the repeats, in calls per second; `ratio` is H^A's over that of LLM.generate."""

    calls_per_second: float
    raw_calls_per_second: float
    ratio: float
    calls: int
    repeats: int

    def as_json(self) -> str:
        return json.dumps({key: round(value, 4) for key, value in asdict(self).items()})

    def as_line(self) -> str:
        return (
            f"H^A {self.calls_per_second:.0f} calls/s, LLM.generate {self.raw_calls_per_second:.0f} calls/s, "
            f"ratio {self.ratio:.3f} ({self.calls} distinct calls an episode, medians of {self.repeats} repeats)"
        )


class HalvingOverseer(Overseer):
    """Sums a list of any length: halves it down to `DIGITS_PER_CALL` digits, which it asks A, and adds up."""

    name = "halving"

    async def act(self, workspace: Workspace) -> Decision:
        return Decision(self._action(workspace))

    def _action(self, workspace: Workspace) -> Action:
        if workspace.exchanges:
            return Reply(str(sum(_number(exchange.answer.text) for exchange in workspace.exchanges)))
        digits = workspace.question.text.removeprefix(PREFIX).split()
        groups = len(digits) // DIGITS_PER_CALL
        middle = (groups + 1) // 2 * DIGITS_PER_CALL
        return Ask(tuple(_part(half) for half in (digits[:middle], digits[middle:]) if half))


def throughput(serving: ServingConfig, run: Path | None = None, calls: int = 2048, repeats: int = 5) -> Throughput:
    """Measure one episode of `calls` distinct agent calls, cold memo and cold prefix cache, `repeats` times.

    Takes the last agent of `run`, or a tiny model made for the purpose. Each repeat measures both, one after the
    other. Raises InputError for a number of calls that cannot all be distinct, StageError if the episode fails.
    """
    if not 2 <= calls <= MOST_CALLS:
        raise InputError("command line", f"--calls is {calls}", f"give a number from 2 to {MOST_CALLS}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        agent = last_agent(run) if run else _tiny_agent(folder / "model")
        questions = _questions(calls)
        sampler = VLLMSampler(serving)
        try:
            _raw(sampler, agent, questions)  # the engine's start and first batch are part of neither figure
            amplified_rates, raw_rates = [], []
            for repeat in range(repeats):
                amplified_rates.append(calls / _episode(sampler, agent, questions, folder / f"{repeat}.sqlite"))
                raw_rates.append(calls / _raw(sampler, agent, questions))
        finally:
            sampler.close()
    amplified, raw = statistics.median(amplified_rates), statistics.median(raw_rates)
    return Throughput(amplified, raw, amplified / raw, calls, repeats)


def _tiny_agent(folder: Path) -> Agent:
    # Two tokens, an answer and its end, are what a trained agent gives; this one would never end by itself.
    return Agent.load("tiny", ModelRef(str(make_tiny_model(folder))), SamplingParams(max_tokens=2))


def make_tiny_model(folder: Path) -> Path:
    """A Llama of the demo's shape with random weights, and a tokenizer with one token a word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", ":", *PREFIX.split(), *map(str, range(100))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(words),
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(shape).save_pretrained(folder, safe_serialization=True)
    return folder


def _questions(calls: int) -> list[Question]:
    numbers = random.Random(0).sample(range(10**DIGITS_PER_CALL), calls)
    return [Question(PREFIX + " ".join(f"{number:0{DIGITS_PER_CALL}d}")) for number in numbers]


def _episode(sampler: VLLMSampler, agent: Agent, questions: Sequence[Question], store_at: Path) -> float:
    """Seconds of one H^A episode that asks A each of `questions`, its memo written to a new store."""
    root = Question(PREFIX + " ".join(question.text.removeprefix(PREFIX) for question in questions))
    store = Store.at(store_at)
    try:
        amplified = Amplified(HalvingOverseer(), agent, Dispatcher(sampler, Memo(store, "bench")), LIMITS)
        sampler.reset_prefix_cache()
        started = time.perf_counter()
        episode = asyncio.run(amplified.answer(root))
        seconds = time.perf_counter() - started
    finally:
        store.close()
    if episode.stop != StopReason.REPLIED or episode.cost.calls != len(questions):
        raise StageError(f"bench: the episode ended as '{episode.stop}' after {episode.cost.calls} calls")
    return seconds


def _raw(sampler: VLLMSampler, agent: Agent, questions: Sequence[Question]) -> float:
    """Seconds that LLM.generate takes for the same prompts."""
    prompts = [agent.call(question.text).prompt for question in questions]
    sampler.reset_prefix_cache()
    started = time.perf_counter()
    sampler.raw_generate(agent.model, prompts, agent.params)
    return time.perf_counter() - started


def _part(digits: Sequence[str]) -> SubQuestion:
    return SubQuestion(Question(PREFIX + " ".join(digits)), recurse=len(digits) > DIGITS_PER_CALL)


def _number(text: str) -> int:
    # The tiny model has learnt nothing: what is no number counts as none, so that the episode goes on.
    return int(text) if text.isdecimal() else 0
