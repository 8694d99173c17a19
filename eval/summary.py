"""From rows to figures: means by category, and paired comparisons of each variant with its baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from eval.rendering import Variant
from golden.statistics import (
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
ALL = "all"
NOT_METRICS = {"prompt_index", "category", "prompt", "seed", "variant", "arm", "distance", "score", "reason"}


def find_metrics(rows: pd.DataFrame) -> list[str]:
    """The measured columns: `right` (the exact check) if there is one, then the judges."""
    return [column for column in rows.columns if column not in NOT_METRICS]


@dataclass(frozen=True)
class Effect:
    """One variant against its baseline in one metric, over pairs of pictures from the same prompt and seed.

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
    columns = [*keys, "category", *metrics]
    ours, theirs = (rows.loc[rows["variant"] == name, columns] for name in (variant, baseline))
    pairs = ours.merge(theirs.drop(columns="category"), on=keys, suffixes=("", "_baseline"), validate="one_to_one")
    for metric in metrics:
        pairs[f"{metric}_difference"] = pairs[metric].astype(float) - pairs[f"{metric}_baseline"].astype(float)
    return pairs


def preference(rows: pd.DataFrame, variant: str, baseline: str, judge: str = "MPS") -> float:
    """How probably a judge prefers the variant: the mean of softmax([variant, baseline]) over pairs."""
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
    clusters = pairs["prompt_index"]
    differences = pairs[[f"{metric}_difference" for metric in metrics]].to_numpy()
    intervals = bootstrap_means(np.concatenate([differences, differences > 0], axis=1), clusters)
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
            int(clusters.nunique()),
            clusters_needed(differences[:, index], clusters),
        )
        for index, metric in enumerate(metrics)
    ]


def _correct(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's correction over the judges. The exact check is the one question asked first, and stands alone."""
    judges = [name for name in p_values if name != RIGHT]
    return p_values | dict(zip(judges, holm([p_values[name] for name in judges]), strict=True))


def compare_all(rows: pd.DataFrame, variants: Sequence[Variant], category: str = ALL) -> list[Effect]:
    """Every variant against its baseline in every metric."""
    metrics, present = find_metrics(rows), set(rows["variant"])
    return [
        effect
        for variant in variants
        if variant.name != variant.baseline and {variant.name, variant.baseline} <= present
        for effect in compare_variant(rows, variant.name, variant.baseline, metrics, category)
    ]


def find_categories(rows: pd.DataFrame) -> list[str]:
    """Categories in the order of the prompts; nothing where there is only one."""
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
    return bootstrap_mean(own[metric].astype(float), own["prompt_index"])
