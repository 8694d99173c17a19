"""The figures of a report. Each is drawn once, and written as PNG, as SVG, and as SVG in the colours of the page."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import matplotlib
from cycler import cycler

matplotlib.use("Agg")

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import pyplot
from matplotlib.figure import Figure
from numpy.typing import NDArray

from eval.summary import ALL, RIGHT, Effect
from eval.tables import find_units, name_metric
from golden.files import atomic_path
from golden.statistics import Interval

INK = "#24292f"  # becomes the colour of the page's text
STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "golden",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.use": True,
    # Distinguishable without colour vision, on white and on black.
    "axes.prop_cycle": cycler(color=["#2f7fd0", "#1f9d76", "#c2568f", "#d1603d", "#6f6fd1", "#3aa3b8", "#8a8a5c"]),
}
COLOURS = {"standard": "#7d8590", "npnet": "#c98a00"}


@dataclass(frozen=True)
class Plot:
    """A figure, its title, the name of its files and a sentence on what it shows."""

    kind: ClassVar[str] = "plot"
    title: str
    name: str
    figure: Figure
    note: str = ""

    @property
    def svg(self) -> Markup:
        """The figure as an element of a page; matplotlib escapes its texts."""
        return Markup(inline_svg(self))


def save_plot(plot: Plot, folder: Path) -> None:
    """Write NAME.png and NAME.svg."""
    for kind in ("png", "svg"):
        with matplotlib.rc_context(STYLE), atomic_path(folder / f"{plot.name}.{kind}") as temporary:
            metadata = {"Date": None} if kind == "svg" else None
            plot.figure.savefig(temporary, format=kind, dpi=160, facecolor="white", metadata=metadata)


def inline_svg(plot: Plot) -> str:
    """The figure as an <svg> element for a page, transparent, its text in the page's colour."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        plot.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # Figures on one page must not share the names of their parts.
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{plot.name}-", svg)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def _axes(rows: int = 1, columns: int = 1, width: float = 7.2, height: float = 3.2) -> tuple[Figure, NDArray]:
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False)
    pyplot.close(figure)  # or pyplot would keep it in memory
    return figure, axes


def _colour(name: str, index: int) -> str:
    return COLOURS.get(name) or STYLE["axes.prop_cycle"].by_key()["color"][index % 7]


def _drawn(function: Any) -> Any:
    """Let a function draw under STYLE."""

    def draw(*arguments: Any, **options: Any) -> Plot:
        with matplotlib.rc_context(STYLE):
            return function(*arguments, **options)

    return draw


# --- figures ----------------------------------------------------------------------------------------------------------


@_drawn
def win_rates(effects: Sequence[Effect]) -> Plot:
    """By judge and variant, the win rate over the baseline with its interval."""
    judged = [effect for effect in effects if effect.metric != RIGHT]
    metrics = list(dict.fromkeys(effect.metric for effect in judged))
    names = list(dict.fromkeys(effect.variant for effect in judged))
    figure, axes = _axes(height=1.2 + 0.24 * len(metrics) * max(2, len(names)) * 0.8)
    axis = axes[0, 0]
    for index, name in enumerate(names):
        own = [effect for effect in judged if effect.variant == name]
        y = np.array([metrics.index(effect.metric) for effect in own]) + (index - (len(names) - 1) / 2) * 0.8 / len(
            names
        )
        _dots(axis, [effect.rate for effect in own], y, 100, name, _colour(name, index))
    axis.axvline(50, color=INK, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(metrics)), metrics)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("pairs won (%)")
    _legend(figure, len(names))
    note = "The share of pairs (same prompt and seed) in which a judge scores the arm strictly higher."
    return Plot("Win rates", "win_rates", figure, note)


@_drawn
def right_differences(effects: Sequence[Effect]) -> Plot:
    """By category and variant, the difference in right images with its interval."""
    categories = list(dict.fromkeys(effect.category for effect in effects))
    names = list(dict.fromkeys(effect.variant for effect in effects))
    figure, axes = _axes(height=1.2 + 0.2 * len(categories) * max(2, len(names)))
    axis = axes[0, 0]
    for index, name in enumerate(names):
        own = [effect for effect in effects if effect.variant == name]
        y = np.array([categories.index(effect.category) for effect in own])
        y = y + (index - (len(names) - 1) / 2) * 0.8 / len(names)
        _dots(axis, [effect.difference for effect in own], y, 100, name, _colour(name, index))
    axis.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(categories)), ["all prompts" if name == ALL else name for name in categories])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("right images, percentage points above the baseline")
    _legend(figure, len(names))
    note = (
        "Differences to the baseline with 95 % intervals (bootstrap over prompts); one that includes 0 settles nothing."
    )
    return Plot("Right images by category of prompt", "right_differences", figure, note)


def _dots(axis: Any, intervals: Sequence[Interval], y: NDArray, scale: float, label: str, colour: str) -> None:
    value, low, high = (np.array([getattr(i, end) for i in intervals]) * scale for end in ("value", "low", "high"))
    axis.errorbar(
        value, y, xerr=[value - low, high - value], fmt="o", markersize=4.5, linewidth=1.6, color=colour, label=label
    )


def _legend(figure: Figure, num: int) -> None:
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(num, 4))


@_drawn
def difference_distributions(pairs: pd.DataFrame, metrics: Sequence[str], variant: str, baseline: str) -> Plot:
    """Histograms of paired differences, one per judge."""
    judges = [name for name in metrics if name != RIGHT]
    columns = min(3, len(judges))
    rows = -(-len(judges) // columns)
    figure, axes = _axes(rows, columns, height=0.5 + 1.8 * rows)
    for axis, name in zip(axes.flat, judges, strict=False):
        values = pairs[f"{name}_difference"].to_numpy(float)
        limit = np.quantile(np.abs(values), 0.99) or 1.0
        axis.hist(np.clip(values, -limit, limit), bins=31, range=(-limit, limit), color=_colour(variant, 0), alpha=0.85)
        axis.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        axis.axvline(values.mean(), color=INK, linewidth=1.4)
        axis.set_title(name)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
    for axis in axes.flat[len(judges) :]:
        axis.set_visible(False)
    note = f"{variant} minus {baseline}, one value per pair, clipped at the 99th percentile; the line is the mean."
    return Plot("Distribution of differences", "differences", figure, note)


@_drawn
def curves(means: Mapping[str, Mapping[str, Sequence[tuple[float, Interval]]]], axis_name: str) -> Plot:
    """By metric and arm, means with intervals along a setting: `means[metric][arm]` = [(setting, mean), ...]."""
    columns = min(3, len(means))
    rows = -(-len(means) // columns)
    figure, axes = _axes(rows, columns, height=0.7 + 2.1 * rows, width=7.2 if columns > 1 else 5)
    for axis, (metric, arms) in zip(axes.flat, means.items(), strict=False):
        factor, _ = find_units(metric)
        for index, (arm, points) in enumerate(arms.items()):
            x = [value for value, _ in points]
            mean, low, high = (
                np.array([getattr(i, end) for _, i in points]) * factor for end in ("value", "low", "high")
            )
            axis.plot(x, mean, "o-", markersize=4, color=_colour(arm, index), label=arm)
            axis.fill_between(x, low, high, color=_colour(arm, index), alpha=0.15, linewidth=0)
        axis.set_title(name_metric(metric))
        axis.set_xlabel(axis_name)
    for axis in axes.flat[len(means) :]:
        axis.set_visible(False)
    _legend(figure, 4)
    return Plot(f"Along the {axis_name}", "curves", figure, "Means with 95 % intervals (bootstrap over prompts).")


@_drawn
def quality_against_time(points: Mapping[str, tuple[float, Interval]], metric: str) -> Plot:
    """A dot per variant: seconds per image on the x axis, the metric on the y axis. Equal arms share a colour."""
    factor, _ = find_units(metric)
    figure, axes = _axes(height=3.6)
    axis = axes[0, 0]
    arms = list(dict.fromkeys(name.split(" ", 1)[0] for name in points))
    named: set[str] = set()
    for name, (seconds, mean) in points.items():
        arm, _, label = name.partition(" ")
        colour = _colour(arm, arms.index(arm))
        error = [[factor * (mean.value - mean.low)], [factor * (mean.high - mean.value)]]
        axis.errorbar(seconds, factor * mean.value, yerr=error, fmt="o", color=colour, alpha=0.9, linewidth=1)
        if (label or arm) not in named:  # once, if several arms have it
            axis.annotate(label or arm, (seconds, factor * mean.value), (5, 4), textcoords="offset points", fontsize=8)
        named.add(label or arm)
    for index, arm in enumerate(arms):
        axis.plot([], [], "o", color=_colour(arm, index), label=arm)
    axis.set_xlabel("seconds per image")
    axis.set_ylabel(name_metric(metric))
    _legend(figure, len(arms))
    note = "Seconds of this run on this machine, including NPNet and decoding; the bars are 95 % intervals."
    return Plot("Quality against time", "quality_against_time", figure, note)


@_drawn
def best_of_n(curves_by_judge: Mapping[str, NDArray], golden: Interval, metric: str, variant: str) -> Plot:
    """Mean of a metric over the number of standard seeds that a judge chooses among, and the golden images' mean."""
    factor, _ = find_units(metric)
    figure, axes = _axes(height=3.4)
    axis = axes[0, 0]
    for index, (judge, curve) in enumerate(curves_by_judge.items(), start=1):
        label = "the exact check" if judge == RIGHT else judge
        axis.plot(range(1, len(curve) + 1), factor * curve, "o-", markersize=3.5, color=_colour("", index), label=label)
    axis.axhline(factor * golden.value, color=_colour(variant, 0), linewidth=2, label=f"{variant}, one seed")
    if not math.isnan(golden.low):
        axis.axhspan(factor * golden.low, factor * golden.high, color=_colour(variant, 0), alpha=0.15, linewidth=0)
    axis.set_xlabel("standard seeds to choose from")
    axis.set_ylabel(name_metric(metric))
    axis.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, 4)
    note = "The expected score when a judge picks the best of N standard images, against one golden image."
    return Plot(f"Best of N standard seeds, in {name_metric(metric)}", f"best_of_n_{metric.lower()}", figure, note)


@_drawn
def similarity(lines: Mapping[str, tuple[NDArray, NDArray]]) -> Plot:
    """By arm, how well each singular vector keeps its direction: left and right, largest singular value first."""
    figure, axes = _axes(1, 2, height=3)
    for axis, title, side in zip(axes[0], ("left singular vectors", "right singular vectors"), (0, 1), strict=True):
        for index, (arm, both) in enumerate(lines.items()):
            axis.plot(np.arange(1, len(both[side]) + 1), both[side], color=_colour(arm, index), label=arm)
        axis.set_ylim(0, 1.02)
        axis.set_title(title)
        axis.set_xlabel("rank of the singular value")
    _legend(figure, 4)
    note = "|cosine| between the singular vectors of the source noise and the arm's, rank by rank; 1 is unchanged."
    return Plot("Similarity of singular vectors", "singular_vectors", figure, note)
