"""The report of a run: sections of tables, plots and pictures, written as text, Markdown, LaTeX and one HTML page."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from eval.distances import diversity
from eval.plots import (
    Plot,
    best_of_n,
    curves,
    difference_distributions,
    inline_svg,
    quality_against_time,
    right_differences,
    save_plot,
    similarity,
    winning_rates,
)
from eval.rendering import Variant, group_by_sampling
from eval.runs import said_plainly
from eval.selection import (
    best_of,
    best_of_curve,
    held_out_gain,
    judge_matrix,
    pairs_matrix,
    scores_of,
    worth_in_seeds,
)
from golden.statistics import Interval, bootstrap_mean
from eval.suites import Suite
from eval.summary import RIGHT, Effect, find_metrics, mean_of, pair_rows
from eval.tables import (
    UNITS,
    Table,
    category_effects_table,
    category_means_table,
    effects_table,
    format_difference,
    format_html,
    format_interval,
    format_latex,
    format_markdown,
    format_text,
    format_value,
    layout_table,
    matrix_table,
    name_metric,
    paper_table,
)
from golden.files import write_bytes

NUM_SHOWN = 6  # prompts in a gallery
NUM_IN_TERMINAL = 3  # sections
STYLE_SHEET = Path(__file__).with_name("report.css")


@dataclass(frozen=True)
class Gallery:
    """Rows of small pictures: what stands above a row, and its (label, WebP) pictures."""

    title: str
    rows: Sequence[tuple[str, Sequence[tuple[str, bytes]]]]
    note: str = ""


Block = Table | Plot | Gallery


@dataclass(frozen=True)
class Section:
    """A heading, a few sentences, and what they speak of."""

    title: str
    text: str
    blocks: Sequence[Block]

    def of_kind(self, kind: type) -> list[Any]:
        """The blocks of one kind."""
        return [block for block in self.blocks if isinstance(block, kind)]


@dataclass(frozen=True)
class Results:
    """Everything that a finished run measured.

    `extras` are thumbnails and features of the rows; `singular` by arm what `singular_similarity` says; `frechet` by
    variant the distance to real pictures; `pairs` the rows of the folder of pairs that networks were trained on.
    """

    suite: Suite
    model: str
    prompts: str
    variants: Sequence[Variant]
    rows: pd.DataFrame
    effects: Sequence[Effect]
    by_category: Sequence[Effect]
    timings: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any]
    extras: pd.DataFrame
    left_out: str = ""
    singular: Mapping[str, tuple[NDArray, NDArray]] = field(default_factory=dict)
    frechet: Mapping[str, Interval] = field(default_factory=dict)
    pairs: pd.DataFrame | None = None

    @property
    def metrics(self) -> list[str]:
        return find_metrics(self.rows)

    @property
    def num_seeds(self) -> int:
        return self.rows["seed"].nunique()

    @property
    def focus(self) -> Variant | None:
        """The variant that the report looks at closely: the first NPNet's, or the first that has a baseline."""
        names = {variant.name for variant in self.variants}
        compared = [variant for variant in self.variants if variant.baseline in names - {variant.name}]
        return next((v for v in compared if v.arm == "npnet"), compared[0] if compared else None)


# --- sections ---------------------------------------------------------------------------------------------------------


def make_sections(results: Results) -> list[Section]:
    """The report, from the result down to how it was made; a section that has nothing to say is left out."""
    return [section for make in SECTIONS if (section := make(results)) and (section.blocks or section.text)]


def result(results: Results) -> Section:
    blocks: list[Block] = [layout_table(results.rows, results.effects, results.metrics)]
    if any(metric in results.metrics for metric in ("PickScore", "HPSv2")):
        blocks.append(paper_table(results.model, results.prompts))
    text = " ".join(filter(None, [results.left_out, say_result(results)]))
    return Section("The result", text, blocks)


def say_result(results: Results) -> str:
    """The first finding in words: what the focus gains in the first metric, and whether the pictures settle it."""
    focus, metric = results.focus, results.metrics[0]
    effect = next((e for e in results.effects if focus and e.variant == focus.name and e.metric == metric), None)
    if effect is None:
        return ""
    found = format_difference(metric, effect.difference)
    settled = (
        "The interval lies on one side of zero."
        if effect.difference.excludes_zero
        else "The interval holds zero: these pictures do not settle which is better."
    )
    needed = (
        f" An effect of this size would show in four of five studies of {effect.prompts_needed:,} prompts."
        if effect.prompts_needed and not effect.difference.excludes_zero
        else ""
    )
    return (
        f"{name_metric(metric).capitalize()}: {format_value(metric, effect.mean)} of {effect.variant} against "
        f"{format_value(metric, effect.baseline_mean)} of {effect.baseline}, a difference of {found} "
        f"over {effect.num_prompts} prompts. {settled}{needed}"
    )


def differences(results: Results) -> Section:
    blocks: list[Block] = []
    for name in dict.fromkeys(effect.variant for effect in results.effects):
        blocks.append(effects_table([effect for effect in results.effects if effect.variant == name]))
    if blocks and any(effect.metric != RIGHT for effect in results.effects):
        blocks.append(winning_rates(results.effects))
        if results.focus:
            pairs = pair_rows(results.rows, results.focus.name, results.focus.baseline, results.metrics)
            blocks.append(difference_distributions(pairs, results.metrics, results.focus.name, results.focus.baseline))
    text = (
        "Every picture is compared with the baseline's of the same prompt and seed. Intervals and tests count prompts, "
        "not pictures; p values of several judges are corrected by Holm's rule. A tie is not a win."
    )
    return Section("Differences", text if blocks else "", blocks)


def categories(results: Results) -> Section:
    groups = list(dict.fromkeys(effect.category for effect in results.by_category))
    metric = results.metrics[0]
    if not groups:
        return Section("By kind of prompt", "", [])
    chosen = [effect for effect in results.by_category if effect.metric == metric]
    blocks: list[Block] = [category_means_table(results.rows, metric), category_effects_table(chosen)]
    if metric == RIGHT:
        overall = [effect for effect in results.effects if effect.metric == RIGHT]
        blocks.append(right_differences([*overall, *chosen]))
    return Section("By range of seeds" if len(results.suite.seed_starts) > 1 else "By kind of prompt", "", blocks)


def along_axis(results: Results) -> Section:
    axis = results.suite.axis
    title = f"Along the {axis.replace('num_inference_steps', 'number of steps').replace('_', ' ')}"
    if not axis:
        return Section(title, "", [])
    words = title.removeprefix("Along the ")
    seconds = seconds_by_variant(results)
    metric = results.metrics[0]
    scatter = quality_against_time(
        {name: (seconds[name], mean_of(results.rows, name, metric)) for name in seconds}, metric
    )
    if axis == "sampler":
        return Section("Samplers", "", [scatter])
    means: dict[str, dict[str, list[tuple[float, Interval]]]] = {}
    for metric in results.metrics:
        for variant in results.variants:
            # The standard arm is NPNet's at strength 0.
            at = 0.0 if axis == "strength" and variant.arm == "standard" else getattr(variant, axis)
            point = (at, mean_of(results.rows, variant.name, metric))
            arm = "npnet" if axis == "strength" else variant.arm
            means.setdefault(metric, {}).setdefault(arm, []).append(point)
    blocks: list[Block] = [curves(means, words)]
    return Section(title, "", [*blocks, *([scatter] if axis == "num_inference_steps" else [])])


def choosing_seeds(results: Results) -> Section:
    """Best of N seeds by each judge, what NPNet is worth in seeds, and judges held out."""
    title, focus = "Choosing among seeds", results.focus
    judges = [metric for metric in results.metrics if metric != RIGHT]
    if results.num_seeds < 2 or not judges or focus is None or focus.arm != "npnet":
        return Section(title, "", [])
    rows, baseline, num = results.rows, focus.baseline, results.num_seeds
    tables = {name: scores_of(rows, baseline, name) for name in results.metrics}
    body = []
    for measured in results.metrics:
        golden = scores_of(rows, focus.name, measured).mean(1)
        cells = [
            format_interval(worth_in_seeds(best_of_curve(tables[chooser], tables[measured]), golden), 1)
            for chooser in dict.fromkeys([measured, *judges[:1]])
        ]
        body.append([name_metric(measured), cells[0], cells[-1]])
    worth = Table(
        f"What {focus.name} is worth in standard seeds",
        ["in the eyes of", "chosen by itself", f"chosen by {judges[0]}"],
        body,
        f"1 is a single seed or less, {num} is {num} or more; intervals by bootstrap over prompts.",
    )
    first = results.metrics[0]
    golden_mean = mean_of(rows, focus.name, first)
    lines = {name: best_of_curve(tables[name], tables[first]).mean(0) for name in results.metrics}
    matrix = judge_matrix(rows, baseline, results.metrics, num)
    note = (
        "Gain over any seed, in standard deviations of the judge that looks; in bold where the 95 % interval excludes "
        "zero. The diagonal flatters: it is the judge's own taste. The last column is the mean of the others."
    )
    held_out = {name: held_out_gain(matrix, name) for name in results.metrics}
    blocks: list[Block] = [
        equal_cost(results, focus),
        worth,
        best_of_n(lines, golden_mean, first, focus.name),
        matrix_table(f"Best of {num} standard seeds, judges held out", matrix, held_out, note),
    ]
    if table := held_out_pairs(results):
        blocks.append(table)
    text = "A judge can choose among standard pictures instead. N seeds cost N pictures, NPNet little more than one."
    return Section(title, text, blocks)


def held_out_pairs(results: Results) -> Table | None:
    """The matrix of judges that keep pairs, where there are pairs that judges have scored."""
    if results.pairs is None:
        return None
    names = [name for name in results.metrics if f"target_{name}" in results.pairs]
    kept = pairs_matrix(results.pairs, names)
    held_out = {name: held_out_gain(kept, name) for name in dict.fromkeys(chooser for chooser, _ in kept)}
    note = (
        "What the pairs kept by one judge (target above source) gain in the eyes of another, in spreads of the second."
    )
    return matrix_table("Pairs of source and target noise, judges held out", kept, held_out, note) if kept else None


def equal_cost(results: Results, focus: Variant) -> Table:
    """What the same seconds buy: one golden picture, or standard seeds among which a judge chooses."""
    rows, seconds = results.rows, seconds_by_variant(results)
    judges = [metric for metric in results.metrics if metric != RIGHT]
    tables = {name: scores_of(rows, focus.baseline, name) for name in results.metrics}
    unit = seconds[focus.baseline] or 1.0
    body = [
        [variant.name, f"{seconds[variant.name] / unit:.2f}"]
        + [format_value(metric, mean_of(rows, variant.name, metric).value) for metric in results.metrics]
        for variant in results.variants
    ]
    body += [
        [f"best of 2 by {judge}", "2.00"]
        + [format_value(metric, best_of(tables[judge], tables[metric], 2).mean()) for metric in results.metrics]
        for judge in judges
    ]
    header = ["pictures", "time", *map(name_metric, results.metrics)]
    note = f"Time as a multiple of one picture of {focus.baseline}, without what the choosing judge takes."
    return Table("What the time buys", header, body, note)


def diversity_of_seeds(results: Results) -> Section:
    title = "Diversity across seeds"
    if results.num_seeds < 2 or "features" not in results.extras:
        return Section(title, "", [])
    body, names = [], {variant.name for variant in results.variants}
    for variant in results.variants:
        own = diversity(results.extras, variant.name)
        change = ""
        if variant.baseline in names and variant.baseline != variant.name:
            less = bootstrap_mean(own - diversity(results.extras, variant.baseline), own.index)
            change = f"{less.value:+.4f} [{less.low:+.4f}, {less.high:+.4f}]"
        body.append([variant.name, format_interval(bootstrap_mean(own, own.index), 4), change])
    text = (
        "Golden noise that pulled every seed to one picture would be no gain. The distance between two pictures of a "
        "prompt is 1 less the cosine of their CLIP embeddings, averaged over pairs of seeds."
    )
    table = Table(
        "Mean distance between the pictures of a prompt", ["arm", "distance [95 %]", "difference [95 %]"], body
    )
    return Section(title, text, [table])


def noises_and_real_pictures(results: Results) -> Section:
    blocks: list[Block] = []
    if results.singular:
        blocks.append(similarity(results.singular))
        body = [[arm, f"{left.mean():.3f}", f"{right.mean():.3f}"] for arm, (left, right) in results.singular.items()]
        blocks.append(Table("Mean over all ranks", ["arm", "left vectors", "right vectors"], body))
    if results.frechet:
        body = [[name, format_interval(value, 4)] for name, value in results.frechet.items()]
        note = (
            "Between Gaussians fitted to CLIP embeddings of the pictures and of real ones. It falls with the number of "
            "pictures: compare arms of one run alone. Differs from the paper: not Inception's features."
        )
        blocks.append(Table("Frechet distance to real pictures", ["arm", "distance [95 %]"], body, note))
    return Section("Noises" if results.singular else "Real pictures", "", blocks)


def losses_and_gains(results: Results) -> Section:
    """The prompts on which the focus loses, and gains, most: by the first metric, then by the mean of all."""
    title, focus = "Where it loses and gains most", results.focus
    if focus is None:
        return Section(title, "", [])
    pairs = pair_rows(results.rows, focus.name, focus.baseline, results.metrics)
    columns = [f"{metric}_difference" for metric in results.metrics]
    by_prompt = pairs.groupby("prompt_index")[columns].mean()
    in_spreads = by_prompt / pairs[columns].std().replace(0, 1).fillna(1)
    ranked = by_prompt[columns[0]][
        in_spreads.assign(all=in_spreads.mean(axis=1)).sort_values([columns[0], "all"]).index
    ]
    lost, gained = ranked[ranked < 0], ranked[ranked > 0].iloc[::-1]
    what = name_metric(results.metrics[0])
    blocks = [
        Gallery(
            f"Where {focus.name} {verb}s most",
            [show_prompt(results, focus, pairs, index, change) for index, change in chosen.head(NUM_SHOWN).items()],
            f"{len(chosen)} of {len(ranked)} prompts {verb} in {what}.",
        )
        for verb, chosen in (("lose", lost), ("gain", gained))
        if len(chosen)
    ]
    return Section(title, "", blocks)


def show_prompt(
    results: Results, focus: Variant, pairs: pd.DataFrame, prompt_index: Any, change: float
) -> tuple[str, list[tuple[str, bytes]]]:
    """A row of a gallery: the prompt with its mean difference, and the pictures of the seeds that differ most."""
    first = results.metrics[0]
    own = pairs[pairs["prompt_index"] == prompt_index]
    seeds = own.loc[own[f"{first}_difference"].abs().sort_values(ascending=False).index, "seed"].head(3)
    rows, extras = (table[table["prompt_index"] == prompt_index] for table in (results.rows, results.extras))
    pictures = []
    for seed in seeds:
        for name in (focus.baseline, focus.name):
            (row,), (extra,) = (
                table[(table["seed"] == seed) & (table["variant"] == name)].to_dict("records")
                for table in (rows, extras)
            )
            verdict = {True: ", right", False: ", wrong"}[row[RIGHT]] if RIGHT in row else ""
            pictures.append((f"{name}, seed {seed}{verdict}", extra["thumbnail"]))
    factor, digits = UNITS.get(first, (1, 4))
    return f"{rows['prompt'].iloc[0]} ({factor * change:+.{digits}f})", pictures


def cost(results: Results) -> Section:
    """Seconds a picture; of other arms also as a multiple of their baseline."""
    seconds = seconds_by_variant(results)
    body = [
        [variant.name, f"{seconds[variant.name]:.4f}", f"{seconds[variant.name] / seconds[variant.baseline]:.3f}"]
        for variant in results.variants
        if seconds.get(variant.baseline)
    ]
    note = "Noise, denoising and decoding, on this machine and whatever else it did; pictures went in batches."
    return Section("Cost", "", [Table("Seconds a picture", ["arm", "seconds", "of its baseline"], body, note)])


def seconds_by_variant(results: Results) -> dict[str, float]:
    """By variant, seconds a picture: its noise, and its share of the batches that it went through."""
    num_units = max(1, sum(entry["units"] for entry in results.timings))

    def total(kind: str, name: str) -> float:
        return sum(entry[kind].get(name, 0.0) for entry in results.timings)

    decode = sum(entry["decode"] for entry in results.timings) / len(results.variants)
    found = {}
    for sampling, group in group_by_sampling(results.variants).items():
        for variant in group:
            noise = total("noise", "/".join(filter(None, (variant.arm, variant.npnet))))
            found[variant.name] = (noise + total("denoise", str(sampling)) / len(group) + decode) / num_units
    return {variant.name: found[variant.name] for variant in results.variants}


def how_it_was_made(results: Results) -> Section:
    manifest = results.manifest
    identity, last = manifest["identity"], manifest["starts"][-1]
    settings = {variant.sampling: None for variant in results.variants}
    facts = {
        "model": identity["model"],
        "prompts": f"{identity['prompts']['name']}, {identity['prompts']['num']}",
        "prompts dropped": str(len(manifest.get("dropped_prompts", []))),
        "seeds": f"{results.num_seeds} a prompt, from {results.rows['seed'].min()}",
        "pictures": f"{len(results.rows):,}",
        "sampling": "; ".join(map(str, settings)),
        "precision": "bfloat16" if identity["bf16"] else "the model's own",
        "judges": ", ".join(identity["judges"]) + f" ({identity['judge_weights']})" if identity["judges"] else "none",
        "device": last["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in last["versions"].items()),
        "commit": last["commit"] or "none",
        "begun": manifest["starts"][0]["time"],
        "starts": str(len(manifest["starts"])),
    }
    return Section("How this was made", "", [Table("The run", ["", ""], [[*pair] for pair in facts.items()])])


SECTIONS: tuple[Callable[[Results], Section], ...] = (
    result,
    along_axis,
    categories,
    differences,
    choosing_seeds,
    diversity_of_seeds,
    noises_and_real_pictures,
    losses_and_gains,
    cost,
    how_it_was_made,
)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_report(results: Results, folder: Path) -> str:
    """Write report.html, report.md, tables.tex and plots/; returns the text for the terminal.

    Raises: GoldenError in one sentence if the folder cannot be written.
    """
    sections, title = make_sections(results), f"{results.suite.title[:1].upper()}{results.suite.title[1:]}"
    subtitle = f"{results.suite.source} · {results.model} · {results.prompts}"
    with said_plainly(folder):
        for plot in (plot for section in sections for plot in section.of_kind(Plot)):
            save_plot(plot, folder / "plots")
        write_bytes(folder / "report.md", to_markdown(title, subtitle, sections).encode())
        tables = "\n\n".join(format_latex(table) for section in sections for table in section.of_kind(Table))
        write_bytes(folder / "tables.tex", f"% needs \\usepackage{{booktabs}}\n{tables}\n".encode())
        write_bytes(folder / "report.html", to_html(title, subtitle, sections).encode())
    return to_text(sections)


def to_text(sections: Sequence[Section]) -> str:
    """The first sections' sentences and tables for the terminal; the rest is in the report."""
    parts = [
        "\n\n".join([f"== {section.title}", *filter(None, [section.text]), *map(format_text, section.of_kind(Table))])
        for section in sections[:NUM_IN_TERMINAL]
    ]
    return "\n\n".join(parts)


def to_markdown(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The report in Markdown, its plots linked; pictures are in the HTML alone."""
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
    """One page that needs nothing beside it: no script, no file, every text escaped; light or dark as the reader's."""
    links = "".join(f'<a href="#{_anchor(section)}">{escape(section.title)}</a>' for section in sections)
    body = "".join(map(_section_html, sections))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} - golden</title><style>{STYLE_SHEET.read_text()}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p><nav>{links}</nav></header>"
        f"<main>{body}</main></body></html>\n"
    )


def _anchor(section: Section) -> str:
    return section.title.lower().replace(" ", "-")


def _section_html(section: Section) -> str:
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    blocks = "".join(map(_block_html, section.blocks))
    return f'<section id="{_anchor(section)}"><h2>{escape(section.title)}</h2>{text}{blocks}</section>'


def _block_html(block: Block) -> str:
    if isinstance(block, Table):
        return format_html(block)
    note = f"<p class=note>{escape(block.note)}</p>" if block.note else ""
    caption = f"<figcaption>{escape(block.title)}</figcaption>"
    if isinstance(block, Plot):
        return f"<figure class=plot>{caption}{inline_svg(block)}{note}</figure>"
    rows = "".join(
        f"<div class=row><h3>{escape(text)}</h3><div class=pictures>"
        + "".join(_picture(label, data, text) for label, data in pictures)
        + "</div></div>"
        for text, pictures in block.rows
    )
    return f"<figure class=gallery>{caption}{note}{rows}</figure>"


def _picture(label: str, data: bytes, text: str) -> str:
    source = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    return f'<div><img alt="{escape(text)}: {escape(label)}" src="{source}"><span>{escape(label)}</span></div>'
