"""Where a comparison shows: both images, the verdicts, the scores, and what NPNet did to the noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import gradio as gr
from PIL import Image

from ..compare import Comparison
from ..model import Model
from ..models import ModelSpec
from ..noise import noise_health
from ..settings import label_images
from .controls import Controls
from .drawing import draw_change, draw_noise, singular_values
from .fields import has_npnet
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
class Stage:
    """The components that a comparison fills."""

    standard: gr.Image
    golden: gr.Image
    slider: gr.ImageSlider
    standard_verdict: gr.HTML
    golden_verdict: gr.HTML
    figures: gr.HTML
    noises: tuple[gr.Image, ...]
    health: gr.HTML
    scores: gr.HTML
    draw_scores: Callable[..., str]  # the scoreboard of a comparison, or of none yet
    examples: list[tuple[gr.Button, str, int]]  # with prompt and seed

    def show_images(self, standard: Image.Image, golden: Image.Image | None) -> dict:
        return {
            self.standard: standard,
            self.golden: golden,
            self.slider: (standard, golden) if golden is not None else None,
        }

    def clear_words(self) -> dict:
        words = {self.standard_verdict: "", self.golden_verdict: "", self.figures: ""}
        return words | {self.scores: self.draw_scores()}

    def show_scores(self, comparison: Comparison) -> dict:
        return {self.scores: self.draw_scores(comparison)}

    def show(self, comparison: Comparison, spec: ModelSpec) -> dict:
        """Everything of a finished comparison; the images carry their settings."""
        labelled, verdicts = label_images(comparison, spec), comparison.verdicts
        winner = find_winner(verdicts)
        shown: dict = self.show_images(labelled["standard"], labelled.get("npnet"))
        shown[self.standard_verdict] = show_verdict(verdicts.get("standard"), winner == "standard")
        shown[self.golden_verdict] = show_verdict(verdicts.get("npnet"), winner == "npnet")
        shown[self.figures] = show_figures(comparison)
        shown |= self.show_scores(comparison)
        if "npnet" in comparison.noises:
            source, golden = comparison.noises["standard"], comparison.noises["npnet"]
            images = (draw_noise(source), draw_noise(golden), draw_change(source, golden))
            shown |= dict(zip(self.noises, images, strict=True)) | {self.health: show_noise(comparison)}
        return shown

    @property
    def outputs(self) -> list[gr.Component]:
        words = [self.standard_verdict, self.golden_verdict, self.figures, self.health, self.scores]
        return [self.standard, self.golden, self.slider, *words, *self.noises]


def build_stage(model: Model, controls: Controls, judging: Judging) -> Stage:
    """Place the images with examples below them, and beside them the scores and NPNet's panel."""
    draw_scores = partial(show_scoreboard, judging, list_arms(model))
    with gr.Column(elem_id="stage", elem_classes="view-pair"):
        gr.HTML(render("views"), elem_id="views")
        with gr.Row(elem_id="images"):
            standard, standard_verdict = _build_arm("Standard noise", "standard")
            golden, golden_verdict = _build_arm("Golden noise", "golden")
        slider = gr.ImageSlider(
            label="Standard and golden noise",
            format="png",
            type="pil",
            interactive=False,
            show_label=False,
            container=False,
            buttons=[],
            max_height=1024,
            elem_id="slider",
        )
        with gr.Row(elem_id="examples"):
            examples = [(gr.Button(text, size="sm", min_width=40), text, seed) for text, seed in list_examples(model)]
    with gr.Column(elem_id="side"):
        with gr.Column(elem_id="judged"):
            scores = gr.HTML(draw_scores(), elem_id="scores")
        with gr.Column(elem_id="npnet"):
            gr.HTML(show_heading("NPNet"))
            if not has_npnet(model):
                gr.HTML(show_hint(explain_missing_npnet(model.spec), "notice"), elem_id="no_npnet")
            controls.place("npnet")
            figures = gr.HTML("", elem_id="figures")
            with gr.Row(elem_id="noises", visible=has_npnet(model)):
                noises = tuple(make_image(label, elem_id, small=True) for label, elem_id in NOISES)
            health = gr.HTML("", elem_id="health")
    verdicts = (standard_verdict, golden_verdict)
    return Stage(standard, golden, slider, *verdicts, figures, noises, health, scores, draw_scores, examples)


def _build_arm(title: str, kind: str) -> tuple[gr.Image, gr.HTML]:
    with gr.Column(elem_classes=f"arm {kind}"):
        gr.HTML(show_heading(title, "arm-name"))
        return make_image(title), gr.HTML("", elem_id=f"{kind}_verdict")


def show_figures(comparison: Comparison) -> str:
    """How long the comparison and NPNet took, and the overhead."""
    pairs = [("total", format_duration(comparison.total_seconds))]
    if "npnet" in comparison.noises:
        pairs.append(("NPNet", format_duration(comparison.npnet_seconds)))
        pairs.append(("overhead per image", f"{100 * comparison.overhead:.1f} %"))
    return show_pairs(pairs, "figures")


def show_noise(comparison: Comparison) -> str:
    """How far the golden noise is from the source noise and from white noise, and both noises' singular values."""
    source, golden = comparison.noises["standard"], comparison.noises["npnet"]
    health = {name: float(value) for name, value in noise_health(golden[None], source[None]).items()}
    pairs = [
        ("change, RMS", f"{health['distance']:.3f}"),
        ("cosine", f"{health['cosine']:.3f}"),
        ("mean, std", f"{health['mean']:.3f}, {health['std']:.3f}"),
        ("whiteness", f"{health['flatness']:.3f}"),
    ]
    return render("noise", pairs=pairs, **draw_spectra(singular_values(source), singular_values(golden)))


def draw_spectra(source: Sequence[float], golden: Sequence[float]) -> dict[str, str | int]:
    """Two falling lines of singular values: the points of an SVG polyline each, and the size of the drawing."""
    width, height, top = 220, 56, max(*source, *golden, 1e-9)

    def line(values: Sequence[float]) -> str:
        step = width / max(1, len(values) - 1)
        return " ".join(f"{i * step:.1f},{height - 2 - (height - 4) * v / top:.1f}" for i, v in enumerate(values))

    return {"width": width, "height": height, "source": line(source), "golden": line(golden)}
