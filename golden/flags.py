"""Command-line options from a frozen dataclass, so that every command spells, documents and reads them alike.

@dataclass(frozen=True)
class RenderOptions:
    prompt: str = flag(help="what the image should show", positional=True)
    seed: int = flag(0, "first seed")

parser = ArgumentParser(description="...")
add_flags(parser, RenderOptions)
options = read_flags(RenderOptions, parser.parse_args())
"""

import argparse
import types
import typing
from collections.abc import Collection
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, TypeVar

Options = TypeVar("Options")


def flag(
    default: Any = MISSING,
    help: str = "",
    *,
    choices: Collection[Any] | None = None,
    positional: bool = False,
    spelling: str | None = None,
    metavar: str | None = None,
) -> Any:
    """A dataclass field that is an option on the command line: `num_steps` becomes --num-steps.

    Without a default it must be given. A bool becomes --x/--no-x, a tuple takes several values, `X | None` with the
    default None may be left out. `spelling` replaces the name where that is a keyword of Python ("--from").
    """
    options = {
        "help": help,
        "choices": choices,
        "positional": positional,
        "spelling": spelling,
        "metavar": metavar,
    }
    return field(default=default, metadata=options)


def add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    options_class: type,
    *,
    skip: Collection[str] = (),
    optional: bool = False,
) -> None:
    """Add an option for each field of a dataclass, but for those to `skip`.

    With `optional` every option may be left out, and is None then: for values that have other defaults elsewhere.
    """
    types_by_name = typing.get_type_hints(options_class)
    for entry in fields(options_class):
        if entry.init and entry.name not in skip:
            _add_flag(parser, entry, types_by_name[entry.name], optional)


def read_flags(options_class: type[Options], arguments: argparse.Namespace) -> Options:
    """The dataclass with what was given on the command line. Raises: whatever its `__post_init__` raises."""
    values = {entry.name: getattr(arguments, entry.name) for entry in fields(options_class) if entry.init}  # type: ignore[arg-type]
    return options_class(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _add_flag(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, entry: Field, annotation: Any, optional: bool
) -> None:
    meta = entry.metadata
    kind, several = _value_type(annotation)
    required = entry.default is MISSING and not callable(entry.default_factory) and not optional
    default = None
    if not required and not optional:
        default = entry.default_factory() if callable(entry.default_factory) else entry.default
    keywords: dict[str, Any] = {"help": meta.get("help", "").replace("%", "%%")}
    if not required:
        keywords["default"] = default
    if kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction
    else:
        keywords |= {"type": kind, "choices": meta.get("choices"), "metavar": meta.get("metavar")}
        if several:
            keywords["nargs"] = "+"
    if meta.get("positional"):
        if not several and not required:
            keywords["nargs"] = "?"
        parser.add_argument(entry.name, **keywords)
        return
    spelling = meta.get("spelling") or f"--{entry.name.replace('_', '-')}"
    parser.add_argument(spelling, dest=entry.name, required=required, **keywords)


def _value_type(annotation: Any) -> tuple[Any, bool]:
    """(type of one value, whether several are taken): of int | None (int, False), of tuple[str, ...] (str, True)."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        if Path in kinds and len(kinds) > 1:
            return str, False
        return _value_type(kinds[0])
    if origin is tuple:
        return _value_type(arguments[0])[0], True
    if origin is typing.Literal:
        return type(arguments[0]), False
    return annotation, False
