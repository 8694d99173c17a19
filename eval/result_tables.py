"""The tables of a report, built from rows and effects."""

from collections.abc import Mapping, Sequence

import pandas as pd

from eval.distances import clusters_by_prompt, diversity, diversity_ratio, find_diversities
from eval.rendering import Variant
from eval.summary import (
    RIGHT,
    Effect,
    clusters_of,
    compare_faults,
    estimate,
    fault_shares,
    find_faults,
    means_by_category,
    preference,
)
from eval.tables import (
    Table,
    find_units,
    format_difference,
    format_interval,
    format_p,
    format_rate,
    format_value,
    name_metric,
)
from golden.paper import METRICS, PAPER
from golden.statistics import MIN_CLUSTERS, Interval


def layout_table(rows: pd.DataFrame, effects: Sequence[Effect], metrics: Sequence[str]) -> Table:
    """The paper's Table 2: a row per variant, a column per metric, in the paper's units, the best of each in bold."""
    shown = [*(name for name in METRICS if name in metrics), *(name for name in metrics if name not in METRICS)]
    means = rows.groupby("variant", sort=False)[list(shown)].mean().astype(float)
    if "MPS" in shown:  # as in the paper: the probability that the judge prefers the variant to its baseline
        pairs = {(effect.variant, effect.baseline) for effect in effects}
        means["MPS"] = 0.5
        for variant, baseline in pairs:
            means.loc[variant, "MPS"] = preference(rows, variant, baseline)
    header = ["arm", *("MPS (%)" if name == "MPS" else name_metric(name) for name in shown)]
    body = [
        [str(name), *(f"{100 * v:.2f}" if m == "MPS" else format_value(m, v) for m, v in zip(shown, row, strict=True))]
        for name, row in zip(means.index, means.to_numpy(), strict=True)
    ]
    enough = clusters_of(rows).nunique() >= MIN_CLUSTERS
    best = frozenset(
        (int(means[name].to_numpy().argmax()), column) for column, name in enumerate(shown, start=1) if enough
    )
    note = (
        "ImageReward and CLIPScore are times 100. MPS is the probability that it prefers the arm to its baseline, 50 "
        "for no preference."
    )
    return Table("Means", header, body, note if "MPS" in shown else "", best)


def paper_table(model: str, prompts: str) -> Table:
    """The paper's figures for this model and prompt set, or else for SDXL on Pick-a-Pic."""
    own = (model, prompts) in PAPER
    found = (model, prompts) if own else ("sdxl", "pick-a-pic")
    figures = PAPER[found]
    names = {"sdxl": "SDXL", "dreamshaper": "DreamShaper", "pick-a-pic": "Pick-a-Pic", "geneval": "GenEval"}
    digits = {name: 2 if name == "MPS" else find_units(name)[1] for name in figures}  # the paper's MPS is in percent
    body = [
        ["standard", *(f"{old:.{digits[name]}f}" for name, (old, _) in figures.items())],
        ["NPNet", *(f"{new:.{digits[name]}f}" for name, (_, new) in figures.items())],
        ["difference", *(f"{new - old:+.{digits[name]}f}" for name, (old, new) in figures.items())],
    ]
    note = "" if own else "Another model and other judges: the scales cannot be compared, only the directions."
    title = f"The paper's own figures, {names[found[0]]} on {names[found[1]]}"
    return Table(title, ["arm", *("MPS (%)" if name == "MPS" else name for name in figures)], body, note)


def effects_table(effects: Sequence[Effect]) -> Table:
    """One variant against its baseline, a row per metric."""
    counts = ["wins", "ties", "losses", "win rate [95 %]", "sign test p", "prompts needed"]
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


def category_means_table(rows: pd.DataFrame, metric: str) -> Table:
    """Means by variant and category."""
    table = means_by_category(rows, metric)
    body = [[str(name), *(format_value(metric, value) for value in values)] for name, *values in table.itertuples()]
    return Table(f"Means of {name_metric(metric)} by category", ["arm", *table.columns], body)


def category_effects_table(effects: Sequence[Effect]) -> Table:
    """Differences with intervals of one metric: a row per category, a column per variant."""
    names = list(dict.fromkeys(effect.variant for effect in effects))
    groups = list(dict.fromkeys(effect.category for effect in effects))
    cells = {(effect.category, effect.variant): effect for effect in effects}
    body, bold = [], set()
    for i, group in enumerate(groups):
        own = [cells.get((group, name)) for name in names]  # None of an arm that is limited to other prompts
        body.append([group, str(max(effect.num_prompts for effect in own if effect))])
        body[-1] += [format_difference(effect.metric, effect.difference) if effect else "" for effect in own]
        bold |= {(i, j) for j, effect in enumerate(own, start=2) if effect and effect.difference.excludes_zero}
    title = f"Differences in {name_metric(effects[0].metric)} by category"
    return Table(title, ["category", "prompts", *names], body, bold=frozenset(bold))


def matrix_table(
    title: str, matrix: Mapping[tuple[str, str], Interval], held_out: Mapping[str, float], note: str
) -> Table:
    """Gains by (judge that chooses, judge that scores); in bold those whose interval excludes zero."""
    choosers = list(dict.fromkeys(first for first, _ in matrix))
    scorers = list(dict.fromkeys(second for _, second in matrix))
    body = [
        [f"by {name}", *(f"{matrix[name, other].value:+.2f}" for other in scorers), f"{held_out[name]:+.2f}"]
        for name in choosers
    ]
    bold = frozenset(
        (i, j)
        for i, name in enumerate(choosers)
        for j, other in enumerate(scorers, start=1)
        if matrix[name, other].excludes_zero
    )
    return Table(title, ["chosen", *scorers, "held-out mean"], body, note, bold)


def faults_table(rows: pd.DataFrame) -> Table:
    """How images are wrong: a row per variant, a column per kind of fault, in percent of all its images."""
    shares = fault_shares(rows)
    body = [
        [str(name), *(f"{100 * value:.2f}" for value in values), f"{100 * sum(values):.2f}"]
        for name, *values in shares.itertuples()
    ]
    note = "Percent of all images, each under its main fault, the first that applies from left to right."
    return Table("Wrong images by kind of fault (%)", ["arm", *shares.columns, "all"], body, note)


def fault_differences_table(rows: pd.DataFrame, variant: str, baseline: str) -> Table:
    """By kind of fault, how much more often a variant has it than its baseline, in percentage points."""
    shares, differences = fault_shares(rows).to_dict("index"), compare_faults(rows, variant, baseline)
    faults = find_faults(rows)
    body = [
        [
            fault,
            f"{100 * shares[baseline][fault]:.2f}",
            f"{100 * shares[variant][fault]:.2f}",
            format_difference(RIGHT, differences[fault]),
        ]
        for fault in faults
    ]
    bold = frozenset((row, 3) for row, fault in enumerate(faults) if differences[fault].excludes_zero)
    header = ["fault", f"{baseline} (%)", f"{variant} (%)", "difference [95 %]"]
    return Table(f"Faults of {variant} against {baseline}", header, body, bold=bold)


DIVERSITY_NAMES = {"features": "CLIP distance", "layout": "layout distance"}


def diversity_table(extras: pd.DataFrame, variants: Sequence[Variant]) -> Table:
    """How far the images of one prompt are from each other: a gain that made all seeds alike would be none."""
    columns, names, clusters = find_diversities(extras), {v.name for v in variants}, clusters_by_prompt(extras)
    body, bold = [], set()
    for row, variant in enumerate(variants):
        cells = [variant.name]
        for column in columns:
            own = diversity(extras, variant.name, column)
            cells.append(format_interval(estimate(own, clusters[own.index]), 4))
            if variant.baseline not in names - {variant.name}:
                cells.append("")
                continue
            ratio = diversity_ratio(extras, variant.name, variant.baseline, column)
            cells.append(format_interval(ratio, 3))
            if ratio.low > 1 or ratio.high < 1:
                bold.add((row, len(cells) - 1))
        body.append(cells)
    header = [cell for column in columns for cell in (f"{DIVERSITY_NAMES[column]} [95 %]", "over baseline [95 %]")]
    meanings = {
        "features": "CLIP: 1 minus the cosine of two images' embeddings.",
        "layout": "Layout: how far objects of one shape lie apart, from 0 to 1 (half the image, or no partner).",
    }
    note = "Means over the pairs of seeds of each prompt. " + " ".join(meanings[column] for column in columns)
    return Table("Diversity across seeds", ["arm", *header], body, note, frozenset(bold))
