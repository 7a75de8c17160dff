"""From a configuration to the search of its adversaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from amplification.agent import Agent
from amplification.dispatch import Dispatcher
from amplification.overseers.opening import served_agent
from amplification.serving.config import ServingConfig
from amplification.tasks.base import Task
from distill.adversary import MutationAdversary
from distill.config import AdversaryConfig
from distill.corpus import CorpusAdversary, read_corpus
from distill.search import Proposer, Search
from distill.writer import SCHEMA, WriterAdversary


class Parts(NamedTuple):
    """What adversaries are made from: the tasks at levels up to the index `up_to`; where the agents are served; the way
    to models that are served as some settings say."""

    tasks: Mapping[str, Task]
    up_to: int
    serving: ServingConfig
    dispatcher: Callable[[ServingConfig], Dispatcher]


def open_search(settings: AdversaryConfig, parts: Parts) -> Search:
    """The search of the configured adversaries. Raises InputError for a file or a model that cannot be used."""
    chosen = [make(settings, parts) for kind, make in ADVERSARIES.items() if kind in settings.kinds]
    return Search(chosen, settings)


def check_sources(settings: AdversaryConfig, serving: ServingConfig) -> None:
    """Refuse, before a run begins, a corpus that cannot be read and a writer that is not there. Raises InputError."""
    if settings.corpus is not None:
        read_corpus(settings.corpus)
    if settings.writer is not None:
        _writing_agent(settings, settings.writer.serving or serving)


def _corpus(settings: AdversaryConfig, parts: Parts) -> Proposer:
    assert settings.corpus is not None
    return CorpusAdversary(settings.corpus, parts.tasks, parts.up_to)


def _writer(settings: AdversaryConfig, parts: Parts) -> Proposer:
    assert settings.writer is not None
    serving = settings.writer.serving or parts.serving
    return WriterAdversary(parts.tasks, parts.up_to, _writing_agent(settings, serving), parts.dispatcher(serving))


def _mutation(settings: AdversaryConfig, parts: Parts) -> Proposer:
    return MutationAdversary(parts.tasks, settings, parts.up_to)


def _writing_agent(settings: AdversaryConfig, serving: ServingConfig) -> Agent:
    assert settings.writer is not None
    schema = SCHEMA if settings.writer.template == "attack" else None
    return served_agent("writer", settings.writer, serving, settings.writer.template, schema)


# Adversaries by kind, those that may have no more to propose before those that always have: what the former leave of a
# round goes to the latter. A new one is a file beside this, its settings in `AdversaryConfig` and a line here.
ADVERSARIES: Mapping[str, Callable[[AdversaryConfig, Parts], Proposer]] = MappingProxyType(
    {"corpus": _corpus, "writer": _writer, "mutation": _mutation}
)
