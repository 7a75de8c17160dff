"""Prompts to token ids and back, in batches, for the back ends that hold their model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Texts remembered, at most.
MOST_KNOWN = 50_000


class Text:
    """A model's own tokenizer, and what of a prompt the model cannot take.

    `max_model_len` counts the prompt's and the answer's tokens together; `vocabulary` is the model's, not the
    tokenizer's.
    """

    def __init__(self, tokenizer: Any, max_model_len: int, vocabulary: int) -> None:
        self.tokenizer, self.max_model_len, self.vocabulary = tokenizer, max_model_len, vocabulary
        self._known: dict[tuple[int, ...], str] = {}
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:  # what a tokenizer.json may carry from training
            self._fast.no_padding()
            self._fast.no_truncation()

    def encode(self, prompts: list[str]) -> list[list[int]]:
        """Token ids of each prompt, with whatever the model wants at the start of one."""
        if self._fast is not None:
            return [encoding.ids for encoding in self._fast.encode_batch_fast(prompts)]
        return [list(ids) for ids in self.tokenizer(prompts)["input_ids"]]

    def refusal(self, prompt: str, ids: Sequence[int]) -> str | None:
        """Why a prompt cannot be served, or None. Inside an engine it would end the whole batch."""
        if not ids or not prompt.strip():
            return "the prompt is empty"
        if len(ids) >= self.max_model_len:
            return f"the prompt has {len(ids)} tokens, and the model takes {self.max_model_len - 1} at most"
        if max(ids) >= self.vocabulary:
            return "the prompt has a token that the model does not know"
        return None

    def decode(self, rows: Sequence[Sequence[int]], strip: bool = True) -> list[str]:
        """Texts without special tokens. Short answers repeat a great deal: each distinct one is read once."""
        keys = [tuple(row) for row in rows]
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        distinct = [key for key in dict.fromkeys(keys) if key not in self._known]
        if distinct:
            texts = self.tokenizer.batch_decode([list(key) for key in distinct], skip_special_tokens=True)
            self._known.update(zip(distinct, texts, strict=True))
        return [self._known[key].strip() if strip else self._known[key] for key in keys]
