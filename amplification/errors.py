"""Every error this project raises on purpose, in one tree.

    AmplifyError                something went wrong; the message is one line for a person
    |-- InputError              what the user gave is missing, malformed or contradictory  -> exit code 2
    |-- StageError              a stage failed while running; finished work is kept         -> exit code 1
    `-- ServingError            the model could not be started or did not answer            -> exit code 1

A question that cannot be answered is not an error: it is an `Answer` with a `failure`.
"""

from __future__ import annotations

from pathlib import Path


class AmplifyError(Exception):
    """Base of the tree. `str(error)` is one line that can be shown as it is."""

    exit_code = 1


class InputError(AmplifyError):
    """Bad input: names the place (file or option), the key where there is one, and the remedy."""

    exit_code = 2

    def __init__(self, where: str | Path, problem: str, remedy: str) -> None:
        self.where, self.problem, self.remedy = str(where), problem, remedy
        super().__init__(f"{where}: {problem}; {remedy}")


class StageError(AmplifyError):
    """A stage of a run failed. What earlier stages wrote stays valid."""


class ServingError(AmplifyError):
    """The model behind an agent could not be loaded or did not answer."""
