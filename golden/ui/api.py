"""The endpoint `/compare`, and with it the MCP tool: a comparison for programs, answered in images and plain JSON."""

import inspect
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any, no_type_check

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from ..compare import Checked, Comparison, Progress, Scored
from ..errors import GoldenError, InvalidInput
from ..request import CompareRequest
from ..settings import default_request, describe, label_images, read_control, read_file
from .arms import MAX_ARMS, check_count
from .controls import fit, make_api_component
from .fields import SETTINGS
from .pieces import make_image
from .scoreboard import describe_scores
from .tabs import Page

ORDINALS = ("first", "second", "third", "fourth")[:MAX_ARMS]

# What a program reads about the endpoint, and an MCP client about the tool; the settings are filled in.
DOCUMENTATION = """Compare standard and golden noise, or up to four noises: an image of each, checked and scored.

While it runs it yields previews with the step reached, then the result so far as each judge finishes. Cancelling
stops it within one step or judge.

Args:
{arguments}

Returns:
    four images in the order of arms, of which the last are null for fewer arms, and as JSON the settings, verdicts,
    scores and seconds
"""


def build_api(page: Page) -> None:
    defaults = default_request(page.model.spec, prompt=None)
    with gr.Column(visible=False):
        inputs = [
            make_api_component(fit(setting, page.model), getattr(defaults, name)) for name, setting in SETTINGS.items()
        ]
        outputs = [*map(make_image, ORDINALS), gr.JSON(label="result")]
        trigger = gr.Button()
    trigger.click(
        make_endpoint(page),
        inputs,
        outputs,
        api_name="compare",
        preprocess=False,
        concurrency_id="compare",
        concurrency_limit=1,
    )


def make_endpoint(page: Page) -> Callable:
    """The function behind the endpoint, which takes the settings by the names of CompareRequest's fields."""
    spec, weights = page.model.spec, page.judging.weights

    def describe_all(comparison: Comparison) -> dict[str, Any]:
        return describe(comparison, spec) | describe_scores(comparison, weights)

    @no_type_check  # gradio must see that this is a generator, also in tests that check types
    def compare(*values: Any) -> Any:
        try:
            for event in page.watch_judged(read_request(values)):
                if isinstance(event, Progress):
                    yield *_fill_up(event.previews), {"step": event.step, "num_steps": event.num_steps}
                elif isinstance(event, Scored):
                    yield *_fill_up(()), describe_all(event.comparison)
                elif isinstance(event, Checked | Comparison):
                    comparison = event.comparison if isinstance(event, Checked) else event
                    yield *_fill_up(label_images(comparison, spec).values()), describe_all(comparison)
        except GoldenError as error:
            # Gradio shows errors as HTML.
            raise gr.Error(escape(str(error), quote=False), print_exception=False) from None

    kind, arms = inspect.Parameter.POSITIONAL_OR_KEYWORD, list(default_request(spec, prompt="").arms)
    defaults = {name: None for name, setting in SETTINGS.items() if setting.optional} | {"arms": arms}
    parameters = [
        inspect.Parameter(name, kind, default=defaults.get(name, inspect.Parameter.empty)) for name in SETTINGS
    ]
    compare.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    arguments = "\n".join(f"    {name}: {setting.help}" for name, setting in SETTINGS.items())
    compare.__doc__ = DOCUMENTATION.format(arguments=arguments)
    return compare


def _fill_up(images: Iterable[Image.Image]) -> list[Any]:
    """An update for each of the endpoint's images: without any to show, all stay as they are."""
    shown: list[Any] = list(images)
    return shown + [None if shown else gr.skip()] * (MAX_ARMS - len(shown))


def read_request(values: tuple) -> CompareRequest:
    """The request in a program's values; only images and the number of arms are checked. Raises: InvalidInput."""
    settings = dict(zip(SETTINGS, values, strict=True))
    for name, setting in SETTINGS.items():
        if setting.is_image and settings[name] is not None:
            settings[name] = read_control(read_file(find_upload(setting.label, settings[name])))
    check_count(settings["arms"])
    return CompareRequest(**settings)


def find_upload(label: str, value: Any) -> Path:
    """The file that a program uploaded. Raises: InvalidInput for anything else, such as another file of this machine.

    Gradio has checked file data by then, but only of the form that it knows.
    """
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or "\0" in path:
        raise InvalidInput(f"The {label.lower()} must be an uploaded file.")
    found = Path(path).resolve()
    if not found.is_relative_to(Path(get_upload_folder()).resolve()):
        raise InvalidInput(f"The {label.lower()} must be an uploaded file.")
    return found
