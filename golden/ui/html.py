"""HTML from the templates in `templates/`. Jinja escapes every value, so no caller has to remember to."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import ASSETS
from .glossary import explain

TEMPLATES = Path(__file__).parent / "templates"
STATIC = ASSETS / "app"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, STATIC]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.globals["explain"] = explain
    return environment


def render(template: str, **values: Any) -> str:
    """The HTML of a template of `templates/`, with `values` escaped.

    It is plain text to every other template: parts of a larger piece are included or imported there, not passed in.
    """
    return str(_environment().get_template(f"{template}.html").render(values))


def read_static(name: str) -> str:
    """A stylesheet or script of assets/app, as it is."""
    return (STATIC / name).read_text(encoding="utf-8")
