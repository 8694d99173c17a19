"""The tables of the suite golden-noise: every way to better noise against standard, under every sampling.

Beside the variants stand the best of N rendered images, among standard's own seeds: what choosing buys for N times the
price. Every difference is paired by prompt and seed, every interval and test counts prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.distances import diversity_ratio, find_diversities
from eval.rendering import Variant
from eval.result_tables import DIVERSITY_NAMES
from eval.results import Block, Results, Section
from eval.selection import best_of, cluster_scores, scores_of
from eval.summary import FAULT, RIGHT, clusters_of, drop_ends, estimate, find_faults, pair_rows
from eval.tables import Table, begin, format_difference, format_interval, format_p, format_value, name_metric
from golden.models import Sampling
from golden.statistics import Interval, bootstrap_means, cluster_sign_test, holm

ATOMS = "score"
"""The share of what is asked for that an image shows, as the checker counts it."""
CHOOSER = "HPSv2"
"""The judge that chooses among rendered images, as it chooses the paper's pairs; the first of others without it."""
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class NoiseFigures:
    """One kind of noise under one sampling: means by metric, and paired differences from standard's.

    `p` is of the first metric, exact sign test over prompts; `p_holm` the same, corrected for all kinds of noise and
    samplings; `judges_p` of each judge, corrected for the judges. `over_norm` is the difference in the first metric
    from standard at its best norm, `diversity` the ratio to standard's, `faults` are shares of all images.
    """

    label: str
    sampling: Sampling
    num_prompts: int
    means: dict[str, float]
    differences: dict[str, Interval]
    seconds: float
    faults: dict[str, float]
    p: float = math.nan
    p_holm: float = math.nan
    judges_p: dict[str, float] = field(default_factory=dict)
    over_norm: Interval | None = None
    diversity: dict[str, Interval] = field(default_factory=dict)


def all_noises(results: Results) -> Section:
    """Every kind of noise against standard, under every sampling."""
    noises = results.noises
    samplings = sorted(dict.fromkeys(noise.sampling for noise in noises), key=lambda s: s.num_inference_steps)
    blocks: list[Block] = [overview(noises, samplings, results.metrics[0])]
    for sampling in samplings:
        own = [noise for noise in noises if noise.sampling == sampling]
        blocks.append(price_table(own, results.metrics[0]))
        if results.judges:
            blocks.append(judges_table(own, results.judges))
        if any(noise.faults for noise in own):
            blocks.append(kinds_of_fault_table(own))
    text = (
        "Every image is compared with standard's from the same prompt and seed; intervals are bootstrapped over "
        f"{results.rows['prompt_index'].nunique()} prompts of {results.prompts}. Best of N chooses among standard's "
        "own seeds, by a judge or by the checker itself: an oracle, which no one has in practice."
    )
    return Section("Every way to better noise", " ".join(filter(None, [results.left_out, text])), blocks)


# --- figures ----------------------------------------------------------------------------------------------------------


def compare_noises(results: Results) -> list[NoiseFigures]:
    """All kinds of noise under all samplings, with p values corrected over all of them."""
    seconds, found = results.seconds_per_image(), []
    for standard in (variant for variant in results.variants if variant.name == variant.baseline):
        others = [v for v in results.variants if v.baseline == standard.name and v.name != standard.name]
        best_norm = next((variant for variant in others if variant.arm == "best_norm"), None)
        found.append(_describe_standard(results, standard, seconds[standard.name]))
        for variant in others:
            norm = best_norm if variant is not best_norm else None
            found.append(_compare_variant(results, variant, norm, seconds[variant.name]))
        found += _best_of_rendered(results, standard, best_norm, seconds[standard.name])
    corrected = iter(holm([noise.p for noise in found if not math.isnan(noise.p)]))
    return [noise if math.isnan(noise.p) else replace(noise, p_holm=next(corrected)) for noise in found]


def find_measures(results: Results) -> list[str]:
    """The metrics, and the share of atoms if there is a checker."""
    return [*results.metrics, *([ATOMS] if RIGHT in results.metrics else [])]


def _describe_standard(results: Results, standard: Variant, seconds: float) -> NoiseFigures:
    own = results.rows[results.rows["variant"] == standard.name]
    means = {name: float(own[name].astype(float).mean()) for name in find_measures(results)}
    faults = {name: float((own[FAULT] == name).mean()) for name in find_faults(results.rows)}
    return NoiseFigures("standard", standard.sampling, own["prompt_index"].nunique(), means, {}, seconds, faults)


def _compare_variant(results: Results, variant: Variant, best_norm: Variant | None, seconds: float) -> NoiseFigures:
    rows, measures = results.rows, find_measures(results)
    pairs = pair_rows(rows, variant.name, variant.baseline, measures)
    differences = pairs[[f"{name}_difference" for name in measures]].to_numpy()
    over_norm = None
    if best_norm:
        first = pair_rows(rows, variant.name, best_norm.name, measures[:1])
        over_norm = estimate(first[f"{measures[0]}_difference"], clusters_of(first))
    own = rows[rows["variant"] == variant.name]
    noise = NoiseFigures(
        variant.npnet or variant.arm,
        variant.sampling,
        pairs["prompt_index"].nunique(),
        {name: float(pairs[name].astype(float).mean()) for name in measures},
        {},
        seconds,
        {name: float((own[FAULT] == name).mean()) for name in find_faults(rows)},
        over_norm=over_norm,
        diversity={
            column: diversity_ratio(results.extras, variant.name, variant.baseline, column)
            for column in find_diversities(results.extras)
        },
    )
    return _with_tests(noise, measures, differences, clusters_of(pairs).to_numpy(), results.judges)


def _with_tests(
    noise: NoiseFigures, measures: Sequence[str], differences: NDArray, clusters: NDArray, judges: Sequence[str]
) -> NoiseFigures:
    """The noise with intervals and p values of `differences` (N, measures) over `clusters` (N,)."""
    intervals = [drop_ends(interval, clusters) for interval in bootstrap_means(differences, clusters)]
    p_values = {name: cluster_sign_test(differences[:, i], clusters) for i, name in enumerate(measures)}
    corrected = holm([p_values[name] for name in judges])
    return replace(
        noise,
        differences=dict(zip(measures, intervals, strict=True)),
        p=p_values[measures[0]],
        judges_p=dict(zip(judges, corrected, strict=True)),
    )


def _best_of_rendered(
    results: Results, standard: Variant, best_norm: Variant | None, seconds: float
) -> list[NoiseFigures]:
    """The best of 2, 4, 8, ... of standard's images, as a judge and the checker choose them."""
    rows, measures = results.rows, find_measures(results)
    tables = {name: scores_of(rows, standard.name, name) for name in measures}
    clusters = cluster_scores(rows, standard.name, measures[0])
    flags = rows.assign(**{f"is {name}": (rows[FAULT] == name).astype(float) for name in find_faults(rows)})
    faults = {name: scores_of(flags, standard.name, f"is {name}") for name in find_faults(rows)}
    norm = scores_of(rows, best_norm.name, measures[0]).mean(1) if best_norm else None
    found = []
    for chooser in _list_choosers(results):
        name = f"by {chooser}" if chooser != ATOMS else "by the checker (oracle)"
        for num in _powers_of_two(results.num_seeds):
            chosen = {measure: best_of(tables[chooser], table, num) for measure, table in tables.items()}
            noise = NoiseFigures(
                f"best of {num} rendered {name}",
                standard.sampling,
                len(clusters),
                {measure: float(values.mean()) for measure, values in chosen.items()},
                {},
                num * seconds,
                {fault: float(best_of(tables[chooser], table, num).mean()) for fault, table in faults.items()},
                over_norm=estimate(chosen[measures[0]] - norm, clusters) if norm is not None else None,
            )
            differences = np.stack([chosen[measure] - tables[measure].mean(1) for measure in measures], axis=1)
            found.append(_with_tests(noise, measures, differences, clusters, results.judges))
    return found


def _list_choosers(results: Results) -> list[str]:
    judge = CHOOSER if CHOOSER in results.judges else next(iter(results.judges), None)
    return [*([judge] if judge else []), *([ATOMS] if RIGHT in results.metrics else [])]


def _powers_of_two(most: int) -> list[int]:
    return [2**power for power in range(1, 11) if 2**power <= most]


# --- tables -----------------------------------------------------------------------------------------------------------


def overview(noises: Sequence[NoiseFigures], samplings: Sequence[Sampling], metric: str) -> Table:
    """A row for each kind of noise, a column for each sampling: its difference from standard in the first metric."""
    labels = list(dict.fromkeys(noise.label for noise in noises))
    cells = {(noise.label, noise.sampling): noise for noise in noises}
    body = [
        [label, *(_overview_cell(cells.get((label, sampling)), metric) for sampling in samplings)] for label in labels
    ]
    bold = frozenset(
        (i, j)
        for i, label in enumerate(labels)
        for j, sampling in enumerate(samplings, start=1)
        if (noise := cells.get((label, sampling))) and noise.p_holm < SIGNIFICANT
    )
    note = (
        f"Standard's own mean, and differences from it with 95 % intervals. In bold: p < {SIGNIFICANT} by the exact "
        "sign test over prompts, corrected by Holm's method for all rows and columns."
    )
    title = f"{begin(name_metric(metric))}, difference from standard"
    return Table(title, ["noise", *map(name_sampling, samplings)], body, note, bold)


def _overview_cell(noise: NoiseFigures | None, metric: str) -> str:
    if noise is None:
        return ""
    if not noise.differences:
        return format_value(metric, noise.means[metric])
    return format_difference(metric, noise.differences[metric])


def name_sampling(sampling: Sampling) -> str:
    return f"{sampling.sampler}, {sampling.num_inference_steps} steps"


def price_table(noises: Sequence[NoiseFigures], metric: str) -> Table:
    """Under one sampling: the first metric, atoms, diversity and seconds."""
    has_atoms = ATOMS in noises[0].means
    has_norm = any(noise.over_norm for noise in noises)
    columns = list(dict.fromkeys(column for noise in noises for column in noise.diversity))
    header = ["noise", "prompts", name_metric(metric), "difference [95 %]", "p (Holm)"]
    header += ["over best norm [95 %]"] * has_norm + ["atoms (%)", "atoms, difference [95 %]"] * has_atoms
    header += [f"{DIVERSITY_NAMES[column]} / standard [95 %]" for column in columns]
    body = []
    for noise in noises:
        cells = [noise.label, str(noise.num_prompts), format_value(metric, noise.means[metric])]
        cells += [_difference(noise, metric), "" if math.isnan(noise.p_holm) else format_p(noise.p_holm)]
        cells += [format_difference(metric, noise.over_norm) if noise.over_norm else ""] * has_norm
        if has_atoms:
            cells += [format_value(RIGHT, noise.means[ATOMS]), _difference(noise, ATOMS)]
        cells += [format_interval(noise.diversity[c], 3) if c in noise.diversity else "" for c in columns]
        body.append([*cells, f"{noise.seconds:.3f}"])
    bold = frozenset((i, 3) for i, noise in enumerate(noises) if noise.p_holm < SIGNIFICANT)
    note = (
        "Seconds per image with its noise, on this machine; best of N takes N images and the time of whoever chooses. "
        "Atoms: the share of what is asked for that an image shows. A noise on fewer prompts is compared with standard "
        "on those alone."
    )
    title = f"{name_sampling(noises[0].sampling)}: gain, diversity and price"
    return Table(title, [*header, "seconds"], body, note, bold)


def _difference(noise: NoiseFigures, metric: str) -> str:
    if metric not in noise.differences:
        return ""
    return format_difference(RIGHT if metric == ATOMS else metric, noise.differences[metric])


def judges_table(noises: Sequence[NoiseFigures], judges: Sequence[str]) -> Table:
    """Under one sampling: differences from standard by every judge."""
    body = [
        [noise.label]
        + [
            _difference(noise, judge) if noise.differences else format_value(judge, noise.means[judge])
            for judge in judges
        ]
        for noise in noises
    ]
    bold = frozenset(
        (i, j)
        for i, noise in enumerate(noises)
        for j, judge in enumerate(judges, start=1)
        if noise.judges_p.get(judge, 1.0) < SIGNIFICANT
    )
    note = (
        f"Standard's own means, and differences from them with 95 % intervals. In bold: p < {SIGNIFICANT}, corrected "
        "by Holm's method for the judges. A judge that chooses flatters itself."
    )
    return Table(f"{name_sampling(noises[0].sampling)}: judges", ["noise", *judges], body, note, bold)


def kinds_of_fault_table(noises: Sequence[NoiseFigures]) -> Table:
    """Under one sampling: wrong images by their main fault, in percent of all."""
    faults = list(noises[0].faults)
    body = [
        [
            noise.label,
            *(f"{100 * noise.faults[name]:.2f}" for name in faults),
            f"{100 * sum(noise.faults.values()):.2f}",
        ]
        for noise in noises
    ]
    title = f"{name_sampling(noises[0].sampling)}: wrong images by kind of fault (%)"
    return Table(title, ["noise", *faults, "all"], body, "Percent of a noise's images, each under its main fault.")


def tabulate(results: Results) -> pd.DataFrame:
    """All comparisons as one table: a row for each sampling, kind of noise and metric, in the metric's own units.

    `mean` and `difference` [`low`, `high`] from standard; of diversity, the ratio to standard's; of seconds the mean.
    """
    rows: list[dict] = []
    for noise in results.noises:
        keys: dict = {"prompts": results.prompts, "sampling": name_sampling(noise.sampling), "noise": noise.label}
        keys["num_prompts"] = noise.num_prompts
        for name, mean in noise.means.items():
            metric = {"metric": "atoms" if name == ATOMS else name, "mean": mean}
            rows.append(
                keys | metric | _ends("difference", noise.differences.get(name)) | _p_values(noise, name, results)
            )
        if noise.over_norm:
            rows.append(
                keys | {"metric": f"{results.metrics[0]} over best norm"} | _ends("difference", noise.over_norm)
            )
        for column, ratio in noise.diversity.items():
            rows.append(keys | {"metric": f"{DIVERSITY_NAMES[column]} / standard"} | _ends("ratio", ratio))
        rows.append(keys | {"metric": "seconds", "mean": noise.seconds})
    return pd.DataFrame(rows)


def _ends(name: str, interval: Interval | None) -> dict[str, float]:
    return {name: interval.value, "low": interval.low, "high": interval.high} if interval else {}


def _p_values(noise: NoiseFigures, metric: str, results: Results) -> dict[str, float]:
    if metric == results.metrics[0]:
        return {"p": noise.p, "p_holm": noise.p_holm}
    return {"p_holm": noise.judges_p[metric]} if metric in noise.judges_p else {}
