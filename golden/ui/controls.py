"""The controls of a comparison: a component for each setting, made from its type and limits."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from ..model import Model
from ..request import CompareRequest
from ..settings import NAMES, default_request
from .arms import check_count, list_choices
from .fields import SETTINGS, Setting
from .pieces import SESSION_SECONDS, list_arms, list_examples, show_status

KEYS = "Enter to compare, R to reroll, F to flip, arrow keys to slide."
OPENING = "The first comparison is being made …"


def make_component(setting: Setting, value: Any, visible: bool = True) -> gr.components.Component:
    """The control of a setting, not yet placed on the page; an image is a state that an upload fills."""
    common: dict[str, Any] = dict(label=setting.label, value=value, visible=visible, elem_id=setting.name, render=False)
    if setting.is_image:
        return gr.State(None, time_to_live=SESSION_SECONDS)
    if setting.kind is tuple:
        return gr.CheckboxGroup(list(setting.choices or ()), **(common | {"value": list(value or ())}))
    if setting.choices:
        return gr.Dropdown(list(setting.choices), **common)
    if setting.kind is bool:
        return gr.Checkbox(**common)
    if setting.kind is str:
        return gr.Textbox(lines=1, max_lines=4, placeholder=setting.help, **common)
    if setting.step and setting.low is not None and setting.high is not None:
        return gr.Slider(setting.low, setting.high, step=setting.step, **common)
    whole = 0 if setting.kind is int else None
    return gr.Number(minimum=setting.low, maximum=setting.high, precision=whole, min_width=60, **common)


def make_api_component(setting: Setting, value: Any) -> gr.components.Component:
    """The same for programs, whose values go to golden's validator as they were sent."""
    if setting.is_image:
        image = gr.Image(label=setting.name, format="png", type="filepath")
        image.api_info()  # made of the data model, and kept
        image.data_model = None  # type: ignore[assignment]  # so that we refuse what is no image, in a sentence
        return image
    if setting.kind is tuple:
        return gr.CheckboxGroup(list(setting.choices or ()), value=list(value), label=setting.name)
    if setting.kind is str:
        return gr.Textbox(value=value, label=setting.name)
    if setting.kind is bool:
        return gr.Checkbox(value=value, label=setting.name)
    return gr.Number(value=value, label=setting.name)


def fit(setting: Setting, model: Model) -> Setting:
    """The setting with the choices that a model has."""
    if setting.name == "sampler":
        return replace(setting, choices=model.family.samplers)
    return replace(setting, choices=tuple(list_choices(model))) if setting.name == "arms" else setting


class Controls:
    """The inputs of a comparison by the names of CompareRequest, and what starts it from anywhere on the page.

    Attributes:
        by_name: a component for each of SETTINGS, placed by the Compare tab.
        lock: whether Reroll leaves the seed alone.
        opened: a new value here runs the comparison that the inputs describe.
        status: the Compare tab's status line.
    """

    def __init__(self, model: Model, first: CompareRequest | None = None) -> None:
        """`first` is the comparison that the page opens with, None for an example that is not compared yet."""
        self.model = model
        said = KEYS if first is None else OPENING
        if first is None:
            prompt, seed = list_examples(model)[0]
            first = default_request(model.spec, prompt=prompt, seed=seed, arms=list_arms(model))
        self.by_name = {
            name: make_component(fit(setting, model), getattr(first, name), setting.applies(model))
            for name, setting in SETTINGS.items()
        }
        self.lock = gr.Checkbox(label="Lock", value=False, elem_id="lock", min_width=64, container=False, render=False)
        self.opened = gr.State(None)
        kind = "quiet keys" if said == KEYS else "quiet"
        self.status = gr.HTML(show_status(said, kind), elem_id="status", render=False)

    def __getitem__(self, name: str) -> gr.components.Component:
        return self.by_name[name]

    @property
    def inputs(self) -> list[gr.components.Component]:
        return list(self.by_name.values())

    @property
    def opens(self) -> list[gr.components.Component]:
        """What `open` may update."""
        return [*self.inputs, self.opened, self.status]

    def place(self, place: str) -> None:
        """Put the components of one place of the page here, in the order of SETTINGS."""
        for name, setting in SETTINGS.items():
            if setting.place == place and not setting.is_image:
                self.by_name[name].render()

    def make_request(self, values: Sequence[Any]) -> CompareRequest:
        """The request in the values of `inputs`. Raises: InvalidInput for too many arms; nothing else is checked."""
        filled = dict(zip(SETTINGS, values, strict=True))
        # Gradio makes 0 of an empty number that somebody tabbed through.
        empty = {name: None for name, value in filled.items() if SETTINGS[name].optional and value == 0}
        request = CompareRequest(**(filled | empty))
        check_count(request.arms)
        return request

    def open(self, request: CompareRequest) -> dict:
        """Updates that fill in a request and run it as it is.

        Links and files hold no images: the ones at hand stay. Without arms they are for those that the model has.
        """
        filled = {self.by_name[name]: getattr(request, name) for name in NAMES}
        default = request.arms == CompareRequest(prompt="").arms
        filled[self.by_name["arms"]] = list(list_arms(self.model) if default else request.arms)
        images = {
            self.by_name[name]: getattr(request, name)
            for name, setting in SETTINGS.items()
            if setting.is_image and getattr(request, name) is not None
        }
        return filled | images | self.run_again()

    def run_again(self) -> dict:
        """An update that runs the comparison that the inputs describe."""
        return {self.opened: secrets.token_hex(8)}
