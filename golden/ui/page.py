"""The whole page: tabs, endpoint, and how it is launched."""

import importlib.util
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from ..errors import GoldenError, InvalidInput
from ..model import Model
from ..settings import MAX_IMAGE_BYTES, from_png
from .api import build_api
from .controls import Controls
from .html import read_static, render
from .memory import build_memory
from .opening import Opening
from .pieces import PAGE, SESSION_SECONDS, show_error, show_status
from .scoreboard import NO_JUDGES, Judging
from .switching import Switch
from .tabs import Page, find_tabs
from .tabs.benchmark import Suites
from .theme import make_theme
from .watch import Pace, make_watch

STYLES = ("app.css", "compare.css", "rest.css")
SCRIPTS = ("app.js", "compare.js", "keep.js", "blind.js")  # the first defines what the others add to
CACHE_SECONDS = (900, 7200)  # how often served files are looked through, and how old they may become
MAX_WAITING = 64
MAX_SESSIONS = 64  # whose history is kept; gradio keeps a third of a megabyte for each, and every API call is one


def build_ui(
    model: Model,
    judging: Judging = NO_JUDGES,
    runs: Path | None = None,
    suites: Suites | None = None,
    switch: Switch | None = None,
    opening: bool = False,
) -> gr.Blocks:
    """The page of a loaded model; launch it with `launch_options()`.

    Args:
        model: what renders.
        judging: who scores its comparisons.
        runs: folder of finished benchmarks.
        suites: what the Benchmark tab runs: eval.short_suite, or nothing.
        switch: the models that can be chosen, None for this one alone.
        opening: whether the page opens with a finished comparison, which is made in the background from now on.
    """
    spec = model.spec
    with gr.Blocks(title="golden", fill_width=True, delete_cache=CACHE_SECONDS, analytics_enabled=False) as ui:
        gr.HTML(render("header", model=spec.title or spec.name), elem_id="header")
        if switch:
            build_choice(switch)
        pace = Pace()
        watch, watch_judged = make_watch(model, None, pace), make_watch(model, judging.judges, pace)
        first = Opening(model, watch_judged).prepare() if opening else None
        records = gr.State([], time_to_live=SESSION_SECONDS)
        controls = Controls(model, first.request if first else None)
        link, memory = gr.Textbox(visible="hidden", elem_id="link"), build_memory()
        with gr.Tabs(elem_id="tabs", selected="compare") as tabs:
            watches = (watch, watch_judged)
            page = Page(ui, model, judging, controls, records, tabs, *watches, link, memory, suites, runs, first)
            for tab in find_tabs():
                with gr.Tab(tab.title, id=tab.id) as placed:
                    tab.build(page, placed)
        connect_link(page)
        build_drop(page)
        build_api(page)
    ui.queue(max_size=MAX_WAITING)
    _keep_names_private(ui)
    return ui


def build_choice(switch: Switch) -> None:
    """The choice of a model, and what became of the last one."""
    with gr.Row(elem_id="models"):
        choices = [(title, name) for name, title in switch.titles.items()]
        choice = gr.Dropdown(choices, value=switch.chosen, label="Model", elem_id="model_choice", scale=0)
        status = gr.HTML(show_status(switch.problem, "error") if switch.problem else "", elem_id="model_status")

    def choose(name: Any) -> str:
        try:
            switch.choose(name)
        except GoldenError as error:
            return show_error(error)
        return show_status(f"Loading {switch.titles[name]}, for everybody on this page …", "running")

    asked = choice.input(choose, [choice], [status], **PAGE)
    asked.then(None, None, None, js="() => window.golden.reopen()", api_visibility="private")


def connect_link(page: Page) -> None:
    """Name in the address what `page.link` holds, the settings of a comparison as JSON."""
    js = "(text) => window.golden.setLink(text)"
    page.link.change(None, [page.link], None, js=js, api_visibility="private")


def build_drop(page: Page) -> None:
    """The button without a face to which assets/app/keep.js hands a file that is dropped anywhere on the page."""
    controls = page.controls
    with gr.Row(elem_id="drop"):
        dropped = gr.UploadButton("Open a PNG", type="binary")

    def open_png(data: Any) -> dict:
        shown = {page.tabs: gr.Tabs(selected="compare")}
        try:
            return shown | controls.open(from_png(data, page.model.spec))
        except GoldenError as error:
            return shown | {controls.status: show_error(error)}

    dropped.upload(open_png, [dropped], [*controls.opens, page.tabs], **(PAGE | {"preprocess": True}))


def _keep_names_private(ui: gr.Blocks) -> None:
    """Gradio names every listener after its function, and answers to that name over HTTP even if it lists none."""
    for listener in ui.fns.values():
        if listener.api_visibility == "private":
            listener.api_name = None


def launch_options(mcp: bool = False) -> dict[str, Any]:
    """What Gradio takes at launch rather than in the page: theme, stylesheet, script, and what it must not offer.

    `mcp` offers the endpoint as a tool of the Model Context Protocol, too. Raises: InvalidInput without the library.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise InvalidInput("--mcp needs the library mcp: pip install 'gradio[mcp]'.")
    return {
        "theme": make_theme(),
        "css": "\n".join(map(read_static, STYLES)),
        "head": "".join(render("script", source=Markup(read_static(name))) for name in SCRIPTS),  # our own, as they are
        "footer_links": ["api"],
        "run_history": False,
        "max_file_size": MAX_IMAGE_BYTES,
        "enable_monitoring": False,
        "state_session_capacity": MAX_SESSIONS,
        "ssr_mode": False,
        "mcp_server": mcp,
    }
