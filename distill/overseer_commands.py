"""The commands that train imitators and try overseers out: their options, and what they do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from amplification.errors import InputError
from amplification.serving.config import ServingConfig
from distill.config import ImitatorTraining

if TYPE_CHECKING:
    from amplification.benchmarks.base import Measured
    from distill.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ImitateOptions:
    """Train a model that takes the steps of a run's overseer, from the run's stored episodes."""

    run: Path
    """Folder of the run whose episodes are learned from."""
    out: Path
    """Folder for the imitator; it must not be there yet."""
    scope: str = ""
    """Episodes of a stage alone, for example generation-1."""
    seed: int = 1
    training: ImitatorTraining = field(default_factory=ImitatorTraining)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Run an experiment with several seeds: a table, and in its folder the results and a picture."""

    config: Annotated[Path, tyro.conf.Positional]
    """A configuration such as those in configs/experiments/."""
    seeds: tuple[int, ...] = ()
    """Instead of the configuration's."""
    out: Path | None = None
    """Folder of the results; runs/experiments/NAME after the configuration's name if not given."""
    json: bool = False
    """One JSON object on standard output: {arm: {seed: {"figures": ..., "curves": ...}}}."""


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """Try an overseer out with an agent that knows the truth, so that only the overseer can be wrong.

    An experiment that a configuration describes has its file in place of a name: configs/experiments/drift.yaml.
    """

    what: Annotated[Literal["imitation", "served"], tyro.conf.Positional]
    """imitation: a model takes over the program's steps. served: a model on a vLLM server is the overseer."""
    task: str = "counting"
    """One of the embedded tasks."""
    seed: int = 1
    folder: Path | None = None
    """Where the recording and the model are kept; nowhere if not given."""
    json: bool = False
    """One JSON object on standard output."""
    training: ImitatorTraining = field(default_factory=ImitatorTraining)


def imitate_run(options: ImitateOptions, serving: ServingConfig, progress: Progress) -> dict[str, Any]:
    """Train an imitator from a run's store into a new folder; its metrics. Raises InputError."""
    from amplification.serving import open_sampler
    from amplification.store import Store
    from distill.imitate_overseer import imitate, lessons_from, recorded

    path = options.run / "store.sqlite"
    if not path.is_file():
        raise InputError(path, "the run's store is missing", "restore it, or make the run again")
    if options.out.exists():
        raise InputError(options.out, "this is there already", "choose another folder with --out")
    store = Store.at(path)
    try:
        lessons = lessons_from(recorded(store, options.scope))
    finally:
        store.close()
    sampler = open_sampler(serving.model_copy(update={"max_model_len": options.training.model.max_length}))
    partial = options.out.with_name(options.out.name + ".partial")
    try:
        metrics = imitate(lessons, options.training, sampler, partial, options.seed, progress)
    finally:
        sampler.close()
    partial.replace(options.out)
    return metrics


def experiment(options: ExperimentOptions, serving: ServingConfig, progress: Progress) -> Measured:
    """Do the experiment. Raises InputError for a task that is not there, ServingError if a model does not start."""
    from amplification.tasks import task
    from distill.experiments.imitation import imitation
    from distill.experiments.served_overseer import served_overseer

    chosen, settings = task(options.task), options.training
    with _folder(options.folder) as folder:
        if options.what == "imitation":
            return imitation(chosen, settings, serving, folder, options.seed, progress)
        return served_overseer(chosen, settings, folder, options.seed, progress)


@contextmanager
def training_progress() -> Iterator[Progress]:
    """What is trained here is made from scratch: one thread, and now and then a line on standard error."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from rich.console import Console

    from distill.progress import TerminalReporter

    reporter = TerminalReporter(Console(stderr=True))
    reporter.expect(1)
    reporter.started("training")
    try:
        yield reporter.progress
    finally:
        reporter.close()


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)
