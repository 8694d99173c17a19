"""Tables, written for the terminal, in Markdown, in LaTeX and in HTML, and what their cells look like."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from eval.page import call_macro
from eval.summary import RIGHT
from golden.judges import JUDGES
from golden.statistics import Interval


@dataclass(frozen=True)
class Table:
    """Text cells under a header; the first column names the row. `bold` holds (row, column) of cells to emphasise."""

    kind: ClassVar[str] = "table"
    title: str
    header: Sequence[str]
    body: Sequence[Sequence[str]]
    note: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()


# --- writing ----------------------------------------------------------------------------------------------------------


def format_text(table: Table) -> str:
    """Columns aligned with spaces, the first on the left and the others on the right."""
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
    """A Markdown table, as GitHub reads it, under its title."""

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
    """A LaTeX table with the rules of booktabs, as in the paper."""

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
    """Text with all special characters of LaTeX escaped."""
    return "".join(_LATEX.get(mark, mark) for mark in text)


def format_html(table: Table) -> str:
    """An HTML table, every text escaped."""
    return str(call_macro("table.html", "show", table))


# --- cells ------------------------------------------------------------------------------------------------------------


def find_units(metric: str) -> tuple[float, int]:
    """What tables multiply a metric by, and the decimals that they print; an unknown metric is printed as it is."""
    if metric == RIGHT:
        return 100, 2
    judge = JUDGES.get(metric)
    return (judge.table_factor, judge.digits) if judge else (1, 4)


def format_value(metric: str, value: float) -> str:
    """A mean in the paper's units and digits; shares of right images in percent."""
    factor, digits = find_units(metric)
    return f"{factor * value:.{digits}f}"


def format_difference(metric: str, interval: Interval) -> str:
    """ "+1.20 [+0.31, +2.09]", in the metric's units; percentage points for shares of right images."""
    factor, digits = find_units(metric)
    scaled = Interval(factor * interval.value, factor * interval.low, factor * interval.high)
    return format_interval(scaled, digits, signed=True)


def format_interval(interval: Interval, digits: int = 2, signed: bool = False) -> str:
    """ "1.20 [0.31, 2.09]", or "1.20" without an interval; with a plus before positive numbers if `signed`."""
    style = f"{'+' if signed else ''}.{digits}f"
    if math.isnan(interval.low):
        return f"{interval.value:{style}}"
    return f"{interval.value:{style}} [{interval.low:{style}}, {interval.high:{style}}]"


def format_rate(rate: Interval) -> str:
    """ "54.0 % [51.2, 56.8]" of a share."""
    ends = "" if math.isnan(rate.low) else f" [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    return f"{100 * rate.value:.1f} %{ends}"


def format_p(value: float) -> str:
    """A p value with three digits, small ones as a bound."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def begin(text: str) -> str:
    """Text as the beginning of a sentence, the rest of it as it is: names of judges have capitals of their own."""
    return text[:1].upper() + text[1:]


def name_metric(metric: str) -> str:
    """A metric as a heading."""
    return "right images (%)" if metric == RIGHT else metric
