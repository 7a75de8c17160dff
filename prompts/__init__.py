"""Every prompt is a template file in this folder; `render` fills one in.

Templates run in Jinja's immutable sandbox with strict undefined: a missing variable raises, and text from a question
is data that no template interprets.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

FOLDER = Path(__file__).parent


@cache
def _template(name: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((FOLDER / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n"))


def render(name: str, **variables: object) -> str:
    """The prompt `prompts/NAME.txt` with its variables filled in. Raises UndefinedError if one is missing."""
    return _template(name).render(**variables)
