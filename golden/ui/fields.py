"""The fields of CompareRequest as people meet them: their names in words, limits and explanations.

Page, API and MCP are made from `SETTINGS`. A new field of CompareRequest appears in all of them by itself, as a text
box, number, checkbox, list or upload by its type, explained by its help; an entry in `_LOOKS` gives it limits and
a place of its own.
"""

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image

from ..arms import ARMS
from ..checks import MAX_SEED
from ..model import Model
from ..request import MAX_GUIDANCE, MAX_STEPS, MAX_STRENGTH, MIN_GUIDANCE, CompareRequest
from ..samplers import SAMPLERS


def _always(model: Model) -> bool:
    return True


@dataclass(frozen=True)
class Setting:
    """A field of CompareRequest.

    Attributes:
        name: of the field.
        kind: str, int, float, bool, tuple (of names among `choices`) or Image.Image.
        optional: whether None is allowed, and means the model's own.
        label: above its control on the page.
        words: as sentences name it.
        help: what programs and people read about it.
        low, high, step: of a number; with a step it is a slider.
        choices: the values allowed, each as it is or as (words, value); None for any.
        place: where the Compare tab shows it: "ask", "seed", "settings", "size", "npnet" or "arms".
        applies: whether a model has any use for it.
    """

    name: str
    kind: type
    optional: bool
    label: str
    words: str
    help: str
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    choices: tuple[str | tuple[str, str], ...] | None = None
    place: str = "settings"
    applies: Callable[[Model], bool] = _always

    @property
    def is_image(self) -> bool:
        return self.kind is Image.Image


def has_npnet(model: Model) -> bool:
    return model.npnet is not None


def needs_control(model: Model) -> bool:
    return model.spec.needs_control


_LOOKS: dict[str, dict[str, Any]] = {
    "prompt": dict(place="ask"),
    "seed": dict(low=0, high=MAX_SEED, place="seed"),
    "num_inference_steps": dict(label="Steps", words="number of steps", low=1, high=MAX_STEPS, step=1),
    "guidance_scale": dict(label="Guidance", low=MIN_GUIDANCE, high=MAX_GUIDANCE, step=0.1),
    "sampler": dict(choices=tuple(SAMPLERS)),
    "strength": dict(low=0, high=MAX_STRENGTH, step=0.05, place="npnet", applies=has_npnet),
    "height": dict(place="size"),
    "width": dict(place="size"),
    "arms": dict(label="Noises to compare", choices=tuple(ARMS), place="arms"),
    "control": dict(
        label="Control image",
        help="control image for a ControlNet; other models take none",
        place="ask",
        applies=needs_control,
    ),
}


def _read_type(annotation: Any) -> tuple[type, bool]:
    """(type, whether None is allowed) of an annotation such as `int | None`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return kinds[0], True
    return typing.get_origin(annotation) or annotation, False


def describe_fields(request_class: type = CompareRequest) -> dict[str, Setting]:
    """A Setting for each field, by name: those that fit in a link first, in their order, and then the images."""
    annotations = typing.get_type_hints(request_class)
    found = []
    for field in fields(request_class):
        kind, optional = _read_type(annotations[field.name])
        words = field.name.replace("_", " ")
        look: dict[str, Any] = {
            "label": words.capitalize(),
            "words": words,
            "help": field.metadata.get("help") or words,
        }
        found.append(Setting(field.name, kind, optional, **(look | _LOOKS.get(field.name, {}))))
    return {setting.name: setting for setting in sorted(found, key=lambda setting: setting.is_image)}


SETTINGS = describe_fields()
"""By name, in the order in which page, API and MCP list them."""
