"""Choosing among seeds: the best of N by a judge, how many seeds NPNet is worth, and held-out judges.

A judge that chooses flatters itself, so every gain is also measured by the other judges.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from eval.summary import CLUSTER, clusters_of, drop_ends
from golden.statistics import (
    LEVEL,
    NUM_RESAMPLES,
    Interval,
    bootstrap_means,
    cluster_totals,
    resampled_means,
)


def scores_of(rows: pd.DataFrame, variant: str, metric: str) -> NDArray:
    """(P, S) of a metric by prompt and seed; prompts that lack a seed are left out."""
    return _score_table(rows, variant, metric).to_numpy()


def cluster_scores(rows: pd.DataFrame, variant: str, metric: str) -> NDArray:
    """(P,) the clusters of the prompts of `scores_of`."""
    clusters = rows.assign(**{CLUSTER: clusters_of(rows)}).groupby("prompt_index")[CLUSTER].first()
    return clusters[_score_table(rows, variant, metric).index].to_numpy()


def _score_table(rows: pd.DataFrame, variant: str, metric: str) -> pd.DataFrame:
    own = rows[rows["variant"] == variant].astype({metric: float})
    return own.pivot(index="prompt_index", columns="seed", values=metric).dropna()


def choice_probabilities(scores: NDArray, num: int) -> NDArray:
    """(P, S) probability that an image is chosen, as the best by `scores` (P, S) of `num` seeds drawn from S.

    Exact: the best of the draw is among the k lowest with probability C(k, num) / C(S, num). Ties share theirs.
    """
    num_seeds = scores.shape[1]
    within = np.array([math.comb(k, num) for k in range(num_seeds + 1)]) / math.comb(num_seeds, num)
    below = rankdata(scores, "min", axis=1).astype(int) - 1
    up_to = rankdata(scores, "max", axis=1).astype(int)
    return (within[up_to] - within[below]) / (up_to - below)


def best_of(choosing: NDArray, measured: NDArray, num: int) -> NDArray:
    """(P,) expected `measured` (P, S) of the image that `choosing` (P, S) picks among `num`."""
    return (choice_probabilities(choosing, num) * measured).sum(1)


def best_of_curve(choosing: NDArray, measured: NDArray) -> NDArray:
    """(P, S) of `best_of` for 1, 2, ..., S seeds."""
    return np.stack([best_of(choosing, measured, num) for num in range(1, choosing.shape[1] + 1)], axis=1)


def worth_in_seeds(
    curves: NDArray,
    golden: NDArray,
    clusters: NDArray | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """How many standard seeds one must choose among to do as well as one golden image, by bootstrap over prompts.

    `curves` (P, S) is the best-of-N curve of the standard images, `golden` (P,) the mean of the golden ones, `clusters`
    (P,) the clusters of the prompts, each its own by default. 1 is one seed or fewer; S is S seeds or more.
    """
    table = np.column_stack([curves, golden])
    clusters = np.arange(len(table)) if clusters is None else clusters
    resampled = resampled_means(*cluster_totals(table, clusters), num_resamples, seed)
    tail = (1 - level) / 2
    low, high = np.quantile([_invert(row[:-1], row[-1]) for row in resampled], [tail, 1 - tail])
    mean = table.mean(0)
    return drop_ends(Interval(_invert(mean[:-1], mean[-1]), float(low), float(high)), clusters)


def _invert(curve: NDArray, value: float) -> float:
    """Where a curve over 1, 2, ..., S first reaches a value, by linear interpolation."""
    rising = np.maximum.accumulate(curve)
    if value <= rising[0]:
        return 1.0
    index = int(np.searchsorted(rising, value))
    if index == len(rising):
        return float(len(rising))
    return index + float((value - rising[index - 1]) / (rising[index] - rising[index - 1]))


def judge_matrix(rows: pd.DataFrame, variant: str, metrics: Sequence[str], num: int) -> dict[tuple[str, str], Interval]:
    """By (judge that chooses, judge that scores): the gain of the best of `num` seeds over a random one.

    It is measured in standard deviations of the second judge's scores over all images of the variant.
    """
    tables = {metric: scores_of(rows, variant, metric) for metric in metrics}
    gains: dict[tuple[str, str], Interval] = {}
    for chooser in metrics:
        columns = []
        for measured in tables.values():
            spread = measured.std() or 1.0
            columns.append((best_of(tables[chooser], measured, num) - measured.mean(1)) / spread)
        gains |= _by_judge(chooser, metrics, np.stack(columns, axis=1), cluster_scores(rows, variant, chooser))
    return gains


def pairs_matrix(pairs: pd.DataFrame, metrics: Sequence[str]) -> dict[tuple[str, str], Interval]:
    """The same for pairs: the gain by the second judge of those that the first keeps (target above source)."""
    differences = pd.DataFrame(
        {name: pairs[f"target_{name}"].astype(float) - pairs[f"source_{name}"].astype(float) for name in metrics}
    )
    spreads = pd.Series({name: pairs[f"source_{name}"].astype(float).std() or 1.0 for name in metrics})
    gains: dict[tuple[str, str], Interval] = {}
    for chooser in metrics:
        kept = differences[chooser] > 0
        if not kept.any():
            continue
        clusters = pairs.loc[kept, CLUSTER if CLUSTER in pairs else "prompt"].to_numpy()
        gains |= _by_judge(chooser, metrics, (differences[kept] / spreads).to_numpy(), clusters)
    return gains


def _by_judge(
    chooser: str, metrics: Sequence[str], values: NDArray, clusters: NDArray
) -> dict[tuple[str, str], Interval]:
    """The mean of each column of `values`, with intervals, under (chooser, metric)."""
    intervals = (drop_ends(interval, clusters) for interval in bootstrap_means(values, clusters))
    return {(chooser, metric): interval for metric, interval in zip(metrics, intervals, strict=True)}


def held_out_gain(matrix: Mapping[tuple[str, str], Interval], chooser: str) -> float:
    """The mean gain of a chooser by all judges but itself."""
    others = [interval.value for (first, second), interval in matrix.items() if first == chooser != second]
    return float(np.mean(others)) if others else math.nan
