"""The options of the commands that know of amplification alone; tyro makes `--help` from what stands here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Ask a run's last agent, amplified by an overseer: one question, or without one in a session."""

    question: Annotated[str | None, tyro.conf.Positional] = None
    """What is asked, in quotes; without it a session opens."""
    run: Path
    """Folder of the run."""
    direct: bool = False
    """Ask the agent alone."""
    overseer: str = "configured"
    """Who is H: as the run was configured; program, the tasks' own; human, you; or a YAML file that configures one."""
    session: str | None = None
    """A session to carry on with, or the name of a new one."""


@dataclass(frozen=True, kw_only=True)
class EpisodesOptions:
    """Look at the episodes that a run's stores hold, while it is written too."""

    what: Annotated[Literal["list", "show", "export"], tyro.conf.Positional] = "list"
    """list: one line each, newest first. show: one as a tree. export: JSON Lines."""
    id: Annotated[str | None, tyro.conf.Positional] = None
    """The episode to show, as list names it."""
    run: Path
    """Folder of the run."""
    scope: str = ""
    """Those of a stage or session alone, for example generation-1 or ask/s1."""
    stop: str | None = None
    """Those that ended so, for example replied or out_of_budget."""
    text: str = ""
    """Those with this text in question or answer."""
    limit: int | None = None
    """At most so many; list shows 20 if not given."""
    node: int | None = None
    """show: this node of the tree in full, with what was sent and came back."""
    out: str | None = None
    """export: a file in the run's exports folder instead of standard output."""


@dataclass(frozen=True)
class ReportOptions:
    """Show a finished run's report."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
