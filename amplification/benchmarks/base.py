"""What every benchmark is given, and what it gives back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from amplification.errors import InputError
from amplification.serving.config import ServingConfig

# Models whose PPO is measured: that of the demo, and one that wants a GPU.
Size = Literal["embedded", "100m"]


@dataclass(frozen=True)
class Settings:
    """The options that benchmarks share. None stands for the benchmark's own number.

    run: folder of a run whose last agent is measured; a benchmark that needs a model makes a tiny one otherwise.
    calls: agent calls of one episode; repeats: interleaved repeats, of which the medians are told. size: PPO's model.
    """

    serving: ServingConfig
    run: Path | None = None
    calls: int | None = None
    repeats: int | None = None
    size: Size = "embedded"

    def calls_within(self, default: int, least: int, most: int) -> int:
        """The number of calls. Raises InputError if it is not from `least` to `most`."""
        calls = default if self.calls is None else self.calls
        if not least <= calls <= most:
            raise InputError("command line", f"--calls is {calls}", f"give a number from {least} to {most}")
        return calls


@dataclass(frozen=True)
class Measured:
    """A benchmark's figures: a frozen dataclass of numbers whose fields are the keys of the JSON object."""

    def as_dict(self) -> dict[str, object]:
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}

    @abstractmethod
    def as_line(self) -> str:
        """The figures in one line for a person."""
