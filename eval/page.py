"""HTML from the templates in `templates/`. Jinja2 escapes every value that is not marked as HTML."""

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment


def fill_template(name: str, **values: Any) -> str:
    """The text of a template with its values, each escaped unless it is `Markup`."""
    return _environment().get_template(name).render(values)


def call_macro(template: str, macro: str, *values: Any) -> Markup:
    """The HTML that a macro of a template makes of some values."""
    return getattr(_environment().get_template(template).module, macro)(*values)
