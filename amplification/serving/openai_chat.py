"""OpenAI's /v1/chat/completions on the wire: a prompt as one user's message, and what a model gives instead of text."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amplification.serving.openai_protocol import BadReply, Choice, Request, one_line, refusal

# Fields that some models refuse by name, and the value at which leaving a field out asks for the same (that is the
# API's default). The bound on tokens has another name instead: OpenAI's newer models take no `max_tokens`. It is tried
# first, since servers that do not know the newer name pass over it in silence, and would then write without an end.
OLD_BOUND, NEW_BOUND = "max_tokens", "max_completion_tokens"
DEFAULTS = {"temperature": 1.0, "top_p": 1.0}


def chat_body(request: Request, vllm: bool, refused: Collection[str]) -> dict[str, Any]:
    """JSON-ready. All prompts of the request are one: it is asked for that many samples.

    `refused`: fields for which `refused_field` has said that the model does not take them. Raises InputError for a
    schema that is not JSON.
    """
    body = request.body(vllm)
    [prompt] = set(body.pop("prompt"))
    body["messages"] = [{"role": "user", "content": prompt}]
    if len(request.prompts) > 1:
        body["n"] = len(request.prompts)
    if request.params.logprob:
        body["logprobs"] = True
    if OLD_BOUND in refused:
        body[NEW_BOUND] = body.pop(OLD_BOUND)
    return {name: value for name, value in body.items() if not (name in refused and DEFAULTS.get(name) == value)}


def refused_field(content: bytes, body: dict[str, Any]) -> str | None:
    """The field of `body` that a refusal names, if the request can be made without it."""
    error, words = refusal(content)
    for name in (OLD_BOUND, *DEFAULTS):
        is_named = error.get("param") == name or f"'{name}'" in words
        if is_named and name in body and body[name] == DEFAULTS.get(name, body[name]):
            return name
    return None


def chat_choice(choice: dict[str, Any], reply: dict[str, Any]) -> Choice:
    """A choice of /v1/chat/completions. Raises BadReply if it holds no message."""
    message, reason = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise BadReply("sent a completion without a message")
    text = message.get("content")
    error = _no_answer(message, reason)
    if text is None and reason == "length":  # a model that thinks first may be cut off before it says anything
        text = ""
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if isinstance(tokens, list):
        tokens = [token.get("logprob") if isinstance(token, dict) else None for token in tokens]
    ids = reply.get("prompt_token_ids"), choice.get("token_ids")
    return Choice(choice.get("index"), text, reason, tokens, *ids, error)


def _no_answer(message: dict[str, Any], reason: Any) -> str | None:
    """Why a message is no answer, where it says so. Whatever text it holds beside that is not taken for one."""
    if message.get("refusal"):
        return f"the model refused: {one_line(str(message['refusal']))}"
    if message.get("tool_calls") or message.get("function_call") or reason in ("tool_calls", "function_call"):
        return "the model called a tool, and was asked for text"
    if reason == "content_filter":
        return "the server's content filter held back what the model wrote"
    if message.get("content") is None and reason == "stop":
        return "the model wrote no text"
    return None
