"""Samplers without a model: a program that answers, and one that makes it wrong at a given rate."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from amplification.question import digest
from amplification.serving.base import Call, Completion, ModelRef, Sampler

# A question's text to its answer; a ValueError is a call that fails.
Program = Callable[[str], str]

# A wrong answer of the right form, from the question's text, the right answer and a source of chance.
Wrong = Callable[[str, str, random.Random], str]


class ProgramSampler:
    """Answers every prompt of the `direct` template by a program. A token is a word."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order."""
        return [self._complete(call) for call in calls]

    def parameters(self, model: ModelRef) -> int:
        """1: there is no model."""
        return 1

    def close(self) -> None:
        """There is nothing to give back."""

    def _complete(self, call: Call) -> Completion:
        tokens = len(call.prompt.split())
        try:
            text = self.program(question_of(call))
        except ValueError as error:
            return Completion("", tokens, 0, finished=False, error=str(error))
        return Completion(text, tokens, len(text.split()) + 1)


class Unreliable:
    """A sampler whose right answers are replaced by wrong ones of the right form, at a given rate.

    Which ones is a function of (seed, prompt, sample): asked again, the same call gets the same answer. `rate` may
    depend on the question.
    """

    def __init__(
        self,
        sampler: Sampler,
        rate: float | Callable[[str], float],
        wrong: Wrong,
        seed: int = 0,
        logprob: Callable[[float, bool], float] | None = None,
    ) -> None:
        """`logprob`: a completion's log-probability from the question's rate and whether it is right; None for none."""
        self.sampler, self.wrong, self.seed, self.logprob = sampler, wrong, seed, logprob
        self.rate = rate if callable(rate) else lambda _, fixed=rate: fixed

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order. Raises ServingError as the sampler behind does."""
        right = self.sampler.sample(calls)
        return [self._spoilt(call, completion) for call, completion in zip(calls, right, strict=True)]

    def parameters(self, model: ModelRef) -> int:
        """Those of the sampler behind."""
        return self.sampler.parameters(model)

    def close(self) -> None:
        """Close the sampler behind."""
        self.sampler.close()

    def _spoilt(self, call: Call, right: Completion) -> Completion:
        if right.error is not None:
            return right
        rng = random.Random(int(digest(str(self.seed), call.prompt, str(call.sample)), 16))
        question = question_of(call)
        rate = self.rate(question)
        is_right = rng.random() >= rate
        text = right.text if is_right else self.wrong(question, right.text, rng)
        return right._replace(text=text, logprob=self.logprob(rate, is_right) if self.logprob else right.logprob)


def question_of(call: Call) -> str:
    """The question in a prompt of the `direct` template."""
    return call.prompt.removesuffix(" :")
