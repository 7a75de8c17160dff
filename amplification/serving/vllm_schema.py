"""Our schemas in place of vLLM's own grammars, which know nothing of tokenizers whose tokens are words."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from vllm.v1.structured_output.backend_types import (
    StructuredOutputBackend,
    StructuredOutputGrammar,
    StructuredOutputOptions,
)

from amplification.serving.schema import Schemas


def use_schemas(manager: Any, schemas: Schemas) -> None:
    """Let an engine's StructuredOutputManager compile JSON schemas with `schemas`."""
    manager.backend = _Backend(manager.vllm_config, schemas)
    # They were compiled when the call was accepted; a thread would only let the call miss its first step.
    manager._use_async_grammar_compilation = False


class _Backend(StructuredOutputBackend):
    def __init__(self, vllm_config: Any, schemas: Schemas) -> None:
        super().__init__(vllm_config, schemas.tokenizer, schemas.vocabulary)
        self._schemas = schemas

    def compile_grammar(self, request_type: StructuredOutputOptions, grammar_spec: str) -> StructuredOutputGrammar:
        return _Grammar(self._schemas, grammar_spec)

    def allocate_token_bitmask(self, max_num_seqs: int) -> torch.Tensor:
        return torch.full((max_num_seqs, (self.vocab_size + 31) // 32), -1, dtype=torch.int32)

    def destroy(self) -> None:
        pass


class _Grammar(StructuredOutputGrammar):
    """One call's guide, as vLLM wants it."""

    def __init__(self, schemas: Schemas, schema: str) -> None:
        self._schemas, self._schema = schemas, schema
        self._guide = schemas.guide(schema)

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        return all(self._guide.accept(token) for token in tokens)

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        bitmask[batch_index] = torch.from_numpy(numpy.frombuffer(self._guide.mask(), numpy.int32).copy())

    def is_terminated(self) -> bool:
        return self._guide.ended

    def reset(self) -> None:
        self._guide = self._schemas.guide(self._schema)

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        raise NotImplementedError("only speculative decoding asks for this")

    def rollback(self, num_tokens: int) -> None:
        raise NotImplementedError("only speculative decoding asks for this")
