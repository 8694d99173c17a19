"""The About tab: what golden noise is, what the figures mean, and the models."""

from typing import Any

import gradio as gr

from ...arms import ARMS
from ...judges import JUDGES
from ...models import MODELS, ModelSpec
from ..arms import describe_arm
from ..html import render
from . import Page, Tab


def build(page: Page, tab: gr.Tab) -> None:
    gr.HTML(show_about(list(MODELS.values()), page.model.spec.name))


def show_about(specs: list[ModelSpec], loaded: str) -> str:
    """The tab's HTML; `loaded` is the name of the model that runs."""
    return render(
        "about",
        cards=[describe_model(spec) | {"loaded": spec.name == loaded} for spec in specs],
        judges=list(JUDGES.values()),
        arms=[describe_arm(name) for name in ARMS],
    )


def describe_model(spec: ModelSpec) -> dict[str, Any]:
    """A card: a model of the registry with the settings that the paper uses with it."""
    pairs = [
        ("weights", "in this repository" if spec.is_embedded else spec.repo),
        *[("with", part) for part in (spec.parts.unet, *spec.parts.loras) if part],
        ("steps", str(spec.sampling.num_inference_steps)),
        ("guidance", f"{spec.sampling.guidance_scale:g}"),
        ("sampler", spec.sampling.sampler),
    ]
    return {"title": spec.title, "pairs": pairs}


TAB = Tab("About", 6, build)
