"""Voting: several samples of one question, and the answer that most of them give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from amplification.question import Answer

# Samples of different draws never share a number: a draw has at most so many.
MOST_SAMPLES = 1_000

Samples = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]


class Voting(BaseModel):
    """How many samples of a sub-question A gives, by the depth of the workspace that asks it, and how they are counted.

    samples: at the root, one below it, and so on; the last number goes for all that is deeper. weights: each sample
    counts as one, or as its probability under A.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: tuple[Samples, ...] = Field(default=(1,), min_length=1)
    weights: Literal["majority", "probability"] = "majority"

    def samples_at(self, depth: int) -> int:
        """Samples for a question asked at this depth (0 is the root's workspace)."""
        return self.samples[min(depth, len(self.samples) - 1)]

    def elect(self, answers: Sequence[Answer], logprobs: Sequence[float | None]) -> Answer:
        """The answer with most weight; of equals the one given first. A failure wins only where nothing else is."""
        weight: dict[Answer, float] = {}
        for answer, logprob in zip(answers, logprobs, strict=True):
            if answer.ok:
                counts = 1.0 if self.weights == "majority" or logprob is None else math.exp(logprob)
                weight[answer] = weight.get(answer, 0.0) + counts
        return max(weight, key=weight.__getitem__) if weight else answers[0]
