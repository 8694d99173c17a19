"""What choosing costs and gains: the best of N seeds by a judge, what NPNet is worth in seeds, and held-out judges.

A judge that chooses is fooled by its own taste, so that every gain is also shown in the eyes of the other judges.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from golden.statistics import LEVEL, NUM_RESAMPLES, Interval, bootstrap_means, resampled_means


def scores_of(rows: pd.DataFrame, variant: str, metric: str) -> NDArray:
    """(P, S) of a metric by prompt and seed; prompts that miss a seed are left out."""
    own = rows[rows["variant"] == variant].astype({metric: float})
    return own.pivot(index="prompt_index", columns="seed", values=metric).dropna().to_numpy()


def choice_probabilities(scores: NDArray, num: int) -> NDArray:
    """(P, S) how probable it is that a picture is chosen: the best by `scores` (P, S) of `num` drawn at random of S.

    Exact: the best of the draw is among the k lowest with probability C(k, num) / C(S, num). Pictures that tie share.
    """
    num_seeds = scores.shape[1]
    within = np.array([math.comb(k, num) for k in range(num_seeds + 1)]) / math.comb(num_seeds, num)
    below = rankdata(scores, "min", axis=1).astype(int) - 1
    up_to = rankdata(scores, "max", axis=1).astype(int)
    return (within[up_to] - within[below]) / (up_to - below)


def best_of(choosing: NDArray, measured: NDArray, num: int) -> NDArray:
    """(P,) what `measured` (P, S) is expected to be for the picture that `choosing` (P, S) chooses among `num`."""
    return (choice_probabilities(choosing, num) * measured).sum(1)


def best_of_curve(choosing: NDArray, measured: NDArray) -> NDArray:
    """(P, S) of `best_of` for 1, 2, ..., S seeds."""
    return np.stack([best_of(choosing, measured, num) for num in range(1, choosing.shape[1] + 1)], axis=1)


def worth_in_seeds(
    curves: NDArray, golden: NDArray, *, num_resamples: int = NUM_RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """How many standard seeds one must choose among to do as well as one golden picture, by bootstrap over prompts.

    `curves` (P, S) is the best-of-N curve of the standard pictures, `golden` (P,) the mean of the golden ones. 1 is
    one seed or less; S is S seeds or more.
    """
    table = np.column_stack([curves, golden])
    resampled = resampled_means(table, np.ones(len(table)), num_resamples, seed)
    tail = (1 - level) / 2
    low, high = np.quantile([_invert(row[:-1], row[-1]) for row in resampled], [tail, 1 - tail])
    mean = table.mean(0)
    return Interval(_invert(mean[:-1], mean[-1]), float(low), float(high))


def _invert(curve: NDArray, value: float) -> float:
    """Where a curve over 1, 2, ..., S first reaches a value, between the points along straight lines."""
    rising = np.maximum.accumulate(curve)
    if value <= rising[0]:
        return 1.0
    index = int(np.searchsorted(rising, value))
    if index == len(rising):
        return float(len(rising))
    return index + float((value - rising[index - 1]) / (rising[index] - rising[index - 1]))


def judge_matrix(rows: pd.DataFrame, variant: str, metrics: Sequence[str], num: int) -> dict[tuple[str, str], Interval]:
    """By (judge that chooses, judge that looks): what the best of `num` seeds gains over any, in spreads of the second.

    A spread is the standard deviation of the second judge's scores over all pictures of the variant.
    """
    tables = {metric: scores_of(rows, variant, metric) for metric in metrics}
    gains: dict[tuple[str, str], Interval] = {}
    for chooser in metrics:
        columns = []
        for measured in tables.values():
            spread = measured.std() or 1.0
            columns.append((best_of(tables[chooser], measured, num) - measured.mean(1)) / spread)
        intervals = bootstrap_means(np.stack(columns, axis=1), np.arange(len(columns[0])))
        gains |= {(chooser, metric): interval for metric, interval in zip(metrics, intervals, strict=True)}
    return gains


def pairs_matrix(pairs: pd.DataFrame, metrics: Sequence[str]) -> dict[tuple[str, str], Interval]:
    """The same of pairs: what those that the first judge keeps (target above source) gain in the eyes of the second."""
    differences = pd.DataFrame(
        {name: pairs[f"target_{name}"].astype(float) - pairs[f"source_{name}"].astype(float) for name in metrics}
    )
    spreads = pd.Series({name: pairs[f"source_{name}"].astype(float).std() or 1.0 for name in metrics})
    gains: dict[tuple[str, str], Interval] = {}
    for chooser in metrics:
        kept = differences[chooser] > 0
        if not kept.any():
            continue
        intervals = bootstrap_means((differences[kept] / spreads).to_numpy(), pairs.loc[kept, "prompt"])
        gains |= {(chooser, metric): interval for metric, interval in zip(metrics, intervals, strict=True)}
    return gains


def held_out_gain(matrix: Mapping[tuple[str, str], Interval], chooser: str) -> float:
    """The mean gain of a chooser in the eyes of the judges other than itself."""
    others = [interval.value for (first, second), interval in matrix.items() if first == chooser != second]
    return float(np.mean(others)) if others else math.nan
