"""What the tests of training share: two easy tasks, their labels, and a look at a model's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from amplification.question import Answer
from amplification.tasks import task
from amplification.tasks.base import NONSENSE, Task, questions
from distill.config import AdapterConfig
from distill.weights import load_merged, load_tokenizer, padded, prompt_ids

TASKS: Mapping[str, Task] = {name: task(name) for name in ("summing", "boolean")}
WORDS = (*(word for t in TASKS.values() for word in t.words()), NONSENSE)
LINEAR = AdapterConfig(method="linear")
LORA = AdapterConfig(method="lora", rank=8, alpha=16)
FULL = AdapterConfig(method="full")


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


def digits() -> list[str]:
    """Every training question of summing's first level: which digit is listed."""
    return list(questions(TASKS["summing"], 1, "train", 0))


def booleans(level: int, count: int) -> list[str]:
    return list(islice(questions(TASKS["boolean"], level, "train", 0), count))


def labelled(texts: Sequence[str], name: str = "summing", heldout: int = 4) -> list[dict[str, Any]]:
    """Right labels, every `heldout`-th of them held out."""
    return [
        {
            "question": text,
            "answer": TASKS[name].truth(text),
            "task": name,
            "level": 1,
            "source": "task",
            "part": "train" if place % heldout else "heldout",
        }
        for place, text in enumerate(texts)
    ]


@torch.no_grad()
def spread(base: Path, agent: Path | None, texts: Sequence[str]) -> list[dict[str, float]]:
    """For each question, the probability of each word of the vocabulary as the answer."""
    tokenizer, model = load_tokenizer(base), load_merged(base, agent).eval()
    rows = prompt_ids(tokenizer, texts)
    logits = model(padded(rows, 0)).logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [dict(zip(words, row.tolist(), strict=True)) for row in logits.softmax(-1)]


def greedy(base: Path, agent: Path | None, texts: Sequence[str]) -> list[str]:
    return [max(row, key=lambda word: row[word]) for row in spread(base, agent, texts)]


def asker(base: Path, agent: Path | None) -> Any:
    """The agent as the function that `make_pairs` asks."""
    return lambda texts: [Answer(text) for text in greedy(base, agent, texts)]
