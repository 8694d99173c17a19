"""The Explore tab: prompts down, seeds or another setting across, a row for each noise, and what the grid shows."""

import time
from dataclasses import dataclass
from typing import Any, no_type_check

import gradio as gr

from ...checks import check_name
from ...drawing import to_png
from ...errors import GoldenError
from ...models import ModelSpec
from .. import grid as grids
from ..drawing import FAULT_COLOURS, OUTCOMES
from ..html import render
from ..pieces import (
    PAGE,
    connect_stop,
    fill_download,
    list_examples,
    make_start_and_stop,
    show_error,
    show_hint,
    show_pairs,
    show_status,
)
from ..seeds import explain_interval, grid_to_strips, summarise
from . import Page, Tab

LAYOUTS = {
    "rows": ("a row per noise", grid_to_strips),
    "pairs": ("noises side by side", grids.grid_to_image),
}
"""How a grid is drawn: name -> (words, the image of a grid so far)."""


@dataclass(frozen=True)
class Sheet:
    """Where a grid shows: in two layouts, of which one is seen."""

    status: gr.HTML
    outcomes: gr.HTML
    summary: gr.HTML
    as_png: gr.DownloadButton
    as_csv: gr.DownloadButton
    images: dict[str, gr.Image]  # by layout

    def show(self, grid: grids.Grid, spec: ModelSpec, layout: str) -> dict:
        drawn = {name: draw(grid, spec) for name, (_, draw) in LAYOUTS.items()}
        return {
            **{self.images[name]: image for name, image in drawn.items()},
            self.outcomes: show_outcomes(grid),
            self.summary: show_summary(grid),
            self.as_png: fill_download(self.as_png, to_png(drawn[layout]), "golden-grid.png"),
            self.as_csv: fill_download(self.as_csv, grids.grid_to_csv(grid).encode(), "golden-grid.csv"),
        }

    def show_layout(self, layout: Any) -> dict:
        return {image: gr.update(elem_classes=_classes_of(name, layout)) for name, image in self.images.items()}

    @property
    def outputs(self) -> list[gr.Component]:
        return [*self.images.values(), self.status, self.outcomes, self.summary, self.as_png, self.as_csv]


def _classes_of(name: str, layout: Any) -> list[str]:
    return ["sheet"] if name == layout else ["sheet", "unseen-sheet"]


def build(page: Page, tab: gr.Tab) -> None:
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="side"):
            inputs = _build_inputs(page)
            start, stop = make_start_and_stop("Run the grid", "grid_button", "grid_stop")
            status, outcomes = gr.HTML("", elem_id="grid_status"), gr.HTML("", elem_id="grid_outcomes")
            with gr.Row(elem_classes="downloads"):
                as_png = gr.DownloadButton("PNG", size="sm", visible=False, elem_id="grid_png")
                as_csv = gr.DownloadButton("CSV", size="sm", visible=False, elem_id="grid_csv")
        with gr.Column(elem_classes="main"):
            summary = gr.HTML("", elem_id="grid_summary")
            images = {name: _build_image(name) for name in LAYOUTS}
    sheet = Sheet(status, outcomes, summary, as_png, as_csv, images)
    connect(page, sheet, inputs, start, stop)
    inputs[-1].change(sheet.show_layout, [inputs[-1]], list(images.values()), **PAGE)  # type: ignore[attr-defined]


def _build_inputs(page: Page) -> list[gr.Component]:
    """Prompts, setting, values and layout."""
    prompts = gr.Textbox(
        label="Prompts, one per line",
        value="\n".join(prompt for prompt, _ in list_examples(page.model)),
        lines=5,
        max_lines=12,
        elem_id="grid_prompts",
    )
    axis = gr.Dropdown(
        [(words, name) for name, words in grids.AXES.items()], value="seed", label="Vary", elem_id="grid_axis"
    )
    values = gr.Textbox(label="Values: 0, 1, 2 or 0..7", value="0..3", lines=1, elem_id="grid_values")
    layout = gr.Radio(
        [(words, name) for name, (words, _) in LAYOUTS.items()], value="rows", label="Layout", elem_id="grid_layout"
    )
    gr.HTML(
        show_hint(
            "Repeated prompts and values run once. All other settings, the noises to compare among them, are taken "
            "from Compare."
        )
    )
    return [prompts, axis, values, layout]


def _build_image(layout: str) -> gr.Image:
    return gr.Image(
        label="Grid",
        alt_text=f"A grid of comparisons, {LAYOUTS[layout][0]}; the table above says the same in figures",
        format="png",
        type="pil",
        interactive=False,
        show_label=False,
        container=False,
        buttons=["fullscreen"],
        elem_id="grid" if layout == "rows" else f"grid_{layout}",
        elem_classes=_classes_of(layout, "rows"),
    )


def connect(page: Page, sheet: Sheet, inputs: list[gr.Component], start: gr.Button, stop: gr.Button) -> None:
    spec, status = page.model.spec, sheet.status

    @no_type_check  # gradio must see that this is a generator, also in tests that check types
    def run(prompts: Any, axis: Any, values: Any, layout: Any, *base: Any) -> Any:
        try:
            check_name("layout", layout, LAYOUTS)
            grid = grids.plan_grid(page.controls.make_request(base), prompts, axis, values, spec)
            total, known, shown = len(grid.requests), 0, 0.0
            yield {status: show_status(f"0 of {total}", "running", 0.0), sheet.as_png: gr.update(visible=False)}
            for done in grids.run_grid(grid, page.watch):
                update: dict = {status: show_status(f"{done} of {total}", "running", done / total)}
                if done > known and (time.monotonic() - shown > 1 or done == total):
                    known, shown = done, time.monotonic()
                    update |= sheet.show(grid, spec, layout)
                yield update
            yield {status: show_status(f"{total} comparisons.")}
        except GoldenError as error:
            yield {status: show_error(error)}

    running = start.click(
        run,
        [*inputs, *page.controls.inputs],
        sheet.outputs,
        concurrency_id="explore",
        concurrency_limit=2,
        **PAGE,
    )
    connect_stop(stop, running, status, "Stopped; finished comparisons are kept.")


def show_outcomes(grid: grids.Grid) -> str:
    """How often who was correct; nothing if nothing was checked."""
    counts = grids.count_outcomes(grid)
    if not any(counts.values()):
        return ""
    return show_pairs([(OUTCOMES[name][0], str(count)) for name, count in counts.items()], "outcomes")


def show_summary(grid: grids.Grid) -> str:
    """A table with a row for each kind of noise: right images, difference with interval, diversity, faults."""
    return render("summary", arms=summarise(grid), note=explain_interval(grid), colours=FAULT_COLOURS)


TAB = Tab("Explore", 2, build)
