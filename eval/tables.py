"""Tables: built from figures, and written for the terminal, in Markdown, in LaTeX and in HTML."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from eval.paper import METRICS, PAPER
from golden.statistics import Interval
from eval.summary import RIGHT, Effect, means_by_category, preference


@dataclass(frozen=True)
class Table:
    """Cells as text under a header; the first column names the row. `bold` are (row, column) of cells to stand out."""

    title: str
    header: Sequence[str]
    body: Sequence[Sequence[str]]
    note: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()


# --- writing ----------------------------------------------------------------------------------------------------------


def format_text(table: Table) -> str:
    """Columns aligned by spaces, the first to the left and the others to the right."""
    rows = [table.header, *table.body]
    widths = [max(len(row[index]) for row in rows) for index in range(len(table.header))]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([f"{table.title}:", *lines, *([table.note] if table.note else [])])


def format_markdown(table: Table) -> str:
    """A table of GitHub's Markdown under its title."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    ruler = "|---|" + "---:|" * (len(table.header) - 1)
    marked = [
        [f"**{cell}**" if (i, j) in table.bold else cell for j, cell in enumerate(row)]
        for i, row in enumerate(table.body)
    ]
    lines = [f"**{table.title}**", "", line(table.header), ruler, *map(line, marked)]
    return "\n".join([*lines, *(["", table.note] if table.note else [])])


def format_latex(table: Table) -> str:
    """A table of booktabs, in the paper's layout."""

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(cells) + r" \\"

    marked = [
        [rf"\textbf{{{to_latex(cell)}}}" if (i, j) in table.bold else to_latex(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(table.body)
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{to_latex(' '.join([table.title + '.', table.note]).strip())}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            line([to_latex(cell) for cell in table.header]),
            r"\midrule",
            *map(line, marked),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_LATEX |= {">": r"\textgreater{}"} | {mark: f"\\{mark}" for mark in "&%$#_{}"}


def to_latex(text: str) -> str:
    """Text in which nothing is a command of LaTeX."""
    return "".join(_LATEX.get(mark, mark) for mark in text)


def format_html(table: Table) -> str:
    """A table of HTML, every text escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = []
    for i, row in enumerate(table.body):
        cells = [
            f"<{tag}{' class=bold' if (i, j) in table.bold else ''}>{escape(cell)}</{tag}>"
            for j, (cell, tag) in enumerate(zip(row, ["th", *["td"] * (len(row) - 1)], strict=True))
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    note = f"<p class=note>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<figure class=table><figcaption>{escape(table.title)}</figcaption><div class=scroll><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}</figure>"
    )


# --- cells ------------------------------------------------------------------------------------------------------------

# In the paper's units: (factor, digits). Others, such as a judge of one's own, are printed as they are.
UNITS = {RIGHT: (100, 2), "PickScore": (1, 2), "HPSv2": (1, 2), "AES": (1, 4), "ImageReward": (100, 2)}
UNITS |= {"CLIPScore": (100, 2), "MPS": (1, 3)}


def format_value(metric: str, value: float) -> str:
    """A mean in the paper's units and digits; shares of right pictures in percent."""
    factor, digits = UNITS.get(metric, (1, 4))
    return f"{factor * value:.{digits}f}"


def format_difference(metric: str, interval: Interval) -> str:
    """ "+1.20 [+0.31, +2.09]", in the metric's units, percentage points for shares of right pictures."""
    factor, digits = UNITS.get(metric, (1, 4))
    value, low, high = (factor * number for number in (interval.value, interval.low, interval.high))
    ends = "no interval" if math.isnan(low) else f"[{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{value:+.{digits}f} {ends}"


def format_interval(interval: Interval, digits: int = 2) -> str:
    """ "1.20 [0.31, 2.09]"."""
    if math.isnan(interval.low):
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def format_p(value: float) -> str:
    """A p value with three digits, small ones as a bound."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def name_metric(metric: str) -> str:
    """A metric as a heading."""
    return "right pictures (%)" if metric == RIGHT else metric


# --- building ---------------------------------------------------------------------------------------------------------


def layout_table(rows: pd.DataFrame, effects: Sequence[Effect], metrics: Sequence[str]) -> Table:
    """The paper's Table 2: a row per variant, a column per metric, in the paper's units, the best of each in bold."""
    shown = [*(name for name in METRICS if name in metrics), *(name for name in metrics if name not in METRICS)]
    means = rows.groupby("variant", sort=False)[list(shown)].mean().astype(float)
    if "MPS" in shown:  # as the paper has it: how probably the judge prefers the variant to its baseline
        pairs = {(effect.variant, effect.baseline) for effect in effects}
        means["MPS"] = 0.5
        for variant, baseline in pairs:
            means.loc[variant, "MPS"] = preference(rows, variant, baseline)
    header = ["arm", *("MPS (%)" if name == "MPS" else name_metric(name) for name in shown)]
    body = [
        [str(name), *(f"{100 * v:.2f}" if m == "MPS" else format_value(m, v) for m, v in zip(shown, row, strict=True))]
        for name, row in zip(means.index, means.to_numpy(), strict=True)
    ]
    best = frozenset((int(means[name].to_numpy().argmax()), column) for column, name in enumerate(shown, start=1))
    note = (
        "ImageReward and CLIPScore are times 100. MPS is how probably it prefers the arm to its baseline, 50 for none."
    )
    return Table("Means", header, body, note if "MPS" in shown else "", best)


def paper_table(model: str, prompts: str) -> Table:
    """What the paper reports: its figures for this model and prompt set, or else for SDXL on Pick-a-Pic."""
    own = (model, prompts) in PAPER
    found = (model, prompts) if own else ("sdxl", "pick-a-pic")
    figures = PAPER[found]
    names = {"sdxl": "SDXL", "dreamshaper": "DreamShaper", "pick-a-pic": "Pick-a-Pic", "geneval": "GenEval"}
    digits = {name: 4 if name == "AES" else 2 for name in figures}
    body = [
        ["standard", *(f"{old:.{digits[name]}f}" for name, (old, _) in figures.items())],
        ["NPNet", *(f"{new:.{digits[name]}f}" for name, (_, new) in figures.items())],
        ["difference", *(f"{new - old:+.{digits[name]}f}" for name, (old, new) in figures.items())],
    ]
    note = "" if own else "Of another model and other judges: the scales cannot be compared, only the directions."
    title = f"The paper's own figures, {names[found[0]]} on {names[found[1]]}"
    return Table(title, ["arm", *("MPS (%)" if name == "MPS" else name for name in figures)], body, note)


def effects_table(effects: Sequence[Effect]) -> Table:
    """One variant against its baseline, a row per metric."""
    counts = ["wins", "ties", "losses", "winning rate [95 %]", "sign test p", "prompts needed"]
    body = [
        [
            name_metric(effect.metric),
            format_difference(effect.metric, effect.difference),
            str(effect.wins.wins),
            str(effect.wins.ties),
            str(effect.wins.losses),
            format_rate(effect.rate),
            format_p(effect.p_holm),
            f"{effect.prompts_needed:,}" if effect.prompts_needed else "-",
        ]
        for effect in effects
    ]
    bold = frozenset((i, 1) for i, effect in enumerate(effects) if effect.difference.excludes_zero)
    title = f"{effects[0].variant} against {effects[0].baseline}"
    return Table(title, ["metric", "difference [95 %]", *counts], body, bold=bold)


def format_rate(rate: Interval) -> str:
    """ "54.0 % [51.2, 56.8]" of a share."""
    ends = "" if math.isnan(rate.low) else f" [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    return f"{100 * rate.value:.1f} %{ends}"


def category_means_table(rows: pd.DataFrame, metric: str) -> Table:
    """Means by variant and category."""
    table = means_by_category(rows, metric)
    body = [[str(name), *(format_value(metric, value) for value in values)] for name, *values in table.itertuples()]
    return Table(f"Means of {name_metric(metric)} by category", ["arm", *table.columns], body)


def category_effects_table(effects: Sequence[Effect]) -> Table:
    """Differences with intervals of one metric: a row per category, a column per variant."""
    names = list(dict.fromkeys(effect.variant for effect in effects))
    rows: dict[str, list[str]] = {}
    for effect in effects:
        rows.setdefault(effect.category, [effect.category, str(effect.num_prompts)])
    bold = set()
    for name in names:
        for i, effect in enumerate(effect for effect in effects if effect.variant == name):
            rows[effect.category].append(format_difference(effect.metric, effect.difference))
            if effect.difference.excludes_zero:
                bold.add((i, 2 + names.index(name)))
    title = f"Differences in {name_metric(effects[0].metric)} by category"
    return Table(title, ["category", "prompts", *names], [*rows.values()], bold=frozenset(bold))


def matrix_table(
    title: str, matrix: Mapping[tuple[str, str], Interval], held_out: Mapping[str, float], note: str
) -> Table:
    """Gains by (who chooses, who looks); in bold those whose interval excludes zero."""
    choosers = list(dict.fromkeys(first for first, _ in matrix))
    lookers = list(dict.fromkeys(second for _, second in matrix))
    body = [
        [f"by {name}", *(f"{matrix[name, other].value:+.2f}" for other in lookers), f"{held_out[name]:+.2f}"]
        for name in choosers
    ]
    bold = frozenset(
        (i, j)
        for i, name in enumerate(choosers)
        for j, other in enumerate(lookers, start=1)
        if matrix[name, other].excludes_zero
    )
    return Table(title, ["chosen", *lookers, "held-out mean"], body, note, bold)
