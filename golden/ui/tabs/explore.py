"""The Explore tab: prompts down, one setting across, who is correct where."""

import time
from dataclasses import dataclass
from typing import Any, no_type_check

import gradio as gr
from PIL import Image

from ...drawing import to_png
from ...errors import GoldenError
from .. import grid as grids
from ..drawing import OUTCOMES
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
from . import Page, Tab


@dataclass(frozen=True)
class Sheet:
    """Where a grid shows."""

    status: gr.HTML
    outcomes: gr.HTML
    as_png: gr.DownloadButton
    as_csv: gr.DownloadButton
    image: gr.Image

    def show(self, grid: grids.Grid, image: Image.Image) -> dict:
        return {
            self.image: image,
            self.outcomes: show_outcomes(grid),
            self.as_png: fill_download(self.as_png, to_png(image), "golden-grid.png"),
            self.as_csv: fill_download(self.as_csv, grids.grid_to_csv(grid).encode(), "golden-grid.csv"),
        }

    @property
    def outputs(self) -> list[gr.Component]:
        return [self.image, self.status, self.outcomes, self.as_png, self.as_csv]


def build(page: Page, tab: gr.Tab) -> None:
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="side"):
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
            gr.HTML(show_hint("All other settings are taken from Compare."))
            start, stop = make_start_and_stop("Run the grid", "grid_button", "grid_stop")
            status, outcomes = gr.HTML("", elem_id="grid_status"), gr.HTML("", elem_id="grid_outcomes")
            with gr.Row(elem_classes="downloads"):
                as_png = gr.DownloadButton("PNG", size="sm", visible=False, elem_id="grid_png")
                as_csv = gr.DownloadButton("CSV", size="sm", visible=False, elem_id="grid_csv")
        with gr.Column(elem_classes="main"):
            image = gr.Image(
                label="Grid",
                alt_text="A grid of comparisons and a map of their winners",
                format="png",
                type="pil",
                interactive=False,
                show_label=False,
                container=False,
                buttons=["fullscreen"],
                elem_id="grid",
            )
    sheet = Sheet(status, outcomes, as_png, as_csv, image)
    connect(page, sheet, [prompts, axis, values], start, stop)


def connect(page: Page, sheet: Sheet, inputs: list[gr.Component], start: gr.Button, stop: gr.Button) -> None:
    spec, status = page.model.spec, sheet.status

    @no_type_check  # gradio must see that this is a generator, also in tests that check types
    def run(prompts: Any, axis: Any, values: Any, *base: Any) -> Any:
        try:
            grid = grids.plan_grid(page.controls.make_request(base), prompts, axis, values, spec)
            total, known, shown = len(grid.requests), 0, 0.0
            yield {status: show_status(f"0 of {total}", "running", 0.0), sheet.as_png: gr.update(visible=False)}
            for done in grids.run_grid(grid, page.watch):
                update: dict = {status: show_status(f"{done} of {total}", "running", done / total)}
                if done > known and (time.monotonic() - shown > 1 or done == total):
                    known, shown = done, time.monotonic()
                    update |= sheet.show(grid, grids.grid_to_image(grid, spec))
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


TAB = Tab("Explore", 2, build)
