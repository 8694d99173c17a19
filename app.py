"""The app: `python app.py`, then compare standard and golden noise in a browser.

Layout and callbacks only. What happens to noise and pictures is golden's business, and so is what input is allowed.
"""

import ctypes
import importlib.util
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page asks nobody but its own server

try:
    from spaces import GPU as on_gpu  # before torch, on Hugging Face's ZeroGPU; anywhere else it does nothing
except ImportError:

    def on_gpu(run: Callable) -> Callable:
        return run


import gradio as gr
import numpy as np
import pandas as pd
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from eval import short_suite as suites
from eval.tables import Table, format_html
from golden import explore, session, settings
from golden.arms import ARMS
from golden.compare import (
    MAX_GUIDANCE,
    MAX_STEPS,
    MAX_STRENGTH,
    MIN_GUIDANCE,
    Checked,
    CompareRequest,
    Comparison,
    Event,
    Model,
    Progress,
    Rendered,
    Scored,
    compare,
    load_model,
    validate,
)
from golden.drawing import OUTCOMES, draw_change, draw_noise, side_by_side, singular_values, to_png
from golden.errors import ArgumentParser, GoldenError, InvalidInput, run_command
from golden.files import ASSETS
from golden.judges import MODES, JudgeSet
from golden.models import MODELS, ModelSpec
from golden.noise import MAX_SEED, noise_health
from golden.pipelines import MEMORY_MODES, is_spared
from golden.samplers import SAMPLERS
from golden.scoreboard import (
    CHOICES,
    NO_JUDGES,
    Judging,
    choose_judging,
    count_wins,
    describe_scores,
    find_winner,
    show_scoreboard,
)
from golden.shapes import Verdict, sample_caption

UPDATES_PER_SECOND = 8  # of the progress bar; previews come when they come, about four a second
SESSION_SECONDS = 2 * 3600  # how long an idle session's history is kept
CACHE_SECONDS = (900, 7200)  # how often served files are looked through, and how old they may become
MAX_WAITING = 64
MAX_SESSIONS = 64  # whose history is kept; gradio keeps a third of a megabyte for each, and every API call is one
THUMBNAIL = 160
M_ARENA_MAX = -8  # of glibc's mallopt(3)
BLIND_KEYS = "Enter makes a pair; ← left, → right, T tie, B both bad."
SIZE_POLICY = (
    "In pixels, at most twice the model's own, which is taken where nothing stands. NPNet knows one size: larger noise "
    "it sees through overlapping windows, smaller noise with a margin. Noise is never resized."
)
NO_SUITE = "The short suite is of the shapes world; eval/run_benchmark.py measures any model."

# A listener of the page itself: no endpoint, and its input reaches golden's validator as the browser sent it.
PAGE: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "show_progress": "hidden"}

SHAPES_EXAMPLES = (
    ("a red circle left of a blue square", 3),
    ("three yellow stars", 5),
    ("a green heart above a purple cross", 8),
    ("an orange triangle and a blue circle", 2),
)
OTHER_EXAMPLES = (
    ("a red bicycle leaning on a blue door, morning light", 3),
    ("three cats on a windowsill, watercolour", 5),
    ("an astronaut reading in a library, oil painting", 8),
)


# --- pieces of the page ----------------------------------------------------------------------------------------------
# Text that a person wrote goes through `escape` on its way into any of these, without exception.


def show_status(text: str, kind: str = "quiet", share: float | None = None) -> str:
    """The status line; kind is quiet, running or error, `share` how much is done, from 0 to 1."""
    role = "alert" if kind == "error" else "status"
    bar = "" if share is None else f'<i class="bar"><i style="width:{100 * share:.0f}%"></i></i>'
    return f'<div class="status {kind}" role="{role}"><span>{escape(text)}</span>{bar}</div>'


def show_verdict(verdict: Verdict | None, wins: bool = False) -> str:
    """What the checker says of a picture, with a badge on the better of two."""
    if verdict is None:
        return ""
    word = "✓ right" if verdict.correct else "✗ wrong"
    badge = '<b class="badge">wins</b>' if wins else ""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    kind = "right" if verdict.correct else "wrong"
    return f'<div class="verdict {kind}"><p><b>{word}</b>{badge}</p><ul>{reasons}</ul></div>'


def show_figures(comparison: Comparison) -> str:
    """Milliseconds of NPNet and of the whole, and the overhead."""
    pairs = [("whole run", _duration(comparison.total_seconds))]
    if "npnet" in comparison.noises:
        pairs.append(("NPNet", _duration(comparison.npnet_seconds)))
        pairs.append(("overhead a picture", f"{100 * comparison.overhead:.1f} %"))
    return _list_of(pairs, "figures")


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 0.1 else f"{1000 * seconds:,.0f} ms"


def _list_of(pairs: Sequence[tuple[str, str]], kind: str) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="{kind}">{items}</dl>'


def show_noise(comparison: Comparison) -> str:
    """Figures of the golden noise's health beside the source noise, and both spectra of singular values."""
    source, golden = comparison.noises["standard"], comparison.noises["npnet"]
    health = {name: float(value) for name, value in noise_health(golden[None], source[None]).items()}
    pairs = [
        ("change, rms", f"{health['distance']:.3f}"),
        ("cosine", f"{health['cosine']:.3f}"),
        ("mean, std", f"{health['mean']:.3f}, {health['std']:.3f}"),
        ("whiteness", f"{health['flatness']:.3f}"),
    ]
    return _list_of(pairs, "health") + draw_spectra(singular_values(source), singular_values(golden))


def draw_spectra(source: Sequence[float], golden: Sequence[float]) -> str:
    """Two falling lines of singular values as a small SVG."""
    width, height, top = 220, 56, max(*source, *golden, 1e-9)

    def line(values: Sequence[float], kind: str) -> str:
        step = width / max(1, len(values) - 1)
        points = " ".join(f"{i * step:.1f},{height - 2 - (height - 4) * v / top:.1f}" for i, v in enumerate(values))
        return f'<polyline class="{kind}" points="{points}"/>'

    lines = line(source, "source") + line(golden, "golden")
    label = "Singular values of the source noise (grey) and of the golden noise (gold), the largest first"
    return (
        f'<figure class="spectra"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{lines}</svg>'
        "<figcaption>singular values: source grey, golden gold</figcaption></figure>"
    )


def read_asset(name: str) -> str:
    """A stylesheet, script or drawing of the page."""
    return (ASSETS / "app" / name).read_text(encoding="utf-8")


def close_in_background(events: Iterator) -> None:
    """Stop a comparison without waiting for the step that is being computed."""
    threading.Thread(target=events.close, name="stop", daemon=True).start()  # type: ignore[attr-defined]


Watch = Callable[[CompareRequest], Generator[Event]]


def make_watch(model: Model, judges: JudgeSet | None = None) -> Watch:
    """A function from a request to the events of its comparison, with no more progress than a person can see.

    Closing what it returns stops the run.
    """

    # Pictures, noises and scores come out of one generator because ZeroGPU lends its device to one function at a time.
    # That function runs in a process of its own, out of which errors come only as values.
    @on_gpu
    def run(request: CompareRequest) -> Generator[Event | GoldenError]:
        try:
            yield from compare(request, model, judges)
        except GoldenError as error:
            yield error

    def watch(request: CompareRequest) -> Generator[Event]:
        events, shown = run(request), 0.0
        try:
            for event in events:
                if isinstance(event, GoldenError):
                    raise event
                plain = isinstance(event, Progress) and not event.previews and event.step
                if plain and time.monotonic() - shown < 1 / UPDATES_PER_SECOND:
                    continue
                shown = time.monotonic()
                yield event
        finally:
            close_in_background(events)

    return watch


def show_progress(event: Progress) -> str:
    """The status line while a comparison runs."""
    if not event.step:
        return show_status("Waiting for another comparison to end …", "running", 0)
    return show_status(f"Step {event.step} of {event.num_steps}", "running", event.step / event.num_steps)


def show_scoring(comparison: Comparison, judges: JudgeSet | None) -> str:
    """The status line while judges score."""
    done, total = len(comparison.scores) + len(comparison.unavailable), len(judges.names) if judges else 0
    return show_status(f"Scored by {done} of {total} judges", "running", done / max(1, total))


def arms_of(model: Model) -> tuple[str, ...]:
    """What the page compares: without an NPNet there is only the standard picture."""
    return ("standard", "npnet") if model.npnet is not None else ("standard",)


def make_request(model: Model, values: Sequence[Any]) -> CompareRequest:
    """The request that the values of `Controls.inputs` say, nothing of it checked."""
    return CompareRequest(**dict(zip(Controls.NAMES, values, strict=True)), arms=arms_of(model))


def explain_missing_npnet(spec: ModelSpec) -> str:
    """One sentence for a model that has no NPNet."""
    return (
        f"There is no NPNet for {spec.title or spec.name}, so only the standard picture is made: "
        "train one with train/train_npnet.py, or start the app with --npnet FILE."
    )


def new_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


# --- Compare ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Controls:
    """The inputs of a comparison by the names of CompareRequest, and what sets them off."""

    NAMES: ClassVar = (*settings.NAMES, "control")

    prompt: gr.Textbox
    seed: gr.Number
    num_inference_steps: gr.Slider
    guidance_scale: gr.Slider
    sampler: gr.Dropdown
    strength: gr.Slider
    height: gr.Number
    width: gr.Number
    control: gr.State  # the picture that a ControlNet is shown
    lock: gr.Checkbox
    opened: gr.State  # a new value here runs the comparison that the inputs describe
    status: gr.HTML

    @property
    def inputs(self) -> list[gr.Component]:
        return [getattr(self, name) for name in self.NAMES]

    def open(self, request: CompareRequest) -> dict:
        """Updates that fill in a request and run it as it is: a seed that was asked for is kept.

        A link and a file hold no control picture: the one at hand stays.
        """
        filled = {getattr(self, name): getattr(request, name) for name in settings.NAMES}
        shown = {self.control: request.control} if request.control is not None else {}
        return filled | shown | {self.lock: True, self.opened: secrets.token_hex(8)}

    @property
    def opens(self) -> list[gr.Component]:
        return [*self.inputs, self.lock, self.opened, self.status]


@dataclass(frozen=True)
class Stage:
    """Where a comparison shows."""

    standard: gr.Image
    golden: gr.Image
    slider: gr.ImageSlider
    standard_verdict: gr.HTML
    golden_verdict: gr.HTML
    figures: gr.HTML
    noises: tuple[gr.Image, gr.Image, gr.Image]
    health: gr.HTML
    scores: gr.HTML
    draw_scores: Callable[..., str]  # the scoreboard of a comparison, or of none yet

    def show_pictures(self, standard: Image.Image, golden: Image.Image | None) -> dict:
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
        """Everything of a finished comparison; the pictures carry their settings."""
        labelled, verdicts = settings.label_images(comparison, spec), comparison.verdicts
        winner = find_winner(verdicts)
        shown: dict = self.show_pictures(labelled["standard"], labelled.get("npnet"))
        shown[self.standard_verdict] = show_verdict(verdicts.get("standard"), winner == "standard")
        shown[self.golden_verdict] = show_verdict(verdicts.get("npnet"), winner == "npnet")
        shown[self.figures] = show_figures(comparison)
        shown |= self.show_scores(comparison)
        if "npnet" in comparison.noises:
            source, golden = comparison.noises["standard"], comparison.noises["npnet"]
            pictures = (draw_noise(source), draw_noise(golden), draw_change(source, golden))
            shown |= dict(zip(self.noises, pictures, strict=True)) | {self.health: show_noise(comparison)}
        return shown

    @property
    def outputs(self) -> list[gr.Component]:
        words = [self.standard_verdict, self.golden_verdict, self.figures, self.health, self.scores]
        return [self.standard, self.golden, self.slider, *words, *self.noises]


def build_compare(model: Model, watch: Watch, records: gr.State, judging: Judging) -> Controls:
    """The Compare tab."""
    spec, draw_scores = model.spec, partial(show_scoreboard, judging, arms_of(model))
    with gr.Row(elem_id="bench"):
        with gr.Column(elem_id="ask"):
            prompt = gr.Textbox(
                label="Prompt",
                value=_examples(spec)[0][0],
                lines=1,
                max_lines=4,
                elem_id="prompt",
                placeholder="What should the picture show?",
            )
            with gr.Row(elem_id="go"):
                start = gr.Button("Compare", variant="primary", elem_id="compare_button")
                stop = gr.Button("Stop", variant="stop", elem_id="stop_button")
                reroll = gr.Button("Reroll", elem_id="reroll_button", min_width=64)
            status = gr.HTML(show_status("Enter compares, R rerolls, F flips, arrows slide."), elem_id="status")
            control = build_control(spec, status)
        with gr.Column(elem_id="settings"):
            with gr.Row(elem_id="seed_row"):
                seed = gr.Number(
                    label="Seed", value=_examples(spec)[0][1], precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed"
                )
                lock = gr.Checkbox(label="Lock", value=True, elem_id="lock", min_width=64, container=False)
            steps = gr.Slider(1, MAX_STEPS, value=spec.num_inference_steps, step=1, label="Steps", elem_id="steps")
            guidance = gr.Slider(
                MIN_GUIDANCE, MAX_GUIDANCE, value=spec.guidance_scale, step=0.1, label="Guidance", elem_id="guidance"
            )
            sampler = gr.Dropdown(list(SAMPLERS), value=spec.sampler, label="Sampler", elem_id="sampler")
            with gr.Accordion("Size", open=False, elem_id="size"):
                with gr.Row(elem_id="sides"):
                    height = gr.Number(label="Height", precision=0, min_width=60, elem_id="height")
                    width = gr.Number(label="Width", precision=0, min_width=60, elem_id="width")
                gr.HTML(f'<p class="hint">{SIZE_POLICY}</p>')
            with gr.Accordion("Share and restore", open=False, elem_id="share"):
                copy_link = gr.Button("Copy link", size="sm", elem_id="copy_link")
                restore_png = gr.UploadButton(
                    "Restore from a PNG", file_types=[".png"], type="binary", size="sm", elem_id="restore_png"
                )
                text = gr.Textbox(label="Settings as JSON", lines=4, max_lines=9, elem_id="json", buttons=["copy"])
                apply = gr.Button("Open these settings", size="sm", elem_id="apply_json")
        with gr.Column(elem_id="stage", elem_classes="view-pair"):
            gr.HTML(read_asset("views.html"), elem_id="views")
            with gr.Row(elem_id="pictures"):
                with gr.Column(elem_classes="arm standard"):
                    gr.HTML('<h3 class="arm-name">Standard noise</h3>')
                    standard = _picture("Standard noise")
                    standard_verdict = gr.HTML("", elem_id="standard_verdict")
                with gr.Column(elem_classes="arm golden"):
                    gr.HTML('<h3 class="arm-name">Golden noise</h3>')
                    golden = _picture("Golden noise")
                    golden_verdict = gr.HTML("", elem_id="golden_verdict")
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
            chips = _build_examples(spec)
        with gr.Column(elem_id="side"):
            with gr.Column(elem_id="judged"):
                scores = gr.HTML(draw_scores(), elem_id="scores")
            with gr.Column(elem_id="npnet"):
                gr.HTML("<h3>NPNet</h3>")
                if model.npnet is None:
                    gr.HTML(f'<p class="notice">{escape(explain_missing_npnet(spec))}</p>', elem_id="no_npnet")
                strength = gr.Slider(
                    0, MAX_STRENGTH, value=1, step=0.05, label="Strength", elem_id="strength", visible=_if_npnet(model)
                )
                figures = gr.HTML("", elem_id="figures")
                with gr.Row(elem_id="noises", visible=_if_npnet(model)):
                    noises = tuple(
                        _picture(label, elem_id=name, small=True)
                        for label, name in (
                            ("source", "noise_before"),
                            ("golden", "noise_after"),
                            ("change", "noise_change"),
                        )
                    )
                health = gr.HTML("", elem_id="health")
    opened = gr.State(None)
    sides = (height, width)
    controls = Controls(prompt, seed, steps, guidance, sampler, strength, *sides, control, lock, opened, status)
    verdicts = (standard_verdict, golden_verdict)
    stage = Stage(standard, golden, slider, *verdicts, figures, noises, health, scores, draw_scores)  # type: ignore
    triggers = [start.click, prompt.submit, opened.change]
    _connect_run(model, watch, judging, controls, stage, records, text, triggers, stop)
    _connect_openers(model, controls, reroll, chips, text, apply, restore_png, copy_link)
    return controls


def build_control(spec: ModelSpec, status: gr.HTML) -> gr.State:
    """Where a ControlNet gets its picture; a state that stays empty for other models."""
    control = gr.State(None, time_to_live=SESSION_SECONDS)
    if not spec.is_steered:
        return control
    upload = gr.UploadButton(
        "Control picture",
        file_types=[".png", ".jpg", ".jpeg", ".webp"],
        type="binary",
        size="sm",
        elem_id="control_upload",
    )
    shown = _picture("Control picture", elem_id="control")

    def take(data: Any) -> dict:
        try:
            return {control: settings.read_control(data), status: show_status("The control picture is there.")}
        except GoldenError as error:
            return {status: show_status(str(error), "error")}

    upload.upload(take, [upload], [control, status], **(PAGE | {"preprocess": True}))
    control.change(lambda picture: picture, [control], [shown], **PAGE)
    return control


def _if_npnet(model: Model) -> bool:
    return model.npnet is not None


def _picture(label: str, elem_id: str | None = None, small: bool = False) -> gr.Image:
    """A picture that is shown, never uploaded, and served without loss."""
    return gr.Image(
        label=label,
        alt_text=label,
        format="png",
        type="pil",
        interactive=False,
        show_label=small,
        container=small,
        buttons=[] if small else ["download", "fullscreen"],
        elem_id=elem_id,
        elem_classes="picture",
    )


def _examples(spec: ModelSpec) -> tuple[tuple[str, int], ...]:
    return SHAPES_EXAMPLES if spec.is_shapes else OTHER_EXAMPLES


def _build_examples(spec: ModelSpec) -> list[tuple[gr.Button, str, int]]:
    with gr.Row(elem_id="examples"):
        return [(gr.Button(text, size="sm", min_width=40), text, seed) for text, seed in _examples(spec)]


def _connect_run(
    model: Model,
    watch: Watch,
    judging: Judging,
    controls: Controls,
    stage: Stage,
    records: gr.State,
    text: gr.Textbox,
    triggers: list,
    stop: gr.Button,
) -> None:
    spec = model.spec

    def run(*values: Any) -> Any:
        *filled, lock, kept = values
        request = make_request(model, filled)
        if not lock:
            request = replace(request, seed=new_seed())
        try:
            request = validate(request, spec)
            yield {controls.seed: request.seed, controls.status: show_status("Starting …", "running", 0)}
            made = kept
            for event in watch(request):
                if isinstance(event, Progress):
                    yield stage_previews(event) | {controls.status: show_progress(event)}
                elif isinstance(event, Rendered):
                    pictures = stage.show_pictures(event.images["standard"], event.images.get("npnet"))
                    yield stage.clear_words() | pictures
                elif isinstance(event, Scored):
                    scoring = show_scoring(event.comparison, judging.judges)
                    yield stage.show_scores(event.comparison) | {controls.status: scoring}
                elif isinstance(event, Checked):
                    made = session.add_record(kept, event.comparison, spec)
                    scoring = show_scoring(event.comparison, judging.judges)
                    yield present(event.comparison, made) | {controls.status: scoring}
                elif judging.judges is not None:  # all but the last words were shown as it was checked
                    made = session.add_scores(made, event, judging.weights)
                    yield {controls.status: show_status(_summary(event)), records: made}
                else:
                    made = session.add_record(kept, event, spec)
                    yield present(event, made) | {controls.status: show_status(_summary(event))}
        except GoldenError as error:
            yield {controls.status: show_status(str(error), "error")}

    def present(comparison: Comparison, made: list[session.Record]) -> dict:
        described = settings.to_json(comparison.request, spec)
        return stage.show(comparison, spec) | {text: described, records: made}

    def stage_previews(event: Progress) -> dict:
        if not event.previews:
            return {}
        pictures = dict(zip(arms_of(model), event.previews, strict=True))
        return stage.show_pictures(pictures["standard"], pictures.get("npnet")) | stage.clear_words()

    running = gr.on(
        triggers,
        run,
        [*controls.inputs, controls.lock, records],
        [*stage.outputs, controls.seed, controls.status, text, records],
        concurrency_id="compare",
        concurrency_limit=1,
        trigger_mode="always_last",  # an example chosen while another runs is run after it
        **(PAGE | {"show_progress": "minimal", "show_progress_on": [controls.status]}),
    )
    running.then(None, [text], None, js="(text) => window.golden.setLink(text)", api_visibility="private")
    connect_stop(stop, running, controls.status, "Stopped.")


def connect_stop(stop: gr.Button, running: Any, status: gr.HTML, words: str) -> None:
    """Let a button end what runs, and say so by the queue: a step that was still on its way comes before the words."""
    stopped = stop.click(None, None, None, cancels=[running], queue=False, api_visibility="private")
    stopped.then(lambda: show_status(words), None, status, **PAGE)


def _summary(comparison: Comparison) -> str:
    """One line on what came out."""
    verdicts, scores = comparison.verdicts, comparison.scores
    took, said = f"{comparison.total_seconds:.1f} s", []
    if {"standard", "npnet"} <= set(verdicts):
        sides = ["right" if verdicts[arm].correct else "wrong" for arm in ("standard", "npnet")]
        said.append(f"standard {sides[0]}, golden {sides[1]}")
    if scores and len(comparison.images) == 2:
        said.append(f"golden won {count_wins(scores)} of {len(scores)} scores")
    return f"{'; '.join(said or ['done']).capitalize()}, in {took}."


def _connect_openers(
    model: Model,
    controls: Controls,
    reroll: gr.Button,
    chips: list[tuple[gr.Button, str, int]],
    text: gr.Textbox,
    apply: gr.Button,
    restore_png: gr.UploadButton,
    copy_link: gr.Button,
) -> None:
    """Whatever fills in a comparison and runs it: reroll, examples, a link, JSON, a PNG."""
    spec = model.spec

    def opener(read: Callable[..., CompareRequest | None]) -> Callable[..., dict]:
        def open_it(*values: Any) -> dict:
            try:
                request = read(*values)
            except GoldenError as error:
                return {controls.status: show_status(str(error), "error")}
            return controls.open(request) if request else {controls.status: gr.skip()}

        return open_it

    def open_link(request: gr.Request) -> dict:
        return opener(settings.from_query)(dict(request.query_params), spec)

    def open_png(data: Any) -> dict:
        return opener(settings.from_png)(data, spec)

    def open_json(value: Any) -> dict:
        return opener(settings.from_json)(value, spec)

    def open_example(prompt: str, seed: int) -> dict:
        return controls.open(settings.default_request(spec, prompt=prompt, seed=seed))

    def roll() -> dict:
        return {controls.seed: new_seed(), controls.opened: secrets.token_hex(8)}

    reroll.click(roll, None, [controls.seed, controls.opened], **PAGE)
    for button, prompt, seed in chips:
        button.click(partial(open_example, prompt, seed), None, controls.opens, **PAGE)
    apply.click(open_json, [text], controls.opens, **PAGE)
    restore_png.upload(open_png, [restore_png], controls.opens, **(PAGE | {"preprocess": True}))
    copy_link.click(None, None, None, js="() => window.golden.copyLink()", api_visibility="private")
    blocks = gr.context.Context.root_block
    assert blocks is not None
    blocks.load(open_link, None, controls.opens, **PAGE)


# --- the API ---------------------------------------------------------------------------------------------------------


def build_api(model: Model, watch: Watch, judging: Judging) -> None:
    """The endpoint `/compare`: the comparison for programs, with plain JSON in the place of the page's words."""
    spec = model.spec

    def describe(comparison: Comparison) -> dict[str, Any]:
        return settings.describe(comparison, spec) | describe_scores(comparison, judging.weights)

    with gr.Column(visible=False):
        inputs = [
            gr.Textbox(label="prompt"),
            gr.Number(value=0, label="seed"),
            gr.Number(value=spec.num_inference_steps, label="num_inference_steps"),
            gr.Number(value=spec.guidance_scale, label="guidance_scale"),
            gr.Textbox(value=spec.sampler, label="sampler"),
            gr.Number(value=1.0, label="strength"),
        ]
        outputs = [_picture("standard"), _picture("golden"), gr.JSON(label="result")]
        trigger = gr.Button()

    # The name and the words below are what a program reads about the endpoint, and an MCP client about the tool.
    def compare(
        prompt: Any, seed: Any, num_inference_steps: Any, guidance_scale: Any, sampler: Any, strength: Any
    ) -> Any:
        """Compare standard and golden noise: two pictures of one prompt, and what the checker and the judges say.

        Until then it yields previews and the step reached, then the result so far as each judge finishes; cancelling
        stops within a step or judge.

        Args:
            prompt: what both pictures show
            seed: of the source noise, a whole number
            num_inference_steps: of denoising
            guidance_scale: how strongly the prompt guides; 1 is not at all
            sampler: such as ddim, euler or dpm; a wrong name is answered with the list
            strength: of NPNet's change to the source noise; 0 is none, 1 is its own

        Returns:
            the standard picture, the golden picture, and as JSON the settings, verdicts, scores and seconds
        """
        request = CompareRequest(prompt, seed, num_inference_steps, guidance_scale, sampler, strength)
        try:
            for event in watch(request):
                if isinstance(event, Progress):
                    standard, golden = event.previews or (gr.skip(), gr.skip())
                    yield standard, golden, {"step": event.step, "num_steps": event.num_steps}
                elif isinstance(event, Scored):
                    yield gr.skip(), gr.skip(), describe(event.comparison)
                elif isinstance(event, Checked | Comparison):
                    comparison = event.comparison if isinstance(event, Checked) else event
                    images = settings.label_images(comparison, spec)
                    yield images["standard"], images["npnet"], describe(comparison)
        except GoldenError as error:
            raise gr.Error(escape(str(error), quote=False), print_exception=False) from None

    trigger.click(
        compare,
        inputs,
        outputs,
        api_name="compare",
        preprocess=False,
        concurrency_id="compare",
        concurrency_limit=1,
    )


# --- Explore ---------------------------------------------------------------------------------------------------------


def build_explore(model: Model, watch: Watch, controls: Controls) -> None:
    """The Explore tab: prompts down, one setting across, who is right where."""
    spec = model.spec
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="side"):
            prompts = gr.Textbox(
                label="Prompts, one a line",
                value="\n".join(prompt for prompt, _ in _examples(spec)),
                lines=5,
                max_lines=12,
                elem_id="grid_prompts",
            )
            axis = gr.Dropdown(
                [(words, name) for name, words in explore.AXES.items()],
                value="seed",
                label="Across",
                elem_id="grid_axis",
            )
            values = gr.Textbox(label="Values: 0, 1, 2 or 0..7", value="0..3", lines=1, elem_id="grid_values")
            gr.HTML('<p class="hint">All other settings are those of Compare.</p>')
            with gr.Row(elem_classes="go"):
                start = gr.Button("Run the grid", variant="primary", elem_id="grid_button")
                stop = gr.Button("Stop", variant="stop", elem_id="grid_stop")
            status = gr.HTML("", elem_id="grid_status")
            outcomes = gr.HTML("", elem_id="grid_outcomes")
            with gr.Row(elem_classes="downloads"):
                as_png = gr.DownloadButton("PNG", size="sm", visible=False, elem_id="grid_png")
                as_csv = gr.DownloadButton("CSV", size="sm", visible=False, elem_id="grid_csv")
        with gr.Column(elem_classes="main"):
            sheet = gr.Image(
                label="Grid",
                alt_text="A grid of comparisons with the winners' map",
                format="png",
                type="pil",
                interactive=False,
                show_label=False,
                container=False,
                buttons=["fullscreen"],
                elem_id="grid",
            )

    def files(grid: explore.Grid, picture: Image.Image) -> dict:
        return {
            as_png: _download(as_png, to_png(picture), "golden-grid.png"),
            as_csv: _download(as_csv, explore.grid_to_csv(grid).encode(), "golden-grid.csv"),
        }

    def run(prompts: Any, axis: Any, values: Any, *base: Any) -> Any:
        try:
            grid = explore.plan_grid(make_request(model, base), prompts, axis, values, spec)
            total, known, shown = len(grid.requests), 0, 0.0
            yield {status: show_status(f"0 of {total}", "running", 0), as_png: gr.update(visible=False)}
            for done in explore.run_grid(grid, watch):
                update: dict = {status: show_status(f"{done} of {total}", "running", done / total)}
                if done > known and (time.monotonic() - shown > 1 or done == total):
                    picture, known, shown = explore.grid_to_image(grid, spec), done, time.monotonic()
                    update |= {sheet: picture, outcomes: show_outcomes(grid)} | files(grid, picture)
                yield update
            yield {status: show_status(f"{total} comparisons.")}
        except GoldenError as error:
            yield {status: show_status(str(error), "error")}

    running = start.click(
        run,
        [prompts, axis, values, *controls.inputs],
        [sheet, status, outcomes, as_png, as_csv],
        concurrency_id="explore",
        concurrency_limit=2,
        **PAGE,
    )
    connect_stop(stop, running, status, "Stopped; what is done stays.")


def show_outcomes(grid: explore.Grid) -> str:
    """How often who was right."""
    counts = explore.count_outcomes(grid)
    pairs = [(OUTCOMES[name][0], str(count)) for name, count in counts.items()] if any(counts.values()) else []
    return _list_of(pairs, "outcomes") if pairs else ""


def _download(button: gr.DownloadButton, data: bytes, name: str) -> Any:
    """A download button that hands out `data`."""
    return gr.update(value=save_bytes_to_cache(data, name, button.GRADIO_CACHE), visible=True)


# --- Blind -----------------------------------------------------------------------------------------------------------


def build_blind(model: Model, watch: Watch, controls: Controls) -> None:
    """The Blind tab: vote on two pictures without knowing which is which."""
    spec = model.spec
    pair, votes = gr.State(None, time_to_live=SESSION_SECONDS), gr.State([], time_to_live=SESSION_SECONDS)
    with gr.Column(elem_classes="narrow", elem_id="blind"):
        with gr.Row(elem_id="blind_ask"):
            prompt = gr.Textbox(
                label="Prompt",
                placeholder="empty: a random caption" if spec.is_shapes else "what both pictures show",
                lines=1,
                elem_id="blind_prompt",
            )
            start = gr.Button("New pair", variant="primary", elem_id="blind_button")
            stop = gr.Button("Stop", variant="stop", elem_id="blind_stop")
        status = gr.HTML(show_status("Two pictures, one of golden noise: which shows the prompt better?"))
        gr.HTML(f'<p class="hint keys">{BLIND_KEYS}</p>')
        with gr.Row(elem_id="blind_pictures"):
            sides = [_picture(name, elem_id=f"blind_{name}") for name in ("left", "right")]
        with gr.Row(elem_id="votes"):
            buttons = [
                gr.Button(vote.capitalize(), interactive=False, elem_id=f"vote_{vote.replace(' ', '_')}", min_width=70)
                for vote in session.VOTES
            ]
        reveal = gr.HTML("", elem_id="reveal")
        tally = gr.HTML("", elem_id="tally")
        as_csv = gr.DownloadButton("Votes as CSV", size="sm", visible=False, elem_id="blind_csv")

    def can_vote(allowed: bool) -> dict:
        return {button: gr.update(interactive=allowed) for button in buttons}

    def run(wanted: Any, *base: Any) -> Any:
        if spec.is_shapes and (wanted is None or wanted == ""):
            wanted = sample_caption(np.random.default_rng())
        try:
            if model.npnet is None:
                raise InvalidInput(explain_missing_npnet(spec))
            request = validate(replace(make_request(model, base), prompt=wanted, seed=new_seed()), spec)
            yield can_vote(False) | {reveal: "", pair: None}
            for event in watch(request):
                if isinstance(event, Progress):
                    yield {status: show_progress(event)}
                elif isinstance(event, Comparison):
                    order = ("standard", "npnet") if secrets.randbelow(2) else ("npnet", "standard")
                    pictures = {side: event.images[arm] for side, arm in zip(sides, order, strict=True)}
                    asked = {status: show_status(request.prompt), pair: (request, order, event.verdicts)}
                    yield pictures | asked | can_vote(True)
        except GoldenError as error:
            yield {status: show_status(str(error), "error")}

    def give(vote: str, current: Any, given: list) -> dict:
        if current is None:
            return {status: show_status("There is no pair to vote on: press New pair.", "error")}
        request, order, verdicts = current
        given = [*given, session.count_vote(request, order, vote)]
        return can_vote(False) | {
            pair: None,
            votes: given,
            reveal: show_reveal(order, verdicts),
            tally: show_tally(given),
            as_csv: _download(as_csv, session.votes_to_csv(given).encode(), "golden-votes.csv"),
        }

    running = gr.on(
        [start.click, prompt.submit],
        run,
        [prompt, *controls.inputs],
        [*sides, status, reveal, pair, *buttons],
        concurrency_id="compare",
        concurrency_limit=1,
        **PAGE,
    )
    connect_stop(stop, running, status, "Stopped.")
    for button, vote in zip(buttons, session.VOTES, strict=True):
        button.click(partial(give, vote), [pair, votes], [*buttons, pair, votes, reveal, tally, as_csv, status], **PAGE)


def show_reveal(order: tuple[str, str], verdicts: dict[str, Verdict]) -> str:
    """Which picture was which, and what the checker says of it."""
    names = {"standard": "standard noise", "npnet": "golden noise"}
    sides = "".join(
        f'<div class="{arm}"><h3 class="arm-name">{names[arm]}</h3>{show_verdict(verdicts.get(arm))}</div>'
        for arm in order
    )
    return f'<div class="reveal">{sides}</div>'


def show_tally(votes: Sequence[session.Vote]) -> str:
    """The session's win rate of golden noise among decided votes, with its interval."""
    won = [vote.winner for vote in votes]
    wins, decided = won.count("npnet"), won.count("npnet") + won.count("standard")
    share, low, high = session.win_rate(wins, decided)
    rate = f"{100 * share:.0f} %" if decided else "–"
    pairs = [
        ("golden preferred", f"{wins} of {decided}"),
        ("win rate", rate),
        ("95 % interval", f"{100 * low:.0f} to {100 * high:.0f} %"),
        ("ties, both bad", f"{won.count('tie')}, {won.count('both bad')}"),
    ]
    return _list_of(pairs, "figures")


# --- History ---------------------------------------------------------------------------------------------------------


def build_history(tab: gr.Tab, tabs: gr.Tabs, spec: ModelSpec, records: gr.State, controls: Controls) -> None:
    """The History tab: the session's comparisons, searched, opened again, exported."""
    found = gr.State([], time_to_live=SESSION_SECONDS)  # the numbers of the records that the gallery shows
    with gr.Column(elem_classes="narrow"):
        with gr.Row(elem_id="history_bar"):
            words = gr.Textbox(
                label="Search",
                placeholder="words of the prompt, the sampler, the seed",
                lines=1,
                elem_id="history_search",
                scale=4,
            )
            as_zip = gr.DownloadButton("Export as ZIP", size="sm", visible=False, elem_id="history_zip")
        status = gr.HTML(show_status("Comparisons of this session will stand here."), elem_id="history_status")
        gallery = gr.Gallery(
            label="Comparisons",
            show_label=False,
            format="png",
            type="pil",
            columns=4,
            allow_preview=False,
            interactive=False,
            container=False,
            object_fit="contain",
            buttons=[],
            elem_id="gallery",
        )

    def show(kept: Sequence[session.Record], wanted: Any) -> dict:
        matching = session.search(kept, wanted)
        said = f"{len(matching)} of {len(kept)} comparisons; choose one to open it again." if kept else "Nothing yet."
        return {
            gallery: [(_thumbnail(record), _caption(record)) for record in matching],
            found: [record.number for record in matching],
            status: show_status(said),
            as_zip: _download(as_zip, session.records_to_zip(matching[::-1]), "golden-history.zip")
            if matching
            else gr.update(visible=False),
        }

    def open_again(kept: Sequence[session.Record], shown: Sequence[int], event: gr.SelectData) -> dict:
        numbers = dict(enumerate(shown))
        number = numbers.get(event.index) if isinstance(event.index, int) else None
        for record in kept:
            if record.number == number:
                return controls.open(record.request) | {tabs: gr.Tabs(selected="compare")}
        return {status: show_status("That comparison is no longer kept.", "error")}

    gr.on([tab.select, words.change], show, [records, words], [gallery, found, status, as_zip], **PAGE)
    gallery.select(open_again, [records, found], [*controls.opens, tabs, status], **PAGE)


def _thumbnail(record: session.Record) -> Image.Image:
    return side_by_side([session.open_picture(png) for png in record.pictures.values()], THUMBNAIL)


def _caption(record: session.Record) -> str:
    marks = {True: "✓", False: "✗"}
    verdicts = "".join(marks[verdict["correct"]] for verdict in record.described["verdicts"].values())
    scores = record.described.get("scores", {})
    won = f" · golden {count_wins(scores)} of {len(scores)}" if scores and len(record.pictures) == 2 else ""
    return f"{verdicts} {record.request.prompt} · {record.request.seed}{won}"


# --- Benchmark -------------------------------------------------------------------------------------------------------


def build_benchmark(tab: gr.Tab, model: Model, judging: Judging, controls: Controls, runs: Path | None) -> None:
    """The Benchmark tab: a short suite on the spot, or a finished report of eval/run_benchmark.py."""
    spec, turn = model.spec, threading.Lock()
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="side"):
            with gr.Column(visible=spec.is_shapes, elem_id="suite"):
                arms = gr.CheckboxGroup(
                    [arm for arm in ARMS if arm != "standard"],
                    value=[arm for arm in arms_of(model) if arm != "standard"],
                    label="Arms, each against standard",
                    elem_id="suite_arms",
                )
                num_prompts = gr.Slider(
                    suites.MIN_PROMPTS, suites.MAX_PROMPTS, value=16, step=1, label="Prompts", elem_id="suite_prompts"
                )
                num_seeds = gr.Slider(1, suites.MAX_SEEDS, value=1, step=1, label="Seeds", elem_id="suite_seeds")
                gr.HTML('<p class="hint">Prompts spread over the test set; settings but the size as in Compare.</p>')
                with gr.Row(elem_classes="go"):
                    start = gr.Button("Run the short suite", variant="primary", elem_id="suite_button")
                    stop = gr.Button("Stop", variant="stop", elem_id="suite_stop")
            status = gr.HTML("" if spec.is_shapes else show_status(NO_SUITE), elem_id="suite_status")
            as_csv = gr.DownloadButton("Rows as CSV", size="sm", visible=False, elem_id="suite_csv")
            reports = gr.Dropdown([], value=None, label="Finished reports", elem_id="reports", visible=runs is not None)
        with gr.Column(elem_classes="main"):
            shown = gr.HTML(read_asset("no_report.html"), elem_id="report")

    def run(chosen: Any, num_prompts: Any, num_seeds: Any, *base: Any) -> Any:
        if not turn.acquire(blocking=False):
            yield {status: show_status("Another short suite is running: wait for its end.", "error")}
            return
        try:
            suite = suites.plan_suite(make_request(model, base), chosen, num_prompts, num_seeds, spec)
            total, parts = len(suite.batches), []
            yield {status: show_status(f"0 of {total} batches", "running", 0), as_csv: gr.update(visible=False)}
            for part in suites.run_suite(suite, model, judging.judges):
                parts.append(part)
                rows, said = pd.concat(parts), f"{len(parts)} of {total} batches"
                yield {
                    status: show_status(said, "running", len(parts) / total),
                    shown: show_tables(suites.make_tables(rows, suite), len(rows)),
                    as_csv: _download(as_csv, rows.to_csv(index=False).encode(), "golden-suite.csv"),
                }
            yield {status: show_status(f"{len(rows)} pictures.")}
        except GoldenError as error:
            yield {status: show_status(str(error), "error")}
        finally:
            turn.release()

    def list_again() -> Any:
        return gr.update(choices=suites.list_reports(runs)) if runs else gr.skip()

    def open_report(name: Any) -> dict:
        if runs is None or name is None:
            return {status: gr.skip()}
        try:
            return {shown: show_report(suites.read_report(runs, name)), status: ""}
        except GoldenError as error:
            return {status: show_status(str(error), "error")}

    running = start.click(
        run,
        [arms, num_prompts, num_seeds, *controls.inputs],
        [shown, status, as_csv],
        concurrency_id="benchmark",
        concurrency_limit=2,  # so that the second is told to wait, and at once
        **PAGE,
    )
    connect_stop(stop, running, status, "Stopped; what is done stays.")
    tab.select(list_again, None, [reports], **PAGE)
    reports.input(open_report, [reports], [shown, status], **PAGE)


def show_tables(tables: Sequence[Table], num_pictures: int) -> str:
    """What every arm does against standard so far."""
    note = f"{num_pictures} pictures so far. Intervals: bootstrap over prompts; so few prompts show large effects only."
    return (
        '<div class="report tables" tabindex="0" role="region" aria-label="Short suite">'
        f'{"".join(map(format_html, tables))}<p class="hint">{escape(note)}</p></div>'
    )


def show_report(html: str) -> str:
    """A report in a frame of its own, in which nothing can run."""
    return f'<iframe class="report" title="Report" sandbox srcdoc="{escape(html)}"></iframe>'


# --- About -----------------------------------------------------------------------------------------------------------


def build_about(model: Model) -> None:
    """The About tab: what golden noise is, the models, what the figures mean."""
    cards = "".join(show_card(spec, spec.name == model.spec.name) for spec in MODELS.values())
    gr.HTML(read_asset("about.html").replace("<!-- flow -->", read_asset("flow.svg")).replace("<!-- cards -->", cards))


def show_card(spec: ModelSpec, loaded: bool) -> str:
    """A model of the registry with the settings that the paper uses with it."""
    place = "in this repository" if spec.is_shapes else spec.repo
    pairs = [
        ("weights", place),
        *[("with", part) for part in (spec.unet, *spec.loras) if part],
        ("steps", str(spec.num_inference_steps)),
        ("guidance", f"{spec.guidance_scale:g}"),
        ("sampler", spec.sampler),
    ]
    here = "<b class='badge'>loaded</b>" if loaded else ""
    return f'<article class="card"><h4>{escape(spec.title)}{here}</h4>{_list_of(pairs, "health")}</article>'


# --- the whole -------------------------------------------------------------------------------------------------------


def build_ui(model: Model, judging: Judging = NO_JUDGES, runs: Path | None = None) -> gr.Blocks:
    """The page for a loaded model and the judges of its comparisons; `runs` is the folder of finished benchmarks.

    Launch it with `launch_options()`.
    """
    spec, watch, watch_judged = model.spec, make_watch(model), make_watch(model, judging.judges)
    with gr.Blocks(title="golden", fill_width=True, delete_cache=CACHE_SECONDS, analytics_enabled=False) as ui:
        gr.HTML(read_asset("header.html").replace("<!-- model -->", escape(spec.title or spec.name)), elem_id="header")
        records = gr.State([], time_to_live=SESSION_SECONDS)
        with gr.Tabs(elem_id="tabs", selected="compare") as tabs:
            with gr.Tab("Compare", id="compare"):
                controls = build_compare(model, watch_judged, records, judging)
            with gr.Tab("Explore", id="explore"):
                build_explore(model, watch, controls)
            with gr.Tab("Blind", id="blind"):
                build_blind(model, watch, controls)
            with gr.Tab("History", id="history") as history:
                build_history(history, tabs, spec, records, controls)
            with gr.Tab("Benchmark", id="benchmark") as benchmark:
                build_benchmark(benchmark, model, judging, controls, runs)
            with gr.Tab("About", id="about"):
                build_about(model)
        build_api(model, watch_judged, judging)
    ui.queue(max_size=MAX_WAITING)
    _keep_names_private(ui)
    return ui


def _keep_names_private(ui: gr.Blocks) -> None:
    """Gradio names every listener after its function, and answers to that name over HTTP even where it lists none."""
    for listener in ui.fns.values():
        if listener.api_visibility == "private":
            listener.api_name = None


def make_theme() -> gr.themes.Base:
    """Paper and ink, and gold for what is golden; the fonts that the machine has."""
    gold = gr.themes.Color(*GOLD, name="gold")
    stone = gr.themes.Color(*STONE, name="stone")
    sans = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    theme = gr.themes.Base(
        primary_hue=gold,
        secondary_hue=gold,
        neutral_hue=stone,
        font=sans,
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "monospace"),
        radius_size="lg",
    )
    return theme


GOLD = (
    "#fdf8ea",
    "#faefcd",
    "#f5df9c",
    "#eecb63",
    "#e3b53a",
    "#c99a1e",
    "#a67a12",
    "#815d0f",
    "#5f4510",
    "#43310d",
    "#2a1f09",
)
STONE = (
    "#fbf9f4",
    "#f4f0e7",
    "#e8e1d3",
    "#d5ccb9",
    "#a89e8b",
    "#7d7465",
    "#5d5649",
    "#443f36",
    "#2b2822",
    "#1b1915",
    "#12110e",
)


def launch_options(mcp: bool = False) -> dict[str, Any]:
    """What Gradio takes at launch and not in the page: theme, stylesheet, script; and what it had better not offer.

    `mcp` offers the endpoint as a tool of the Model Context Protocol, too. Raises: InvalidInput without the library.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise InvalidInput("--mcp needs the library mcp: pip install 'gradio[mcp]'.")
    return {
        "theme": make_theme(),
        "css": read_asset("app.css"),
        "head": f"<script>{read_asset('app.js')}</script>",
        "footer_links": ["api"],
        "run_history": False,
        "max_file_size": settings.MAX_PICTURE_BYTES,
        "enable_monitoring": False,
        "state_session_capacity": MAX_SESSIONS,
        "ssr_mode": False,
        "mcp_server": mcp,
    }


def share_one_heap() -> None:
    """Let all threads allocate from one heap, where the C library is one that gives each its own.

    What a comparison in one thread frees, the next in another thread could not use: memory grew for hundreds of them.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library, another system
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(prog="app.py", description="Compare standard and golden noise in a browser.")
    parser.add_argument("--model", default="shapes", help=f"one of {', '.join(MODELS)}, or a diffusers folder")
    parser.add_argument(
        "--npnet", metavar="FILE", help="NPNet weights (.safetensors or .pth); the model's own by default"
    )
    parser.add_argument(
        "--judges", choices=CHOICES, help="whose scores to show; embedded for shapes by default, none for other models"
    )
    parser.add_argument("--judge-mode", choices=MODES, default="auto", help="all judges in memory, or one at a time")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--memory", choices=MEMORY_MODES, default="auto", help="low fits cards of 8 to 12 GB; auto: high where it fits"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=7860, help="port to serve on")
    parser.add_argument("--runs", metavar="FOLDER", type=Path, help="finished benchmarks to show: folders of this one")
    parser.add_argument("--mcp", action="store_true", help="offer compare as an MCP tool, too (needs gradio[mcp])")
    parser.add_argument("--share", action="store_true", help="make a public link through gradio.live")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.port <= 65535:
        raise InvalidInput(f"The port must be a whole number from 1 to 65535, got {arguments.port}.")
    if arguments.runs and not arguments.runs.is_dir():
        raise InvalidInput(f"There is no folder {arguments.runs}: --runs is the folder that the runs' folders are in.")
    options = launch_options(arguments.mcp)
    share_one_heap()
    model = load_model(arguments.model, npnet=arguments.npnet, device=arguments.device, memory=arguments.memory)
    judge_mode = "rotating" if arguments.judge_mode == "auto" and is_spared(model.pipeline) else arguments.judge_mode
    judging = choose_judging(arguments.judges, judge_mode, model.spec, arguments.device)
    ui = build_ui(model, judging, arguments.runs)
    try:
        ui.launch(server_name=arguments.host, server_port=arguments.port, share=arguments.share, **options)
    except (OSError, ValueError) as error:  # the latter where gradio does not reach its own server within seconds
        raise InvalidInput(f"The app cannot be served on {arguments.host}:{arguments.port}: {error}") from None


if __name__ == "__main__":
    run_command(main)
