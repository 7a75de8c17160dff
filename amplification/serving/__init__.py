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
