"""The whole page: tabs, endpoint, and how it is launched."""

import importlib.util
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from ..errors import InvalidInput
from ..model import Model
from ..settings import MAX_IMAGE_BYTES
from .api import build_api
from .controls import Controls
from .html import read_static, render
from .opening import Opening
from .pieces import SESSION_SECONDS
from .scoreboard import NO_JUDGES, Judging
from .tabs import Page, find_tabs
from .tabs.benchmark import Suites
from .theme import make_theme
from .watch import make_watch

CACHE_SECONDS = (900, 7200)  # how often served files are looked through, and how old they may become
MAX_WAITING = 64
MAX_SESSIONS = 64  # whose history is kept; gradio keeps a third of a megabyte for each, and every API call is one


def build_ui(
    model: Model,
    judging: Judging = NO_JUDGES,
    runs: Path | None = None,
    suites: Suites | None = None,
    opening: bool = False,
) -> gr.Blocks:
    """The page of a loaded model; launch it with `launch_options()`.

    Args:
        model: what renders.
        judging: who scores its comparisons.
        runs: folder of finished benchmarks.
        suites: what the Benchmark tab runs: eval.short_suite, or nothing.
        opening: whether the page opens with a finished comparison, which is made in the background from now on.
    """
    spec = model.spec
    with gr.Blocks(title="golden", fill_width=True, delete_cache=CACHE_SECONDS, analytics_enabled=False) as ui:
        gr.HTML(render("header", model=spec.title or spec.name), elem_id="header")
        watch, watch_judged = make_watch(model), make_watch(model, judging.judges)
        first = Opening(model, watch_judged).prepare() if opening else None
        records, controls = (
            gr.State([], time_to_live=SESSION_SECONDS),
            Controls(model, first.request if first else None),
        )
        with gr.Tabs(elem_id="tabs", selected="compare") as tabs:
            page = Page(ui, model, judging, controls, records, tabs, watch, watch_judged, suites, runs, first)
            for tab in find_tabs():
                with gr.Tab(tab.title, id=tab.id) as placed:
                    tab.build(page, placed)
        build_api(page)
    ui.queue(max_size=MAX_WAITING)
    _keep_names_private(ui)
    return ui


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
        "css": read_static("app.css") + read_static("compare.css"),
        "head": render("script", source=Markup(read_static("app.js") + read_static("compare.js"))),  # our own files
        "footer_links": ["api"],
        "run_history": False,
        "max_file_size": MAX_IMAGE_BYTES,
        "enable_monitoring": False,
        "state_session_capacity": MAX_SESSIONS,
        "ssr_mode": False,
        "mcp_server": mcp,
    }
