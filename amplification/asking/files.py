"""Files that a person names: texts that are read, and exports, which stay inside the run's folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from amplification.errors import InputError
from amplification.records import Record
from amplification.terminal import printable

EXPORTS = "exports"


def text_of(path: Path) -> str:
    """A text file's text, of any size. Raises InputError for what is no file or no text in UTF-8."""
    path = path.expanduser()
    where = printable(str(path))
    if not path.is_file():
        problem = "this is no ordinary file" if path.exists() else "there is no such file"
        raise InputError(where, problem, "name a text file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(where, f"this is no UTF-8 text (byte {error.start})", "convert it, or name another") from None
    except OSError as error:
        raise InputError(where, f"it cannot be read ({error.strerror})", "check its permissions") from None
    if "\0" in text:
        raise InputError(where, "this is a binary file", "name a text file")
    if not text.strip():
        raise InputError(where, "the file is empty", "name one with a text in it")
    return text


def export(run: Path, name: str, records: Iterable[Record]) -> tuple[Path, int]:
    """Write records as JSON Lines to a new file in the run's exports folder; gives its path and how many there were.

    Raises InputError for a name that leads elsewhere or is taken. The file is there whole, or not at all.
    """
    folder = (run / EXPORTS).resolve()
    path, where = (folder / name).resolve(), printable(name)
    if path == folder or not path.is_relative_to(folder):
        raise InputError(where, "an export stays inside the run's folder", f"give a name inside {run / EXPORTS}")
    if path.exists():
        raise InputError(where, "this file is already there", "choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        count = 0
        with partial.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record) + "\n")
                count += 1
        partial.replace(path)
    except OSError as error:
        raise InputError(where, f"it cannot be written ({error.strerror})", "choose another name") from None
    return run / EXPORTS / path.relative_to(folder), count
