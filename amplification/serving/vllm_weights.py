"""Other weights into a running vLLM engine: milliseconds for a small model, where a new engine takes seconds."""

from __future__ import annotations

from typing import Any

from amplification.serving.checkpoint import Adapter, Checkpoint, weights


def change_weights(llm: Any, base: Checkpoint, adapter: Adapter | None) -> None:
    """Make the engine behind `llm` hold a base of its own skeleton, with an adapter merged in. Raises what vLLM raises.

    The prefix cache is left as it is: whoever asks must key it on the model (vLLM's `cache_salt`).
    """
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights(base, adapter)})
    if base.config.get("tie_word_embeddings"):
        llm.apply_model(_tie_again)


def _tie_again(model: Any) -> None:
    # On a CPU the output head holds a packed copy of the embeddings, which vLLM 0.27's reload does not renew.
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    tables = [part for part in model.modules() if type(part) is VocabParallelEmbedding]
    for head in model.modules():
        if isinstance(head, ParallelLMHead) and tables:
            head.tie_weights(tables[0]).quant_method.process_weights_after_loading(head)
