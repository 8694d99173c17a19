"""Tables as text: for the terminal, in Markdown and in LaTeX."""

import math
from collections.abc import Sequence

import pandas as pd

from eval.statistics import Interval
from eval.summary import RIGHT, Effect, find_metrics, means_by_category


def format_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by spaces, the first to the left and the others to the right."""
    widths = [max(len(row[index]) for row in [header, *rows]) for index in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def format_value(metric: str, value: float) -> str:
    """A mean in the metric's usual digits; shares of right pictures in percent."""
    return f"{100 * value:.2f}" if metric == RIGHT else f"{value:.4f}"


def format_difference(metric: str, interval: Interval) -> str:
    """ "+1.20 [+0.31, +2.09]", in percentage points for shares of right pictures."""
    scale, digits = (100, 2) if metric == RIGHT else (1, 4)
    value, low, high = (scale * number for number in (interval.value, interval.low, interval.high))
    ends = "no interval" if math.isnan(low) else f"[{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{value:+.{digits}f} {ends}"


def format_p(value: float) -> str:
    """A p value with three digits, small ones as a bound."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def name_metric(metric: str) -> str:
    """A metric as a heading."""
    return "right pictures (%)" if metric == RIGHT else metric


def format_means(rows: pd.DataFrame, metric: str) -> str:
    """Means by variant and category."""
    table = means_by_category(rows, metric)
    body = [[str(name), *(format_value(metric, value) for value in values)] for name, *values in table.itertuples()]
    return format_text([name_metric(metric), *table.columns], body)


EFFECT_HEADER = [
    "variant",
    "difference [95 %]",
    "wins",
    "ties",
    "losses",
    "winning rate [95 %]",
    "sign test p",
    "prompts needed",
]


def effect_cells(effect: Effect) -> list[str]:
    """The cells of EFFECT_HEADER for one effect."""
    rate = effect.rate
    ends = "" if math.isnan(rate.low) else f" [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    return [
        effect.variant,
        format_difference(effect.metric, effect.difference),
        str(effect.wins.wins),
        str(effect.wins.ties),
        str(effect.wins.losses),
        f"{100 * rate.value:.1f} %{ends}",
        format_p(effect.p_holm),
        f"{effect.prompts_needed:,}" if effect.prompts_needed else "-",
    ]


def format_effects(effects: Sequence[Effect]) -> str:
    """The comparisons of one metric and category."""
    return format_text(EFFECT_HEADER, [effect_cells(effect) for effect in effects])


def format_category_differences(effects: Sequence[Effect]) -> str:
    """Differences with intervals of one metric: a row per variant and category."""
    names = list(dict.fromkeys(effect.variant for effect in effects))
    body = [
        [effect.variant, effect.category, str(effect.num_prompts), format_difference(effect.metric, effect.difference)]
        for effect in sorted(effects, key=lambda effect: names.index(effect.variant))
    ]
    return format_text(["variant", "category", "prompts", "difference [95 %]"], body)


def format_report(rows: pd.DataFrame, effects: Sequence[Effect], by_category: Sequence[Effect]) -> str:
    """Everything that the terminal shows at the end of a run."""
    blocks = []
    for metric in find_metrics(rows):
        blocks.append(format_means(rows, metric))
        if chosen := [effect for effect in effects if effect.metric == metric]:
            against = ", ".join(dict.fromkeys(effect.baseline for effect in chosen))
            blocks.append(f"{name_metric(metric)} against {against}:\n{format_effects(chosen)}")
        if chosen := [effect for effect in by_category if effect.metric == metric]:
            blocks.append(f"{name_metric(metric)} by category:\n{format_category_differences(chosen)}")
    return "\n\n".join(blocks)
