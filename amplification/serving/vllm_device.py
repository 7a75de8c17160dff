"""What an engine takes of a GPU: how much of its memory, and which type of numbers."""

from __future__ import annotations

from amplification.errors import InputError

# What is left to others of the memory that is free when an engine starts.
LEFT = 0.1


def served_dtype(asked: str, stored: str, adapters_beside: bool) -> str:
    """The type to compute in on a GPU, of `auto` or what was asked for and what the weights are stored in.

    vLLM's kernels for adapters beside a base take 16 bits alone (their assertion would end the engine in the middle of
    a batch), so `auto` makes single precision bfloat16 there. Raises InputError where single precision was asked for.
    """
    if not adapters_beside or (stored if asked == "auto" else asked) != "float32":
        return stored if asked == "auto" else asked
    if asked == "auto":
        return "bfloat16"
    problem = "'serving.dtype' is float32, and on a GPU adapters beside a base are served in 16 bits alone"
    raise InputError("configuration", problem, "set it to auto or bfloat16, or 'serving.adapters' to merge")


def memory_share() -> float:
    """The share of all of the GPU's memory that an engine may take: most of what is free now.

    vLLM's own default is a share of all there is, and it refuses to start where a trainer in this process holds some.
    """
    import torch

    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return (1 - LEFT) * free / total
