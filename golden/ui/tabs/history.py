"""The History tab: comparisons of this visit and of earlier ones, searched, opened again, exported.

The server keeps what one visit makes. The browser keeps the settings and a thumbnail of each comparison, and hands them
to the next visit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from .. import session
from ..pieces import PAGE, SESSION_SECONDS, fill_download, show_hint, show_status
from ..scoreboard import count_wins
from . import Page, Tab

KEPT = "This browser keeps the last {} comparisons as settings and thumbnails; opening one makes its images again."


@dataclass(frozen=True)
class HistoryParts:
    """The components of the tab, and the numbers of the records in it."""

    words: gr.Textbox
    as_zip: gr.DownloadButton
    forget: gr.Button
    status: gr.HTML
    images: gr.Gallery
    found: gr.State

    def show(self, records: Sequence[session.Record], wanted: Any) -> dict:
        matching = session.search(records, wanted)
        count = f"{len(matching)} of {len(records)} comparisons; click one to open it again."
        exported = gr.update(visible=False)
        if matching:
            exported = fill_download(self.as_zip, session.records_to_zip(matching[::-1]), "golden-history.zip")
        return {
            self.images: [(session.draw_thumbnail(record), write_caption(record)) for record in matching],
            self.found: [record.number for record in matching],
            self.status: show_status(count if records else "No comparisons yet."),
            self.as_zip: exported,
            self.forget: gr.update(visible=bool(records)),
        }


def build(page: Page, tab: gr.Tab) -> None:
    found = gr.State([], time_to_live=SESSION_SECONDS)
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
            forget = gr.Button("Forget all", size="sm", visible=False, elem_id="history_forget")
        status = gr.HTML(show_status("Comparisons of this browser will appear here."), elem_id="history_status")
        gr.HTML(show_hint(KEPT.format(session.MAX_KEPT)))
        images = gr.Gallery(
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
    gallery = HistoryParts(words, as_zip, forget, status, images, found)
    connect_gallery(page, tab, gallery)
    connect_browser(page, gallery)


def connect_gallery(page: Page, tab: gr.Tab, gallery: HistoryParts) -> None:
    shown = [gallery.images, gallery.found, gallery.status, gallery.as_zip, gallery.forget]

    def open_again(records: Sequence[session.Record], numbers: Sequence[int], event: gr.SelectData) -> dict:
        number = dict(enumerate(numbers)).get(event.index) if isinstance(event.index, int) else None
        for record in records:
            if record.number == number:
                return page.controls.open(record.request) | {page.tabs: gr.Tabs(selected="compare")}
        return {gallery.status: show_status("That comparison has expired.", "error")}

    gr.on([tab.select, gallery.words.change], gallery.show, [page.records, gallery.words], shown, **PAGE)
    gallery.images.select(
        open_again, [page.records, gallery.found], [*page.controls.opens, page.tabs, gallery.status], **PAGE
    )

    def forget() -> dict:
        return {page.records: [], page.memory.records: []} | gallery.show([], "")

    gallery.forget.click(forget, None, [page.records, page.memory.records, *shown], **PAGE)


def connect_browser(page: Page, gallery: HistoryParts) -> None:
    """Begin with what the browser kept, and let it keep what is made."""
    spec = page.model.spec

    def restore(kept: Any, records: Sequence[session.Record]) -> Any:
        # A link may have been faster: what it made comes after what was kept.
        earlier = session.records_from_json(kept, spec)
        later = [replace(record, number=len(earlier) + record.number) for record in records]
        return [*earlier, *later] if earlier else gr.skip()

    def describe_newest(records: Sequence[session.Record]) -> Any:
        # None where nothing was made: the last one must not come back after all was forgotten.
        return session.record_to_json(records[-1]) if records and records[-1].images else None

    page.blocks.load(restore, [page.memory.records, page.records], [page.records], **PAGE)
    described = page.records.change(describe_newest, [page.records], [page.memory.newest], **PAGE)
    described.then(
        None,
        [page.memory.newest, page.memory.records],
        [page.memory.records],
        js=f"(newest, kept) => [window.golden.keepRecord(newest, kept, {session.MAX_KEPT})]",
        api_visibility="private",
    )


def write_caption(record: session.Record) -> str:
    marks = {True: "✓", False: "✗"}
    verdicts = "".join(marks[verdict["correct"]] for verdict in record.described["verdicts"].values())
    scores = record.described.get("scores", {})
    has_golden = len(record.images) == 2 and "npnet" in record.images
    won = f" · golden {count_wins(scores)} of {len(scores)}" if scores and has_golden else ""
    day = f" · {record.created[:10]}" if record.thumbnail else ""  # of an earlier visit
    return f"{verdicts} {record.request.prompt} · {record.request.seed}{won}{day}"


TAB = Tab("History", 4, build)
