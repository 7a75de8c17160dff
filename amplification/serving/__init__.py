"""Serving back ends: where agents run. `open_sampler` is the way in."""

from __future__ import annotations

from importlib import import_module

from amplification.errors import InputError
from amplification.serving.base import Sampler
from amplification.serving.config import SAMPLERS, ServingConfig


def open_sampler(settings: ServingConfig) -> Sampler:
    """The back end that the settings name. Raises InputError for a name that is not in SAMPLERS."""
    if settings.backend not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise InputError("serving.backend", f"'{settings.backend}' is not a back end", f"choose one of: {known}")
    module, _, name = SAMPLERS[settings.backend].partition(":")
    sampler: Sampler = getattr(import_module(module), name)(settings)
    return sampler


class Samplers:
    """Back ends by their settings, each opened when it is first asked for and kept until all are closed."""

    def __init__(self) -> None:
        self._open: dict[ServingConfig, Sampler] = {}

    def get(self, settings: ServingConfig) -> Sampler:
        """Raises as `open_sampler` does."""
        if settings not in self._open:
            self._open[settings] = open_sampler(settings)
        return self._open[settings]

    def rest(self) -> None:
        """Give back what the back ends hold; those who keep one may go on asking, and then it is loaded again."""
        for sampler in self._open.values():
            sampler.close()

    def close(self) -> None:
        self.rest()
        self._open.clear()
