"""Command-line options by type (tyro), with every mistake told in one line instead of a box.

tyro offers the structured event of a mistake only through its private `_errors` module, so its version is pinned and
that module is used here alone.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro
from pydantic import BaseModel, ValidationError
from tyro import _errors as tyro_errors

from amplification.errors import InputError

Kind = TypeVar("Kind")
Refusal = Callable[[ValidationError, tuple[str, ...]], InputError]

WHERE = "command line"


def parse(kind: type[Kind], args: Sequence[str], command: str, default: Kind | None, refusal: Refusal) -> Kind:
    """`args` as a `kind`, starting from `default`; `-h` prints all options and exits.

    `refusal` words a pydantic error of the part at the given path. Raises InputError for anything not understood.
    """

    def hook(event: tyro_errors.ParseErrorEvent) -> None:
        raise _told(event, kind, refusal)

    extra: dict[str, Any] = {} if default is None else {"default": default}
    # Without AvoidSubcommands, a section that may be absent would become a sub-command instead of options.
    config = (tyro.conf.AvoidSubcommands,)
    with tyro_errors.on_parse_error(hook):
        parsed: Kind = tyro.cli(kind, args=list(args), prog=f"amplify {command}", config=config, **extra)
    return parsed


def _told(event: tyro_errors.ParseErrorEvent, kind: type[Any], refusal: Refusal) -> InputError:
    help_hint = f"see '{event.prog} --help'"
    match event:
        case tyro_errors.UnrecognizedArgs(tokens=tokens):
            options = [token.split("=")[0] for token in tokens if token.startswith("-")]
            if not options:
                return InputError(WHERE, f"'{tokens[0]}' is one argument too many", help_hint)
            close = difflib.get_close_matches(options[0], _options(kind), n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]}?" if close else help_hint
            return InputError(WHERE, f"there is no option {options[0]}", remedy)
        case tyro_errors.InvalidChoice(argument=argument, value=value, choices=choices):
            return InputError(WHERE, f"{_name(argument)} cannot be '{value}'", f"choose from {', '.join(choices)}")
        case tyro_errors.BadValue(argument=argument):
            return InputError(WHERE, f"{_name(argument)} has no value", help_hint)
        case tyro_errors.MissingArgs(missing_arguments=missing):
            return InputError(WHERE, f"{_name(missing[0].arg)} is missing", help_hint)
        case tyro_errors.InstantiationFailure(message=message, argument=argument):
            return _refused(message, argument, refusal, help_hint)
    return InputError(WHERE, "the options contradict each other", help_hint)


def _refused(message: str, argument: Any, refusal: Refusal, help_hint: str) -> InputError:
    raised: BaseException | None = sys.exc_info()[1]
    place = getattr(raised, "arg", "")
    while raised is not None:
        if isinstance(raised, ValidationError):
            return refusal(raised, tuple(place.split(".")) if isinstance(place, str) and place else ())
        raised = raised.__cause__ or raised.__context__
    name = f"{_name(argument)}: " if argument is not None else ""
    return InputError(WHERE, name + " ".join(message.split()), help_hint)


def _name(argument: Any) -> str:
    """An argument as a person types it."""
    if argument.is_positional():
        return str(argument.field.extern_name).upper()
    prefix = f"{argument.extern_prefix}." if argument.extern_prefix else ""
    return "--" + f"{prefix}{argument.field.extern_name}".replace("_", "-")


def _options(kind: type[Any], prefix: str = "") -> list[str]:
    names: list[str] = []
    fields: dict[str, Any]
    if issubclass(kind, BaseModel):
        fields = {name: field.annotation for name, field in kind.model_fields.items()}
    else:
        fields = dict(kind.__annotations__)
    for name, annotation in fields.items():
        option = prefix + name.replace("_", "-")
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            names += _options(annotation, f"{option}.")
        else:
            names.append(f"--{option}")
    return names
