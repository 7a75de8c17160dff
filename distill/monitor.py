"""Monitor: what looks on while PPO trains, and what it may ask for."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from distill.experience import Experience


class Action(Enum):
    """What a monitor may ask for: rewards once more, as they have changed, or the end of training."""

    RESCORE = "rescore"
    STOP = "stop"


class Monitor(Protocol):
    """Sees the experience of each update before the policy learns from it."""

    def begin(self, update: int) -> None:
        """Training begins, or carries on, with this update."""
        ...

    def __call__(self, experience: Experience, update: int) -> Action | None: ...
