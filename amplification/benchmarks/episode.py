"""One H^A episode that asks A a given number of distinct questions: what the throughput of serving is measured on."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import StopReason
from amplification.errors import StageError
from amplification.memo import Memo
from amplification.overseer import Decision, Overseer
from amplification.question import Question
from amplification.serving.base import ModelRef, Sampler, SamplingParams
from amplification.store import Store
from amplification.workspace import Action, Ask, Reply, SubQuestion, Workspace

PREFIX = "sum of "
DIGITS_PER_CALL = 6
MOST_CALLS = 100_000

# An episode of this size is one root question far above any task's levels; the limits must not be what ends it.
LIMITS = Limits(calls=10**12, tokens=10**15, depth=20, seconds=600, workspace_chars=10**7)


class HalvingOverseer(Overseer):
    """Sums a list of any length: halves it down to `DIGITS_PER_CALL` digits, which it asks A, and adds up."""

    name = "halving"

    async def act(self, workspace: Workspace) -> Decision:
        return Decision(self._step(workspace))

    def _step(self, workspace: Workspace) -> Action:
        if workspace.exchanges:
            return Reply(str(sum(_number(exchange.answer.text) for exchange in workspace.exchanges)))
        digits = workspace.question.text.removeprefix(PREFIX).split()
        groups = len(digits) // DIGITS_PER_CALL
        middle = (groups + 1) // 2 * DIGITS_PER_CALL
        return Ask(tuple(_part(half) for half in (digits[:middle], digits[middle:]) if half))


def distinct_questions(calls: int) -> list[Question]:
    """`calls` different questions of DIGITS_PER_CALL digits each, the same ones every time."""
    numbers = random.Random(0).sample(range(10**DIGITS_PER_CALL), calls)
    return [Question(PREFIX + " ".join(f"{number:0{DIGITS_PER_CALL}d}")) for number in numbers]


def run_episode(sampler: Sampler, agent: Agent, questions: Sequence[Question], store_at: Path) -> float:
    """Seconds of one H^A episode that asks A each of `questions`, its memo written to a new store.

    Raises StageError if the episode does not reply or did not make exactly one call a question.
    """
    root = Question(PREFIX + " ".join(question.text.removeprefix(PREFIX) for question in questions))
    store = Store.at(store_at)
    try:
        amplified = Amplified(HalvingOverseer(), agent, Dispatcher(sampler, Memo(store, "bench")), LIMITS)
        started = time.perf_counter()
        stop, calls = asyncio.run(_stop_and_calls(amplified, root))
        seconds = time.perf_counter() - started
    finally:
        store.close()
    if stop != StopReason.REPLIED or calls != len(questions):
        raise StageError(f"bench: the episode ended as '{stop}' after {calls} calls")
    return seconds


async def _stop_and_calls(amplified: Amplified, root: Question) -> tuple[StopReason, int]:
    # Not the episode itself: asyncio.run makes the repr of what it returns (in signal.getsignal), here a whole tree.
    episode = await amplified.answer(root)
    return episode.stop, episode.cost.calls


def tiny_agent(folder: Path, apart: bool = False) -> Agent:
    """An agent on a new tiny model. Two tokens, an answer and its end, are what a trained agent gives; this one would
    never end by itself.

    apart: make the model in another process. A client of servers has no torch in it, whose many objects would double
    the cost of its garbage collections.
    """
    if apart:
        subprocess.run(
            [sys.executable, "-c", f"import {__name__} as e; e.make_tiny_model({str(folder)!r})"], check=True
        )
    else:
        make_tiny_model(folder)
    return Agent.load("tiny", ModelRef(str(folder)), SamplingParams(max_tokens=2))


def make_tiny_model(folder: Path | str) -> Path:
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
    return Path(folder)


def _part(digits: Sequence[str]) -> SubQuestion:
    return SubQuestion(Question(PREFIX + " ".join(digits)), recurse=len(digits) > DIGITS_PER_CALL)


def _number(text: str) -> int:
    # The tiny model has learnt nothing: what is no number counts as none, so that the episode goes on.
    return int(text) if text.isdecimal() else 0
