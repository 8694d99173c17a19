"""The History tab: the session's comparisons, searched, opened again, exported."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from ...drawing import side_by_side
from .. import session
from ..pieces import PAGE, SESSION_SECONDS, fill_download, show_status
from ..scoreboard import count_wins
from . import Page, Tab

THUMBNAIL = 160


def build(page: Page, tab: gr.Tab) -> None:
    found = gr.State([], time_to_live=SESSION_SECONDS)  # the numbers of the records in the gallery
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
        status = gr.HTML(show_status("Comparisons of this session will appear here."), elem_id="history_status")
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
        count = f"{len(matching)} of {len(kept)} comparisons; click one to open it again."
        exported = gr.update(visible=False)
        if matching:
            exported = fill_download(as_zip, session.records_to_zip(matching[::-1]), "golden-history.zip")
        return {
            gallery: [(draw_thumbnail(record), write_caption(record)) for record in matching],
            found: [record.number for record in matching],
            status: show_status(count if kept else "No comparisons yet."),
            as_zip: exported,
        }

    def open_again(kept: Sequence[session.Record], numbers: Sequence[int], event: gr.SelectData) -> dict:
        number = dict(enumerate(numbers)).get(event.index) if isinstance(event.index, int) else None
        for record in kept:
            if record.number == number:
                return page.controls.open(record.request) | {page.tabs: gr.Tabs(selected="compare")}
        return {status: show_status("That comparison has expired.", "error")}

    gr.on([tab.select, words.change], show, [page.records, words], [gallery, found, status, as_zip], **PAGE)
    gallery.select(open_again, [page.records, found], [*page.controls.opens, page.tabs, status], **PAGE)


def draw_thumbnail(record: session.Record) -> Image.Image:
    return side_by_side([session.open_png(png) for png in record.images.values()], THUMBNAIL)


def write_caption(record: session.Record) -> str:
    marks = {True: "✓", False: "✗"}
    verdicts = "".join(marks[verdict["correct"]] for verdict in record.described["verdicts"].values())
    scores = record.described.get("scores", {})
    won = f" · golden {count_wins(scores)} of {len(scores)}" if scores and len(record.images) == 2 else ""
    return f"{verdicts} {record.request.prompt} · {record.request.seed}{won}"


TAB = Tab("History", 4, build)
