"""The report of a run, written as text, Markdown, LaTeX and one HTML page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from eval.answer import write_answer
from eval.golden_noise import tabulate
from eval.page import fill_template
from eval.plots import Plot, save_plot
from eval.results import Gallery, Results, Section
from eval.runs import explain_write_errors
from eval.sections import first_section, make_sections
from eval.tables import Table, begin, format_latex, format_markdown, format_text
from golden.files import write_bytes

NUM_IN_TERMINAL = 3  # sections
COMPARISONS = "comparisons.csv"


def write_report(results: Results, folder: Path) -> str:
    """Write report.html, report.md, tables.tex, answer.json and plots/; returns the text for the terminal.

    Suites of several samplings also write comparisons.csv.

    Raises: GoldenError in one sentence if the folder cannot be written.
    """
    sections = make_sections(results)
    _write(
        folder, begin(results.suite.title), f"{results.suite.source} · {results.model} · {results.prompts}", sections
    )
    with explain_write_errors(folder):
        write_answer([results], folder)
        if results.suite.at_samplings:
            write_bytes(folder / COMPARISONS, tabulate(results).to_csv(index=False).encode())
    return to_text(sections)


def write_joint_report(finished: Sequence[Results], folder: Path) -> None:
    """Write the first section of each of several runs as one report, their answers as one, and all comparisons.

    Raises: as `write_report`.
    """
    suite, model = finished[0].suite, finished[0].model
    sections = [replace(first_section(each), title=f"On {each.prompts}") for each in finished]
    sets = ", ".join(results.prompts for results in finished)
    _write(folder, begin(suite.title), f"{suite.source} · {model} · {sets}", sections)
    with explain_write_errors(folder):
        write_answer(finished, folder)
        if suite.at_samplings:
            tables = pd.concat([tabulate(results) for results in finished])
            write_bytes(folder / COMPARISONS, tables.to_csv(index=False).encode())


def _write(folder: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    with explain_write_errors(folder):
        for plot in (plot for section in sections for plot in section.of_kind(Plot)):
            save_plot(plot, folder / "plots")
        write_bytes(folder / "report.md", to_markdown(title, subtitle, sections).encode())
        tables = "\n\n".join(format_latex(table) for section in sections for table in section.of_kind(Table))
        write_bytes(folder / "tables.tex", f"% needs \\usepackage{{booktabs}}\n{tables}\n".encode())
        write_bytes(folder / "report.html", to_html(title, subtitle, sections).encode())


def to_text(sections: Sequence[Section]) -> str:
    """Sentences and tables of the first sections for the terminal; the rest is in the report."""
    parts = [
        "\n\n".join([f"== {section.title}", *filter(None, [section.text]), *map(format_text, section.of_kind(Table))])
        for section in sections[:NUM_IN_TERMINAL]
    ]
    return "\n\n".join(parts)


def to_markdown(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The report in Markdown with links to its plots; galleries are in the HTML page only."""
    parts = [f"# {title}", subtitle]
    for section in sections:
        blocks = [
            format_markdown(block)
            if isinstance(block, Table)
            else f"![{block.title}](plots/{block.name}.png)\n\n*{block.note}*"
            for block in section.blocks
            if not isinstance(block, Gallery)
        ]
        if blocks:
            parts += [f"## {section.title}", *filter(None, [section.text]), *blocks]
    return "\n\n".join(parts) + "\n"


def to_html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """One self-contained page: no script, no other file, every text escaped; light or dark as the reader prefers."""
    return fill_template("report.html", title=title, subtitle=subtitle, sections=sections)
