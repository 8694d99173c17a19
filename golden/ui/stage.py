"""Where a comparison shows: up to four images, the verdicts, the scores, and what happened to the noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from ..arms import available_arms
from ..compare import Comparison
from ..model import Model
from ..models import ModelSpec
from ..noise import noise_health
from ..settings import label_images
from .arms import MAX_ARMS, describe_arm, find_changed
from .controls import Controls
from .drawing import draw_change, draw_noise, singular_values
from .fields import has_npnet
from .flow import find_source, show_flow
from .html import render
from .pieces import (
    explain_missing_npnet,
    format_duration,
    list_arms,
    list_examples,
    make_image,
    show_heading,
    show_hint,
    show_pairs,
    show_verdict,
)
from .scoreboard import Judging, find_winner, show_scoreboard

NOISES = (("source", "noise_before"), ("golden", "noise_after"), ("change", "noise_change"))


@dataclass(frozen=True)
class Slot:
    """A place for an arm's image, with its name above and its verdict below."""

    column: gr.Column
    name: gr.HTML
    image: gr.Image
    verdict: gr.HTML


@dataclass(frozen=True)
class Stage:
    """The components that a comparison fills."""

    slots: tuple[Slot, ...]
    pick: gr.HTML
    rule: gr.HTML  # by which rule the comparison on show was drawn
    figures: gr.HTML
    noises: tuple[gr.Image, ...]
    health: gr.HTML
    scores: gr.HTML
    flow: gr.HTML
    draw_scores: Callable[..., str]  # the scoreboard of some arms, and of a comparison if there is one yet
    examples: list[tuple[gr.Button, str, int]]  # with prompt and seed

    def lay_out(self, arms: Sequence[str]) -> dict:
        """A place for each arm, in their order."""
        laid: dict = {self.pick: render("pick", arms=[describe_arm(arm).title for arm in arms]), self.rule: ""}
        for index, slot in enumerate(self.slots):
            used = index < len(arms)
            laid[slot.column] = gr.update(visible=used, elem_classes=classes_of(arms[index] if used else ""))
            if used:
                laid[slot.name] = name_arm(arms[index])
        return laid

    def show_images(self, images: Sequence[Image.Image]) -> dict:
        return {slot.image: image for slot, image in zip(self.slots, images, strict=False)}

    def clear_words(self, arms: Sequence[str]) -> dict:
        words: dict = dict.fromkeys([slot.verdict for slot in self.slots], "") | {self.figures: ""}
        return words | {self.scores: self.draw_scores(arms)}

    def show_scores(self, comparison: Comparison) -> dict:
        return {self.scores: self.draw_scores(list(comparison.images), comparison)}

    def show(self, comparison: Comparison, spec: ModelSpec) -> dict:
        """Everything of a finished comparison; the images carry their settings."""
        labelled, verdicts = label_images(comparison, spec), comparison.verdicts
        winner = find_winner(verdicts)
        shown: dict = self.show_images(list(labelled.values()))
        for slot, arm in zip(self.slots, labelled, strict=False):
            shown[slot.verdict] = show_verdict(verdicts.get(arm), winner == arm)
        shown[self.figures] = show_figures(comparison)
        return shown | self.show_scores(comparison) | self.show_noise(comparison) | self.show_steps(comparison)

    def show_steps(self, comparison: Comparison) -> dict:
        """How this comparison went, from noise to images."""
        return {self.flow: show_flow(comparison)}

    def show_noise(self, comparison: Comparison) -> dict:
        """What the arm that the page explains did to the source noise; nothing for the source noise alone."""
        arm = find_changed(list(comparison.noises))
        if arm is None:
            return {}
        source, noise = find_source(comparison), comparison.noises[arm]
        labels = (NOISES[0][0], describe_arm(arm).short, NOISES[2][0])
        images = (draw_noise(source), draw_noise(noise), draw_change(source, noise))
        updates = [gr.update(value=image, label=label) for image, label in zip(images, labels, strict=True)]
        return dict(zip(self.noises, updates, strict=True)) | {self.health: describe_noise(source, noise, labels[1])}

    @property
    def outputs(self) -> list[Any]:
        places = [part for slot in self.slots for part in (slot.column, slot.name, slot.image, slot.verdict)]
        return [*places, self.pick, self.rule, self.figures, self.health, self.scores, self.flow, *self.noises]


def build_stage(model: Model, controls: Controls, judging: Judging, flow: gr.HTML) -> Stage:
    """Place the images with examples below them, and beside them the scores and NPNet's panel."""
    arms = list_arms(model)
    with gr.Column(elem_id="stage", elem_classes="view-pair"):
        gr.HTML(render("views"), elem_id="views")
        pick = gr.HTML(render("pick", arms=[describe_arm(arm).title for arm in arms]), elem_id="pick")
        rule = gr.HTML("", elem_id="rule")
        with gr.Row(elem_id="images"):
            slots = tuple(_build_slot(arms[index] if index < len(arms) else "") for index in range(MAX_ARMS))
            gr.HTML(render("slider"), elem_id="slider")
        controls.place("arms")
        with gr.Row(elem_id="examples"):
            examples = [(gr.Button(text, size="sm", min_width=40), text, seed) for text, seed in list_examples(model)]
    with gr.Column(elem_id="side"):
        with gr.Column(elem_id="judged"):
            scores = gr.HTML(show_scoreboard(judging, arms), elem_id="scores")
        with gr.Column(elem_id="npnet"):
            gr.HTML(show_heading("NPNet"))
            if not has_npnet(model):
                gr.HTML(show_hint(explain_missing_npnet(model.spec), "notice"), elem_id="no_npnet")
            controls.place("npnet")
            figures = gr.HTML("", elem_id="figures")
            with gr.Row(elem_id="noises", visible=len(available_arms(model)) > 1):
                noises = tuple(make_image(label, elem_id, small=True) for label, elem_id in NOISES)
            health = gr.HTML("", elem_id="health")
    return Stage(slots, pick, rule, figures, noises, health, scores, flow, partial(show_scoreboard, judging), examples)


def classes_of(arm: str) -> list[str]:
    """The classes of an arm's column, by which the stylesheet knows golden noise."""
    return ["arm", {"npnet": "golden", "": "unused"}.get(arm, arm)]


def name_arm(arm: str) -> str:
    words = describe_arm(arm)
    return render("arm", title=words.title, help=words.help)


def _build_slot(arm: str) -> Slot:
    title = describe_arm(arm).title if arm else "Noise"
    with gr.Column(elem_classes=classes_of(arm), visible=bool(arm)) as column:
        name = gr.HTML(name_arm(arm) if arm else "", elem_classes="arm-head")
        return Slot(column, name, make_image(title), gr.HTML("", elem_classes="arm-said"))


def show_figures(comparison: Comparison) -> str:
    """How long the comparison and NPNet took, and the overhead."""
    pairs = [("total", format_duration(comparison.total_seconds))]
    if "npnet" in comparison.noises:
        pairs.append(("NPNet", format_duration(comparison.npnet_seconds)))
        pairs.append(("overhead per image", f"{100 * comparison.overhead:.1f} %"))
    return show_pairs(pairs, "figures")


def describe_noise(source: Tensor, noise: Tensor, name: str) -> str:
    """How far a noise is from the source noise and from white noise, and both noises' singular values."""
    health = {key: float(value) for key, value in noise_health(noise[None], source[None]).items()}
    pairs = [
        ("change, RMS", f"{health['distance']:.3f}"),
        ("cosine", f"{health['cosine']:.3f}"),
        ("mean, std", f"{health['mean']:.3f}, {health['std']:.3f}"),
        ("whiteness", f"{health['flatness']:.3f}"),
    ]
    return render("noise", pairs=pairs, name=name, **draw_spectra(singular_values(source), singular_values(noise)))


def draw_spectra(source: Sequence[float], golden: Sequence[float]) -> dict[str, str | int]:
    """Two falling lines of singular values: the points of an SVG polyline each, and the size of the drawing."""
    width, height, top = 220, 56, max(*source, *golden, 1e-9)

    def line(values: Sequence[float]) -> str:
        step = width / max(1, len(values) - 1)
        return " ".join(f"{i * step:.1f},{height - 2 - (height - 4) * v / top:.1f}" for i, v in enumerate(values))

    return {"width": width, "height": height, "source": line(source), "golden": line(golden)}
