"""What starting or running an engine in this process would otherwise leave changed for the trainer beside it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def same_random_state() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the process's own random streams go on as if nothing had been."""
    import numpy
    import torch

    python, arrays, tensors = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)
        torch.set_rng_state(tensors)
        if devices:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def same_process_settings() -> Iterator[None]:
    """Undo what vLLM's CPU worker does to its process when it starts, which assumes that the process is its own.

    It replaces `torch.set_num_threads` by a function that does nothing, and sets variables that child processes would
    inherit: LD_PRELOAD, LOCAL_WORLD_SIZE, inductor's and numexpr's. Its own (VLLM_*) are left as they are.
    """
    import torch

    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    environment = dict(os.environ)
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        for name in [n for n in os.environ if not n.startswith("VLLM_") and n not in environment]:
            del os.environ[name]
        os.environ.update({n: v for n, v in environment.items() if not n.startswith("VLLM_")})


@contextmanager
def unbound_memory() -> Iterator[None]:
    """Keep vLLM's CPU worker from binding all of this process's memory to one NUMA node, which nothing undoes."""
    import torch
    import vllm._custom_ops  # noqa: F401 -- registers the operators

    operators: Any = torch.ops._C
    if not hasattr(operators, "init_cpu_memory_env"):
        yield
        return
    original = operators.init_cpu_memory_env
    operators.init_cpu_memory_env = lambda nodes: None
    try:
        yield
    finally:
        operators.init_cpu_memory_env = original
