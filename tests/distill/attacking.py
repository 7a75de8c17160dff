"""What the tests of adversaries share: an agent that falls for everything, H^A, a writer and a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from amplification.agent import Agent
from amplification.dispatch import Dispatcher
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.scripted import ScriptedSampler
from amplification.tasks import TASKS, task_of
from amplification.tasks.attacks import attack_split
from amplification.tasks.base import NONSENSE
from distill.adversary import Target
from distill.archive import Archive
from distill.search import Past
from distill.writer import AT_ONCE, WriterAdversary

UP_TO = 1
FOLDER = ModelRef("a model")
CONFIGS = Path(__file__).parents[2] / "configs"


def judge(texts: Sequence[str]) -> list[str | None]:
    """H^A as it would be with a perfect agent."""
    owners = [task_of(text) for text in texts]
    return [owner.truth(text) if owner else NONSENSE for owner, text in zip(owners, texts, strict=True)]


GULLIBLE = Target(lambda texts: ["3"] * len(texts), judge)


def writer(answers: Callable[[Call], str]) -> WriterAdversary:
    agent = Agent("writer", FOLDER, "digest", SamplingParams(max_tokens=400, temperature=1.0), "attack")
    return WriterAdversary(TASKS, UP_TO, agent, Dispatcher(ScriptedSampler(answers=answers, parameters=50)))


def as_json(texts: Sequence[str]) -> str:
    return json.dumps({"attacks": list(texts)})


def numbered(call: Call) -> str:
    """As many attacks as asked for, others in each call."""
    return as_json([f"sum of {call.sample} bananas {i}" for i in range(AT_ONCE)])


def corpus(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def nonsense(count: int, side: str = "train") -> list[str]:
    """Texts that no task parses, on one side of the split."""
    texts = (f"how blue is banana {i}" for i in range(100_000))
    return list(islice((text for text in texts if attack_split(text) == side), count))


def past() -> Past:
    return Past(Archive(8))
