"""ScriptedSampler: completions from a dict or a function instead of a model. For tests, and to try a run by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from amplification.errors import InputError, ServingError
from amplification.serving.base import Call, Completion, ModelRef
from amplification.serving.config import ServingConfig


class ScriptedSampler:
    """Answers prompts from `answers`, and remembers every call in `calls` (in `batches`, as they came together).

    A mapping that lacks a prompt gives that call an `error`; a function may raise to the same effect. `fail_at` are
    batch numbers (from 0) at which `sample` raises ServingError, as a server that went away would. A token is a word.
    """

    def __init__(
        self,
        settings: ServingConfig | None = None,
        answers: Mapping[str, str] | Callable[[Call], str] | None = None,
        fail_at: Sequence[int] = (),
        parameters: int = 1_000,
        logprobs: Callable[[Call], float] | None = None,
    ) -> None:
        self.answers = answers if answers is not None else _read_script(settings)
        self.fail_at = frozenset(fail_at)
        self.batches: list[list[Call]] = []
        self.closed = False
        self._logprobs = logprobs or (lambda call: 0.0)
        self._parameters = parameters

    @property
    def calls(self) -> list[Call]:
        """Every call so far, those of failed batches included."""
        return [call for batch in self.batches for call in batch]

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order. Raises ServingError at the batches in `fail_at`."""
        self.batches.append(list(calls))
        if len(self.batches) - 1 in self.fail_at:
            raise ServingError(f"the scripted sampler was told to fail at batch {len(self.batches) - 1}")
        return [self._complete(call) for call in calls]

    def parameters(self, model: ModelRef) -> int:
        """The number given at the start, whatever the model."""
        return self._parameters

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def _complete(self, call: Call) -> Completion:
        prompt_tokens = len(call.prompt.split())
        try:
            text = self.answers(call) if callable(self.answers) else self.answers[call.prompt]
        except Exception as error:  # whatever a test's function raises stands for a call that failed
            reason = "no scripted answer" if isinstance(error, KeyError) else str(error)
            return Completion("", prompt_tokens, 0, finished=False, error=reason)
        words = text.split()
        logprob = self._logprobs(call) if call.params.logprob else None
        kept = words[: call.params.max_tokens]
        if len(kept) < len(words):
            return Completion(" ".join(kept), prompt_tokens, len(kept), finished=False, logprob=logprob)
        return Completion(text.strip(), prompt_tokens, len(words), logprob=logprob)


def _read_script(settings: ServingConfig | None) -> Mapping[str, str]:
    if settings is None or settings.script is None:
        return {}
    try:
        script = json.loads(settings.script.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(settings.script, f"cannot be read ({error})", "give a JSON file {prompt: text}") from None
    if not isinstance(script, dict) or not all(isinstance(text, str) for text in script.values()):
        raise InputError(settings.script, "is not an object of strings", "give a JSON file {prompt: text}")
    return script
