"""From rows to figures: means by category, and paired comparisons of each variant with its baseline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit

from eval.rendering import Variant
from golden.checkers import FAULTS
from golden.shapes import parse_caption, request_key
from golden.statistics import (
    MIN_CLUSTERS,
    Interval,
    Wins,
    bootstrap_mean,
    bootstrap_means,
    cluster_sign_test,
    clusters_needed,
    count_wins,
    holm,
)

RIGHT = "right"
FAULT = "fault"
CLUSTER = "cluster"
ALL = "all"
NOT_METRICS = {
    "prompt_index",
    "category",
    "prompt",
    "seed",
    "noise_seed",
    "variant",
    "arm",
    "distance",
    "score",
    "reason",
}
NOT_METRICS |= {FAULT, CLUSTER}


def find_metrics(rows: pd.DataFrame) -> list[str]:
    """The measured columns: `right` (the exact check) if there is one, then the judges."""
    return [column for column in rows.columns if column not in NOT_METRICS]


# --- clusters ---------------------------------------------------------------------------------------------------------


def cluster_prompts(prompts: pd.Series, checker: str | None) -> pd.Series:
    """A number for each prompt, the same for prompts that ask for the same: what the bootstrap draws as one.

    In the shapes world "a star left of a heart" asks for what "a heart right of a star" does, and both fail together.
    """
    keys = prompts.map(lambda prompt: request_key(parse_caption(prompt))) if checker == "shapes" else prompts
    return pd.Series(pd.factorize(keys)[0], index=prompts.index)


def add_clusters(rows: pd.DataFrame, checker: str | None) -> pd.DataFrame:
    """The rows with a column `cluster`, see `cluster_prompts`. It is computed when rows are read, and never saved."""
    prompts = rows.drop_duplicates("prompt_index").set_index("prompt_index")["prompt"].sort_index()
    return rows.assign(**{CLUSTER: rows["prompt_index"].map(cluster_prompts(prompts, checker))})


def clusters_of(table: pd.DataFrame) -> pd.Series:
    """The cluster of each row: its column `cluster`, or without one the prompt."""
    return table[CLUSTER if CLUSTER in table else "prompt_index"]


def drop_ends(interval: Interval, clusters: ArrayLike) -> Interval:
    """The interval, without ends if it comes from fewer than MIN_CLUSTERS clusters."""
    enough = len(np.unique(np.asarray(clusters))) >= MIN_CLUSTERS
    return interval if enough else replace(interval, low=math.nan, high=math.nan)


def estimate(values: ArrayLike, clusters: ArrayLike) -> Interval:
    """The mean of `values` (N,) with its bootstrap interval over `clusters` (N,); no ends for too few clusters."""
    return drop_ends(bootstrap_mean(values, clusters), clusters)


# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """One variant against its baseline in one metric, over pairs of images from the same prompt and seed.

    `difference` is the mean paired difference; `rate` the share of pairs that the variant wins strictly; `p_value` the
    exact sign test over prompts; `p_holm` the same, corrected for the several judges of this comparison;
    `prompts_needed` the number of prompts that would show a difference of this size in 4 of 5 studies.
    """

    variant: str
    baseline: str
    metric: str
    category: str
    mean: float
    baseline_mean: float
    difference: Interval
    wins: Wins
    rate: Interval
    p_value: float
    p_holm: float
    num_prompts: int
    prompts_needed: int | None


def pair_rows(rows: pd.DataFrame, variant: str, baseline: str, metrics: Sequence[str]) -> pd.DataFrame:
    """One row per prompt and seed, with `metric` of the variant, `metric_baseline` and `metric_difference`."""
    keys = ["prompt_index", "seed"]
    shared = ["category", *([CLUSTER] if CLUSTER in rows else [])]
    ours, theirs = (rows.loc[rows["variant"] == name, [*keys, *shared, *metrics]] for name in (variant, baseline))
    pairs = ours.merge(theirs.drop(columns=shared), on=keys, suffixes=("", "_baseline"), validate="one_to_one")
    for metric in metrics:
        pairs[f"{metric}_difference"] = pairs[metric].astype(float) - pairs[f"{metric}_baseline"].astype(float)
    return pairs


def preference(rows: pd.DataFrame, variant: str, baseline: str, judge: str = "MPS") -> float:
    """The probability that a judge prefers the variant: the mean of softmax([variant, baseline]) over pairs."""
    if variant == baseline:
        return 0.5
    return float(expit(pair_rows(rows, variant, baseline, [judge])[f"{judge}_difference"]).mean())


def compare_variant(
    rows: pd.DataFrame, variant: str, baseline: str, metrics: Sequence[str], category: str = ALL
) -> list[Effect]:
    """One Effect per metric; p values are corrected over the judges among the metrics."""
    pairs = pair_rows(rows, variant, baseline, metrics)
    if category != ALL:
        pairs = pairs[pairs["category"] == category]
    clusters = clusters_of(pairs)
    differences = pairs[[f"{metric}_difference" for metric in metrics]].to_numpy()
    intervals = bootstrap_means(np.concatenate([differences, differences > 0], axis=1), clusters)
    intervals = [drop_ends(interval, clusters) for interval in intervals]
    p_values = [cluster_sign_test(column, clusters) for column in differences.T]
    corrected = _correct(dict(zip(metrics, p_values, strict=True)))
    return [
        Effect(
            variant,
            baseline,
            metric,
            category,
            float(pairs[metric].mean()),
            float(pairs[f"{metric}_baseline"].mean()),
            intervals[index],
            count_wins(differences[:, index]),
            intervals[len(metrics) + index],
            p_values[index],
            corrected[metric],
            int(pairs["prompt_index"].nunique()),
            clusters_needed(differences[:, index], clusters),
        )
        for index, metric in enumerate(metrics)
    ]


def _correct(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's correction over the judges. The exact check is the primary outcome, and is not corrected."""
    judges = [name for name in p_values if name != RIGHT]
    return p_values | dict(zip(judges, holm([p_values[name] for name in judges]), strict=True))


def compare_all(rows: pd.DataFrame, variants: Sequence[Variant], category: str = ALL) -> list[Effect]:
    """Every variant against its baseline in every metric, those without a prompt of the category left out."""
    metrics = find_metrics(rows)
    present = set(rows.loc[rows["category"] == category, "variant"] if category != ALL else rows["variant"])
    return [
        effect
        for variant in variants
        if variant.name != variant.baseline and {variant.name, variant.baseline} <= present
        for effect in compare_variant(rows, variant.name, variant.baseline, metrics, category)
    ]


# --- means ------------------------------------------------------------------------------------------------------------


def find_categories(rows: pd.DataFrame) -> list[str]:
    """Categories in the order of the prompts; empty if there is only one."""
    categories = list(rows.sort_values("prompt_index")["category"].drop_duplicates())
    return categories if len(categories) > 1 else []


def means_by_category(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Means of a metric: a row per variant, a column `all` and one per category."""
    order = rows["variant"].drop_duplicates()
    table = pd.DataFrame({ALL: rows.groupby("variant")[metric].mean()})
    for category in find_categories(rows):
        table[category] = rows[rows["category"] == category].groupby("variant")[metric].mean()
    return table.loc[order]


def mean_of(rows: pd.DataFrame, variant: str, metric: str) -> Interval:
    """A variant's mean with its interval."""
    own = rows[rows["variant"] == variant]
    return estimate(own[metric].astype(float), clusters_of(own))


# --- faults -----------------------------------------------------------------------------------------------------------


def find_faults(rows: pd.DataFrame) -> list[str]:
    """The kinds of fault in the rows, in the order of FAULTS; empty for rows without the column `fault`."""
    present = set(rows[FAULT]) if FAULT in rows else set()
    return [fault for fault in FAULTS if fault in present]


def fault_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Shares of all images, from 0 to 1, by main fault: a row per variant, a column per kind of fault."""
    faults = find_faults(rows)
    table = pd.DataFrame({fault: rows[FAULT] == fault for fault in faults}, index=rows.index)
    return table.groupby(rows["variant"], sort=False).mean()[faults]


def compare_faults(rows: pd.DataFrame, variant: str, baseline: str) -> dict[str, Interval]:
    """By kind of fault, the difference of its share between a variant and its baseline."""
    faults = find_faults(rows)
    flags = rows.assign(**{fault: (rows[FAULT] == fault).astype(float) for fault in faults})
    pairs = pair_rows(flags, variant, baseline, faults)
    return {fault: estimate(pairs[f"{fault}_difference"], clusters_of(pairs)) for fault in faults}
