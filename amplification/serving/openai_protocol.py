"""OpenAI's /v1/completions on the wire: the body of a request for many prompts, and a reply read with suspicion.

openai_chat.py says where /v1/chat/completions differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amplification.errors import InputError
from amplification.serving.base import Completion, SamplingParams

MOST_WORDS = 300
# What a refusal names when one prompt, and not the whole request, is at fault: vLLM's parameters, OpenAI's code.
PROMPT_FAULTS = frozenset({"input_tokens", "input_text", "context_length_exceeded"})


class BadReply(Exception):
    """A reply that cannot be what was asked for. Asking again may help."""


@dataclass(frozen=True)
class Request:
    """Prompts that travel together: `places` of their calls, what they share, and the one seed if they have one."""

    places: tuple[int, ...]
    prompts: tuple[str, ...]
    model: str
    params: SamplingParams
    seed: int | None = None
    adapter: str | None = None

    def halves(self) -> list[Request]:
        """The same in two requests: how a prompt that the server refuses is found among others."""
        middle = len(self.places) // 2
        parts = [slice(None, middle), slice(middle, None)]
        return [
            Request(self.places[part], self.prompts[part], self.model, self.params, self.seed, self.adapter)
            for part in parts
        ]

    def body(self, vllm: bool) -> dict[str, Any]:
        """JSON-ready. `vllm` adds that server's extensions. Raises InputError for a schema that is not JSON."""
        params = self.params
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": list(self.prompts),
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
        }
        if params.stop:
            body["stop"] = list(params.stop)
        if self.seed is not None:
            body["seed"] = self.seed
        if params.logprob:
            body["logprobs"] = 0 if vllm else 1  # the drawn token's own; some servers take 0 for none at all
        if params.json_schema is not None:
            schema = {"name": "answer", "schema": _schema(params.json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if vllm:
            # Token ids count each prompt's tokens; the rest undoes what a model's generation_config.json may ask for.
            body |= {"return_token_ids": True, "repetition_penalty": 1.0, "top_k": 0, "min_p": 0.0}
        return body


@dataclass(frozen=True)
class Choice:
    """One completion of a reply as the server gave it, still to be checked; `error` is why it is no answer."""

    index: Any
    text: Any
    reason: Any
    logprobs: Any
    prompt_ids: Any
    ids: Any
    error: str | None = None


def text_choice(choice: dict[str, Any], reply: dict[str, Any]) -> Choice:
    """A choice of /v1/completions."""
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    ids = choice.get("prompt_token_ids"), choice.get("token_ids")
    return Choice(choice.get("index"), choice.get("text"), choice.get("finish_reason"), tokens, *ids)


def read_reply(
    body: bytes,
    prompts: Sequence[str],
    logprob: bool,
    read_choice: Callable[[dict[str, Any], dict[str, Any]], Choice] = text_choice,
) -> list[Completion]:
    """One completion a prompt, in the prompts' order. Raises BadReply unless every prompt has exactly one.

    `read_choice` is given each choice and the whole reply.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        raise BadReply("sent what is not JSON") from None
    found = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(found, list) or not all(isinstance(choice, dict) for choice in found):
        raise BadReply("sent JSON without completions")
    if len(found) != len(prompts):
        raise BadReply(f"sent {len(found)} completions where {len(prompts)} were asked for")
    choices = [read_choice(choice, reply) for choice in found]
    by_index = {choice.index: choice for choice in choices if isinstance(choice.index, int)}
    if set(by_index) != set(range(len(prompts))):
        raise BadReply("sent two completions for one prompt")
    ordered = [by_index[i] for i in range(len(prompts))]
    counts = _token_counts(ordered, reply.get("usage"), prompts)
    return [_completion(choice, *count, logprob) for choice, count in zip(ordered, counts, strict=True)]


def _completion(choice: Choice, prompt_tokens: int, completion_tokens: int, logprob: bool) -> Completion:
    text, reason = choice.text, choice.reason
    if not isinstance(reason, str) or reason in ("abort", "error"):  # vLLM's words when it is being shut down
        raise BadReply("broke a completion off")
    if choice.error is not None:
        return Completion("", prompt_tokens, completion_tokens, finished=False, error=choice.error)
    if not isinstance(text, str):
        raise BadReply("sent a completion without text")
    total = _logprob(choice) if logprob else None
    if not text.isascii():  # half a character, which JSON can hold and no database
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return Completion(text.strip(), prompt_tokens, completion_tokens, finished=reason == "stop", logprob=total)


def _logprob(choice: Choice) -> float:
    tokens = choice.logprobs
    if not isinstance(tokens, list) or not all(isinstance(one, int | float) and math.isfinite(one) for one in tokens):
        raise BadReply("sent a completion without its log-probabilities")
    return math.fsum(tokens)


def _token_counts(choices: Sequence[Choice], usage: Any, prompts: Sequence[str]) -> list[tuple[int, int]]:
    """(prompt, completion) tokens of each choice: from its token ids, else by sharing out the request's sums."""
    if all(isinstance(choice.prompt_ids, list) and isinstance(choice.ids, list) for choice in choices):
        return [(len(choice.prompt_ids), len(choice.ids)) for choice in choices]
    sums = usage if isinstance(usage, dict) else {}
    asked, given = sums.get("prompt_tokens"), sums.get("completion_tokens")
    if not isinstance(asked, int) or not isinstance(given, int) or min(asked, given) < 0:
        raise BadReply("does not say how many tokens were used")
    lengths = [len(choice.text) if isinstance(choice.text, str) else 0 for choice in choices]
    return list(zip(share_out(asked, [len(prompt) for prompt in prompts]), share_out(given, lengths), strict=True))


def share_out(total: int, sizes: Sequence[int]) -> list[int]:
    """`total` in whole parts in proportion to `sizes` (largest remainders); equal ones where all sizes are 0."""
    weights = list(sizes) if any(sizes) else [1] * len(sizes)
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    remainders = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in remainders[: total - sum(parts)]:
        parts[i] += 1
    return parts


def _schema(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise InputError("json_schema", "is not JSON", "correct the schema") from None


def words_of(body: bytes, secret: str | None = None) -> tuple[str, bool]:
    """A refusal's message as one short printable line without the key, and whether one prompt alone is at fault."""
    error, text = refusal(body)
    fault = not PROMPT_FAULTS.isdisjoint({str(error.get("param")), str(error.get("code"))})
    return one_line(text.replace(secret, "[key]") if secret else text), fault


def refusal(body: bytes) -> tuple[dict[str, Any], str]:
    """The error that a server tells of, as an object (empty if it is none) and as its words."""
    text = body.decode("utf-8", "replace")
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        return {}, text
    error = told.get("error", told)
    if not isinstance(error, dict):
        return {}, str(error)
    return error, str(error.get("message") or error.get("detail") or text)


def one_line(text: str) -> str:
    """Anyone's words as one short printable line."""
    line = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return line[:MOST_WORDS] or "nothing"
