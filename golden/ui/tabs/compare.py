"""The Compare tab: one prompt and seed from standard and from golden noise, beside each other."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, no_type_check

import gradio as gr

from ...compare import Checked, Comparison, Event, Progress, Rendered, Scored
from ...errors import GoldenError
from ...models import ModelSpec
from ...request import CompareRequest, validate
from ...settings import default_request, from_json, from_png, from_query, read_control, to_json
from ...sizes import describe_sizes, say_unchecked
from .. import session
from ..arms import describe_arm, label_arms
from ..composer import build_composer
from ..controls import KEYS, Controls
from ..fields import SETTINGS
from ..flow import show_flow
from ..glossary import LABELS
from ..html import render
from ..known import find_known
from ..opening import Opening
from ..pieces import (
    PAGE,
    connect_stop,
    draw_seed,
    make_image,
    show_error,
    show_hint,
    show_progress,
    show_scoring,
    show_status,
)
from ..scoreboard import count_all
from ..stage import Stage, build_stage
from . import Page, Tab

LOCKED = "The seed is locked: untick Lock to draw another."
IMAGE_TYPES = [".png", ".jpg", ".jpeg", ".webp"]


@dataclass(frozen=True)
class Share:
    """What passes settings in and out of the page."""

    text: gr.Textbox
    copy_link: gr.Button
    restore: gr.UploadButton
    apply: gr.Button


def build(page: Page, tab: gr.Tab) -> None:
    controls = page.controls
    gr.HTML(render("intro", known=find_known(page.model), labels=LABELS | label_arms(page.model)), elem_id="intro")
    flow = gr.HTML(show_flow(None), elem_id="how")
    with gr.Row(elem_id="bench"):
        with gr.Column(elem_id="ask"):
            controls.place("ask")
            build_composer(controls)
            with gr.Row(elem_id="go"):
                start = gr.Button("Compare", variant="primary", elem_id="compare_button")
                stop = gr.Button("Stop", variant="stop", elem_id="stop_button")
                reroll = gr.Button("Reroll", elem_id="reroll_button", min_width=64)
            controls.status.render()
            build_uploads(page)
        with gr.Column(elem_id="settings"):
            share = build_settings(controls)
        stage = build_stage(page.model, controls, page.judging, flow)
    connect_run(page, stage, share.text, start, stop)
    connect_openers(page, stage, share)

    def roll(locked: Any) -> dict:
        if locked:
            return {controls.status: show_status(LOCKED)}
        return {controls["seed"]: draw_seed()} | controls.run_again()

    reroll.click(roll, [controls.lock], [controls["seed"], controls.opened, controls.status], **PAGE)


def build_settings(controls: Controls) -> Share:
    with gr.Row(elem_id="seed_row"):
        controls.place("seed")
        controls.lock.render()
    controls.place("settings")
    with gr.Accordion("Size", open=False, elem_id="size"):
        with gr.Row(elem_id="sides"):
            controls.place("size")
        gr.HTML(show_hint(describe_sizes(controls.model.spec, controls.model.pipeline)))
    with gr.Accordion("Share and restore", open=False, elem_id="share"):
        copy_link = gr.Button("Copy link", size="sm", elem_id="copy_link")
        restore = gr.UploadButton(
            "Restore from a PNG", file_types=[".png"], type="binary", size="sm", elem_id="restore_png"
        )
        text = gr.Textbox(label="Settings as JSON", lines=4, max_lines=9, elem_id="json", buttons=["copy"])
        apply = gr.Button("Apply these settings", size="sm", elem_id="apply_json")
    return Share(text, copy_link, restore, apply)


def build_uploads(page: Page) -> None:
    """An upload for each setting that is an image, if the model has any use for it."""
    for name, setting in SETTINGS.items():
        if setting.is_image and setting.applies(page.model):
            upload = gr.UploadButton(
                setting.label, file_types=IMAGE_TYPES, type="binary", size="sm", elem_id=f"{name}_upload"
            )
            shown, kept = make_image(setting.label, elem_id=name), page.controls[name]
            upload.upload(
                partial(_take_image, page.controls, name),
                [upload],
                [kept, page.controls.status],
                **(PAGE | {"preprocess": True}),
            )
            kept.change(lambda image: image, [kept], [shown], **PAGE)  # type: ignore[attr-defined]


def _take_image(controls: Controls, name: str, data: Any) -> dict:
    label = SETTINGS[name].label
    try:
        return {controls[name]: read_control(data), controls.status: show_status(f"{label} loaded.")}
    except GoldenError as error:
        return {controls.status: show_error(error)}


# --- a run ------------------------------------------------------------------------------------------------------------


class RunUpdates:
    """The updates of the tab for the events of one comparison."""

    def __init__(self, page: Page, stage: Stage, text: gr.Textbox, request: CompareRequest, records: list) -> None:
        self.page, self.stage, self.text = page, stage, text
        self.arms, self.records = request.arms, records
        self.status, self.laid_out = page.controls.status, False

    def show(self, event: Event) -> dict:
        if isinstance(event, Progress):
            return self._show_previews(event) | {self.status: show_progress(event)}
        if isinstance(event, Rendered):
            return self._lay_out() | self.stage.show_images(list(event.images.values()))
        if isinstance(event, Scored):
            scoring = show_scoring(event.comparison, self.page.judging.judges)
            return self.stage.show_scores(event.comparison) | {self.status: scoring}
        if isinstance(event, Checked):
            scoring = show_scoring(event.comparison, self.page.judging.judges)
            return self._show_outcome(event.comparison) | {self.status: scoring}
        model, request = self.page.model, event.request
        unchecked = say_unchecked(request.height, request.width, model.spec, model.pipeline)
        finished = {self.status: show_status(f"{summarise(event)} {unchecked}")}
        if self.page.judging.judges is None:
            return self._show_outcome(event) | finished
        # All but the images of the steps and the last words was shown as it was checked and scored.
        self.records = session.add_scores(self.records, event, self.page.judging.weights)
        return finished | self.stage.show_steps(event) | {self.page.records: self.records}

    def _lay_out(self) -> dict:
        """Places for the arms, once, as the first images arrive: until then those of the comparison before stay."""
        if self.laid_out:
            return {}
        self.laid_out = True
        return self.stage.lay_out(self.arms) | self.stage.clear_words(self.arms)

    def _show_previews(self, event: Progress) -> dict:
        return self._lay_out() | self.stage.show_images(event.previews) if event.previews else {}

    def _show_outcome(self, comparison: Comparison) -> dict:
        spec = self.page.model.spec
        self.records = session.add_record(self.records, comparison, spec)
        described = to_json(comparison.request, spec)
        return self.stage.show(comparison, spec) | {self.text: described, self.page.records: self.records}


def summarise(comparison: Comparison) -> str:
    """One line on the outcome: the exact check first, then how many judges prefer which image."""
    verdicts, scores, parts = comparison.verdicts, comparison.scores, []
    if len(verdicts) > 2:
        right = [describe_arm(arm).short for arm, verdict in verdicts.items() if verdict.correct]
        parts.append(f"correct: {', '.join(right)}" if right else "none is correct")
    elif verdicts:
        words = {True: "correct", False: "incorrect"}
        parts.append(", ".join(f"{describe_arm(arm).short} {words[v.correct]}" for arm, v in verdicts.items()))
    counts = count_all(comparison, list(comparison.images))
    if len(comparison.images) == 2:
        parts += [f"{name} won {wins} of {len(scores)} scores" for name, wins in counts.items()]
    elif counts:
        best = max(counts, key=lambda name: counts[name])
        parts.append(f"{best} won most scores, {counts[best]} of {len(scores)}")
    text = "; ".join(parts or ["done"])
    return f"{text[:1].upper()}{text[1:]}, in {comparison.total_seconds:.1f} s."


def connect_run(page: Page, stage: Stage, text: gr.Textbox, start: gr.Button, stop: gr.Button) -> None:
    controls = page.controls

    @no_type_check  # gradio must see that this is a generator, also in tests that check types
    def run(*values: Any) -> Any:
        *filled, kept = values
        try:
            request = validate(controls.make_request(filled), page.model.spec)
            started = {controls["seed"]: request.seed, page.link: to_json(request, page.model.spec)}
            yield started | {controls.status: show_status("Starting …", "running", 0.0)}
            this = RunUpdates(page, stage, text, request, kept)
            for event in page.watch_judged(request):
                yield this.show(event)
        except GoldenError as error:
            yield {controls.status: show_error(error)}

    running = gr.on(
        [start.click, controls["prompt"].submit, controls.opened.change],  # type: ignore[attr-defined]
        run,
        [*controls.inputs, page.records],
        [*stage.outputs, controls["seed"], controls.status, text, page.link, page.records],
        concurrency_id="compare",
        concurrency_limit=1,
        trigger_mode="always_last",  # an example chosen while another runs is run after it
        **(PAGE | {"show_progress": "minimal", "show_progress_on": [controls.status]}),
    )
    connect_stop(stop, running, controls.status, "Stopped.")


def show_opening(opening: Opening, controls: Controls, stage: Stage, spec: ModelSpec) -> dict:
    """The comparison that the page opens with, and by which rule it was drawn. The inputs describe it already."""
    comparison = opening.get()
    if comparison is None:
        return {controls.status: show_status(KEYS)}
    shown = stage.lay_out(comparison.request.arms) | stage.show(comparison, spec)
    return shown | {stage.rule: show_hint(opening.rule), controls.status: show_status(summarise(comparison))}


# --- what fills in a comparison and runs it ---------------------------------------------------------------------------


def connect_openers(page: Page, stage: Stage, share: Share) -> None:
    """Examples, a link, JSON, a PNG."""
    controls, spec = page.controls, page.model.spec

    def open_request(read: Callable[..., CompareRequest | None], *values: Any) -> dict:
        try:
            request = read(*values, spec)
        except GoldenError as error:
            return {controls.status: show_error(error)}
        return controls.open(request) if request else {controls.status: gr.skip()}

    def open_link(request: gr.Request) -> dict:
        query = dict(request.query_params)
        if page.opening is not None and all(name.startswith("__") for name in query):  # the server's own names
            return show_opening(page.opening, controls, stage, spec)
        return open_request(from_query, query)

    def open_png(data: Any) -> dict:
        return open_request(from_png, data)

    def open_json(value: Any) -> dict:
        return open_request(from_json, value)

    def open_example(prompt: str, seed: int) -> dict:
        return controls.open(default_request(spec, prompt=prompt, seed=seed))

    for button, prompt, seed in stage.examples:
        button.click(partial(open_example, prompt, seed), None, controls.opens, **PAGE)
    share.apply.click(open_json, [share.text], controls.opens, **PAGE)
    share.restore.upload(open_png, [share.restore], controls.opens, **(PAGE | {"preprocess": True}))
    share.copy_link.click(None, None, None, js="() => window.golden.copyLink()", api_visibility="private")
    page.blocks.load(open_link, None, [*stage.outputs, *controls.opens], **PAGE)


TAB = Tab("Compare", 1, build)
