"""A file a tab. A module here with a `TAB` is a tab of the page: there is no list to add it to."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from ...model import Model
from ..controls import Controls
from ..memory import Memory
from ..opening import Opening
from ..scoreboard import Judging
from ..watch import Watch

if TYPE_CHECKING:
    from .benchmark import Suites


@dataclass(frozen=True)
class Page:
    """What every tab may use.

    Attributes:
        blocks: the page itself.
        model, judging: as loaded.
        controls: the inputs of a comparison.
        records: a state with the comparisons of this session, a list of session.Record.
        tabs: all tabs, to switch between them.
        watch, watch_judged: comparisons without and with scores.
        link: the settings as JSON that the address names.
        memory: what the browser keeps between visits.
        suites: what the Benchmark tab runs, None for nothing.
        runs: folder of finished benchmarks, None for none.
        opening: the comparison on show when the page opens, None for none.
    """

    blocks: gr.Blocks
    model: Model
    judging: Judging
    controls: Controls
    records: gr.State
    tabs: gr.Tabs
    watch: Watch
    watch_judged: Watch
    link: gr.Textbox
    memory: Memory
    suites: "Suites | None" = None
    runs: Path | None = None
    opening: Opening | None = None


@dataclass(frozen=True)
class Tab:
    """A tab: `build` places its components and connects them; tabs are sorted by `order`."""

    title: str
    order: int
    build: Callable[[Page, gr.Tab], None]

    @property
    def id(self) -> str:
        return self.title.lower()


def find_tabs() -> list[Tab]:
    """The tabs of all modules in this folder, in their order."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return sorted((module.TAB for module in modules), key=lambda tab: tab.order)
