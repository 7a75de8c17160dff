"""From a configuration to an Overseer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from amplification.agent import Agent
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.errors import InputError
from amplification.overseer import Overseer
from amplification.overseers.config import LanguageModelConfig, OverseerConfig, ServedModel
from amplification.overseers.imitator import ImitatingOverseer, imitator_agent
from amplification.overseers.language_model import LanguageModelOverseer
from amplification.overseers.mixture import MixedOverseer
from amplification.overseers.notation import action_schema
from amplification.overseers.program import ProgramOverseer
from amplification.question import digest
from amplification.serving.base import ModelRef, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.tasks.base import Task


class Parts(NamedTuple):
    """What overseers are made from. `serving` is where the agents run; `dispatcher` gives the way to models that are
    served as some settings say."""

    tasks: Mapping[str, Task]
    limits: Limits
    serving: ServingConfig
    dispatcher: Callable[[ServingConfig], Dispatcher]


def open_overseer(config: OverseerConfig, parts: Parts) -> Overseer:
    """The overseer of a configuration. Raises InputError for a folder that is missing or holds something else."""
    return OVERSEERS[config.kind](config, parts)


def _program(config: OverseerConfig, parts: Parts) -> Overseer:
    return ProgramOverseer(parts.tasks)


def _language_model(config: OverseerConfig, parts: Parts) -> Overseer:
    assert config.language_model is not None
    serving = config.language_model.serving or parts.serving
    agent = language_model_agent(config.language_model, serving)
    return LanguageModelOverseer(agent, parts.dispatcher(serving), parts.limits.workspace_chars)


def _imitator(config: OverseerConfig, parts: Parts) -> Overseer:
    assert config.imitator is not None
    serving = config.imitator.serving or parts.serving
    agent, threshold = imitator_agent(config.imitator.folder)
    threshold = threshold if config.imitator.threshold is None else config.imitator.threshold
    real = open_overseer(config.imitator.real, parts)
    return ImitatingOverseer(agent, parts.dispatcher(serving), parts.limits.workspace_chars, threshold, real)


def _mixture(config: OverseerConfig, parts: Parts) -> Overseer:
    assert config.mixture is not None
    first, second = (open_overseer(one, parts) for one in (config.mixture.first, config.mixture.second))
    return MixedOverseer(first, second, config.mixture.share, config.mixture.seed)


# Overseers by kind. A new one is a file beside this, a section and a line here.
OVERSEERS: Mapping[str, Callable[[OverseerConfig, Parts], Overseer]] = MappingProxyType(
    {"program": _program, "language_model": _language_model, "imitator": _imitator, "mixture": _mixture}
)


def language_model_agent(config: LanguageModelConfig, serving: ServingConfig) -> Agent:
    """The model as an Agent that takes H's steps. Raises InputError."""
    return served_agent("H", config, serving, config.template, action_schema())


def served_agent(name: str, config: ServedModel, serving: ServingConfig, template: str, schema: str | None) -> Agent:
    """A model that is no agent of the run, as an Agent: known by its weights, or by its servers and its name there, and
    by whether a chat template goes around what it is asked. `schema`: of what it writes, where it is to be told.
    Raises InputError."""
    params = SamplingParams(config.max_tokens, config.temperature, json_schema=schema if config.constrained else None)
    model = ModelRef(config.model)
    if Path(config.model).is_dir():
        loaded = Agent.load(name, model, params)
        known = digest("chat", loaded.digest) if serving.is_chat else loaded.digest
        return replace(loaded, digest=known, template=template)
    if Path(config.model).is_absolute() and serving.backend != "openai":
        raise InputError(config.model, "there is no such folder", "give a folder of weights or a hub name")
    servers = serving.http.servers if serving.backend == "openai" else ()
    way = "served by chat" if serving.is_chat else "served"
    return Agent(name, model, digest(way, config.model, *servers), params, template)
