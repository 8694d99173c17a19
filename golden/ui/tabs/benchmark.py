"""The Benchmark tab: a short suite on the spot, or a finished report of eval/run_benchmark.py.

What it runs is handed to the page: golden knows nothing of eval.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Protocol, no_type_check, runtime_checkable

import gradio as gr
import pandas as pd

from ...arms import available_arms
from ...errors import GoldenError
from ...judges import JudgeSet
from ...model import Model
from ...models import ModelSpec
from ...request import CompareRequest
from ...statistics import Interval
from ..arms import describe_arm
from ..html import render
from ..pieces import (
    PAGE,
    connect_stop,
    fill_download,
    list_arms,
    make_start_and_stop,
    show_error,
    show_hint,
    show_status,
)
from . import Page, Tab

NO_SUITE = "The short suite needs a model with an exact checker; eval/run_benchmark.py measures any model."
SETTINGS = "Prompts are spread over the test set; all settings but the size are taken from Compare."
OWN = "This model on the whole test set"
LIMITS = (5.0, 10.0, 25.0, 50.0, 100.0)  # of the axis, in percentage points
BUSY = "Another short suite is running: wait until it has finished."


@runtime_checkable
class TableView(Protocol):
    """Cells as text under a header; the first column names the row, `bold` are (row, column) of cells to stand out."""

    @property
    def title(self) -> str: ...
    @property
    def header(self) -> Sequence[str]: ...
    @property
    def body(self) -> Sequence[Sequence[str]]: ...
    @property
    def note(self) -> str: ...
    @property
    def bold(self) -> frozenset[tuple[int, int]]: ...


class GainView(Protocol):
    """What an arm gains over standard in right images, in percentage points, with its interval, and in words."""

    @property
    def arm(self) -> str: ...
    @property
    def points(self) -> Interval: ...
    @property
    def sentence(self) -> str: ...


class OutcomeView(Protocol):
    """How the arms compare with standard so far: a gain and a table for each, and how they were counted."""

    @property
    def gains(self) -> Sequence[GainView]: ...
    @property
    def tables(self) -> Sequence[TableView]: ...
    @property
    def note(self) -> str: ...


@runtime_checkable
class Plan(Protocol):
    """A suite that is ready to run."""

    @property
    def batches(self) -> Sequence[Any]: ...


@runtime_checkable
class Suites(Protocol):
    """What eval.short_suite offers."""

    MIN_PROMPTS: int
    MAX_PROMPTS: int
    MAX_SEEDS: int

    def plan_suite(self, base: CompareRequest, arms: Any, num_prompts: Any, num_seeds: Any, spec: ModelSpec) -> Plan:
        """Raises: InvalidInput in one sentence."""
        ...

    def run_suite(self, suite: Any, model: Model, judges: JudgeSet | None = None) -> Iterator[pd.DataFrame]:
        """The rows of each batch as it is done. Raises: GoldenError in one sentence."""
        ...

    def summarise(self, rows: pd.DataFrame, suite: Any) -> OutcomeView: ...

    def list_reports(self, runs: Path) -> list[str]: ...

    def read_report(self, runs: Path | None, name: Any) -> str:
        """Raises: InvalidInput for a name that is not on the list."""
        ...

    def read_stored_report(self, spec: ModelSpec) -> str | None:
        """The report that comes with an embedded model."""
        ...


@dataclass(frozen=True)
class SuiteControls:
    """The components of the tab."""

    arms: gr.CheckboxGroup
    num_prompts: gr.Slider
    num_seeds: gr.Slider
    status: gr.HTML
    shown: gr.HTML
    as_csv: gr.DownloadButton
    reports: gr.Dropdown


def build(page: Page, tab: gr.Tab) -> None:
    suites = page.suites
    if suites is None:
        gr.HTML(show_status(NO_SUITE))
        return
    has_suite = page.model.checker is not None
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="side"):
            with gr.Column(visible=has_suite, elem_id="suite"):
                arms = gr.CheckboxGroup(
                    [(describe_arm(arm).short, arm) for arm in available_arms(page.model) if arm != "standard"],
                    value=[arm for arm in list_arms(page.model) if arm != "standard"],
                    label="Noises to compare with standard",
                    elem_id="suite_arms",
                )
                num_prompts = gr.Slider(
                    suites.MIN_PROMPTS, suites.MAX_PROMPTS, value=16, step=1, label="Prompts", elem_id="suite_prompts"
                )
                num_seeds = gr.Slider(1, suites.MAX_SEEDS, value=1, step=1, label="Seeds", elem_id="suite_seeds")
                gr.HTML(show_hint(SETTINGS))
                start, stop = make_start_and_stop("Run the short suite", "suite_button", "suite_stop")
            status = gr.HTML("" if has_suite else show_status(NO_SUITE), elem_id="suite_status")
            as_csv = gr.DownloadButton("Rows as CSV", size="sm", visible=False, elem_id="suite_csv")
            stored = suites.read_stored_report(page.model.spec) is not None
            reports = gr.Dropdown(
                [(OWN, "")] if stored else [],
                value="" if stored else None,
                label="Finished reports",
                elem_id="reports",
                visible=stored or page.runs is not None,
            )
        with gr.Column(elem_classes="main"):
            shown = gr.HTML(render("no_report"), elem_id="report")
    bench = SuiteControls(arms, num_prompts, num_seeds, status, shown, as_csv, reports)
    connect_suite(page, suites, bench, start, stop)
    connect_reports(page, suites, bench, tab)


def connect_suite(page: Page, suites: Suites, bench: SuiteControls, start: gr.Button, stop: gr.Button) -> None:
    turn, status = threading.Lock(), bench.status

    def measure(chosen: Any, num_prompts: Any, num_seeds: Any, base: Sequence[Any]) -> Iterator[dict]:
        request = page.controls.make_request(base)
        suite = suites.plan_suite(request, chosen, num_prompts, num_seeds, page.model.spec)
        total, parts = len(suite.batches), []
        yield {status: show_status(f"0 of {total} batches", "running", 0.0), bench.as_csv: gr.update(visible=False)}
        for part in suites.run_suite(suite, page.model, page.judging.judges):
            parts.append(part)
            rows = pd.concat(parts)
            yield {
                status: show_status(f"{len(parts)} of {total} batches", "running", len(parts) / total),
                bench.shown: show_outcome(suites.summarise(rows, suite), len(rows)),
                bench.as_csv: fill_download(bench.as_csv, rows.to_csv(index=False).encode(), "golden-suite.csv"),
            }
        yield {status: show_status(f"{len(rows)} images.")}

    @no_type_check  # gradio must see that this is a generator, also in tests that check types
    def run(chosen: Any, num_prompts: Any, num_seeds: Any, *base: Any) -> Any:
        if not turn.acquire(blocking=False):
            yield {status: show_status(BUSY, "error")}
            return
        try:
            yield from measure(chosen, num_prompts, num_seeds, base)
        except GoldenError as error:
            yield {status: show_error(error)}
        finally:
            turn.release()

    running = start.click(
        run,
        [bench.arms, bench.num_prompts, bench.num_seeds, *page.controls.inputs],
        [bench.shown, status, bench.as_csv],
        concurrency_id="benchmark",
        concurrency_limit=2,  # so that the second is told to wait at once
        **PAGE,
    )
    connect_stop(stop, running, status, "Stopped; finished batches are kept.")


def connect_reports(page: Page, suites: Suites, bench: SuiteControls, tab: gr.Tab) -> None:
    runs, spec = page.runs, page.model.spec
    is_open = gr.State(False)  # whether the tab was seen before: only then the stored report opens by itself

    def read(name: Any) -> str:
        stored = suites.read_stored_report(spec) if name == "" else None
        return stored if stored is not None else suites.read_report(runs, name)

    def open_tab(seen: bool) -> dict:
        stored = suites.read_stored_report(spec)
        own = [(OWN, "")] if stored is not None else []
        listed = gr.update(choices=own + [(name, name) for name in (suites.list_reports(runs) if runs else ())])
        opened = {bench.shown: show_report(stored)} if stored is not None and not seen else {}
        return {bench.reports: listed, is_open: True} | opened

    def open_report(name: Any) -> dict:
        if name is None:
            return {bench.status: gr.skip()}
        try:
            return {bench.shown: show_report(read(name)), bench.status: ""}
        except GoldenError as error:
            return {bench.status: show_error(error)}

    tab.select(open_tab, [is_open], [bench.reports, bench.shown, is_open], **PAGE)
    bench.reports.input(open_report, [bench.reports], [bench.shown, bench.status], **PAGE)


def show_outcome(outcome: OutcomeView, num_images: int) -> str:
    """How every arm compares with standard so far: bars with intervals, then tables."""
    bars = draw_bars([gain.points for gain in outcome.gains])
    gains = list(zip(outcome.gains, bars, strict=True))
    limit = f"{find_limit([gain.points for gain in outcome.gains]):g}"
    return render("tables", gains=gains, limit=limit, tables=outcome.tables, note=outcome.note, num_images=num_images)


def find_limit(intervals: Sequence[Interval]) -> float:
    """The end of the axis, in percentage points: the smallest of LIMITS that holds every interval."""
    sizes = [abs(end) for interval in intervals for end in astuple(interval) if math.isfinite(end)]
    return next((limit for limit in LIMITS if max(sizes, default=0.0) <= limit), LIMITS[-1])


def draw_bars(intervals: Sequence[Interval]) -> list[dict[str, Any]]:
    """Where intervals lie on an axis from minus to plus their limit, in percent of its length, and as a label.

    `low` and `width` are None if there is no interval yet.
    """
    limit = find_limit(intervals)

    def place(value: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, value / limit))

    bars = []
    for value, low, high in map(astuple, intervals):
        known = math.isfinite(low) and math.isfinite(high)
        ends = f", 95 % interval {low:+.1f} to {high:+.1f}" if known else ", no interval yet"
        bars.append(
            {
                "at": f"{place(value):.1f}",
                "low": f"{place(low):.1f}" if known else None,
                "width": f"{place(high) - place(low):.1f}" if known else None,
                "label": f"{value:+.1f} points{ends}",
                "better": known and low > 0,
            }
        )
    return bars


def show_report(html: str) -> str:
    """A report in a frame of its own, in which nothing can run."""
    return render("report", html=html)


TAB = Tab("Benchmark", 5, build)
