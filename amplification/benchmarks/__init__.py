"""Benchmarks by name: `amplify bench NAME`. A new one is a file beside this and a line in BENCHMARKS.

Each is a function from `Settings` to a `Measured` (see base.py), imported only when it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import tyro
from tyro.extras import literal_type_from_choices

from amplification.benchmarks.base import Measured, Settings, Size

BENCHMARKS = MappingProxyType(
    {
        "throughput": "amplification.benchmarks.throughput:throughput",
        "http": "amplification.benchmarks.http:http",
        "ppo": "distill.benchmark:ppo",  # as text alone: this package imports nothing of that one
        "streams": "amplification.benchmarks.streams:streams_beside_batches",
        "long-text": "amplification.benchmarks.long_text:long_text",
        "reliability": "amplification.benchmarks.reliability:reliability",
        "orchestration": "amplification.benchmarks.orchestration:orchestration",
    }
)

__all__ = ["ALL", "BENCHMARKS", "BenchOptions", "Measured", "Settings", "measure"]

ALL = "all"  # every benchmark, one after the other


@dataclass(frozen=True)
class BenchOptions:
    """Measure; the figures are ratios within one run, so they carry over between machines."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(constructor=literal_type_from_choices([*BENCHMARKS, ALL]))]
    """Which benchmark; docs/benchmarks.md says what each measures."""
    run: Path | None = None
    """Folder of a run whose last agent is measured; a tiny model is made if not given."""
    calls: int | None = None
    """Agent calls of one episode, all distinct; each benchmark has a number of its own if not given."""
    repeats: int | None = None
    """Interleaved repeats, of which the medians are told."""
    size: Size = "embedded"
    """Model that `ppo` trains: the demo's, or one of 113 million parameters, which needs a GPU."""
    json: bool = False
    """One JSON object on standard output."""


def measure(name: str, settings: Settings) -> Measured:
    """Run one benchmark. Raises KeyError for a name not in BENCHMARKS, InputError for settings it cannot take."""
    module, _, function = BENCHMARKS[name].partition(":")
    measured: Measured = getattr(import_module(module), function)(settings)
    return measured
