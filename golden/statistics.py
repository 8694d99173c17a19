"""Statistics of paired comparisons: means, intervals and tests of the differences between two arms.

Images of one prompt from several seeds are not independent trials: a prompt beyond the model's reach fails with every
seed. So prompts ("clusters"), not images, are what is resampled, tested and counted here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

NUM_RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8
_CHUNK = 1000  # resamples whose draws are in memory at a time


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; the ends are NaN if there are too few clusters for one."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """The mean of `values` (N,) and its bootstrap interval over `clusters` (N,): `bootstrap_means` of one column."""
    column = np.asarray(values, float)[:, None]
    return bootstrap_means(column, clusters, num_resamples=num_resamples, level=level, seed=seed)[0]


def bootstrap_means(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Interval]:
    """Means of the M columns of `values` (N, M), each with an interval from one bootstrap over `clusters` (N,).

    Whole clusters (prompts with all their seeds) are drawn with replacement. The percentile interval is widened by
    the ratio of Student's t to the normal distribution, so that its coverage also holds for few clusters.

    Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 5.4 (expanded percentiles).
    Raises: ValueError on empty or unequal inputs and on NaN.
    """
    table = np.asarray(values, float)
    if table.ndim != 2 or not len(table) or len(table) != len(np.asarray(clusters)):
        raise ValueError(f"values must be (N, M) with N cluster labels, got {table.shape} and {np.shape(clusters)}")
    if not np.isfinite(table).all():
        raise ValueError("values must be finite numbers")
    sums, counts = cluster_totals(table, clusters)
    means = sums.sum(0) / counts.sum()
    if len(counts) == 1:
        return [Interval(float(mean), math.nan, math.nan) for mean in means]
    resampled = resampled_means(sums, counts, num_resamples, seed)
    tail = _expanded_tail(len(counts), level)
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return [Interval(float(m), float(lo), float(hi)) for m, lo, hi in zip(means, low, high, strict=True)]


def bootstrap_ratio(
    values: ArrayLike,
    baseline: ArrayLike,
    clusters: ArrayLike,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """The mean of `values` (N,) over that of `baseline` (N,), with its bootstrap interval over `clusters` (N,).

    Both means are of the same resample, so that what they share cancels. NaN if the baseline's mean is not positive in
    the sample, and without ends if that happens in a resample or there is one cluster.
    Raises: as `bootstrap_means`.
    """
    table = np.column_stack([np.asarray(values, float), np.asarray(baseline, float)])
    first, second = bootstrap_means(table, clusters, num_resamples=2, seed=seed)
    ratio = first.value / second.value if second.value > 0 else math.nan
    sums, counts = cluster_totals(table, clusters)
    resampled = resampled_means(sums, counts, num_resamples, seed)
    if len(counts) == 1 or math.isnan(ratio) or (resampled[:, 1] <= 0).any():
        return Interval(ratio, math.nan, math.nan)
    tail = _expanded_tail(len(counts), level)
    low, high = np.quantile(resampled[:, 0] / resampled[:, 1], [tail, 1 - tail])
    return Interval(ratio, float(low), float(high))


def mean_pairwise(items: Sequence[Any], distance: Callable[[Any, Any], float]) -> float:
    """The mean of a symmetric `distance` over all pairs of at least two items."""
    return float(np.mean([distance(one, other) for one, other in combinations(items, 2)]))


def cluster_totals(table: NDArray, clusters: ArrayLike) -> tuple[NDArray, NDArray]:
    """Sums (K, M) and sizes (K,) of the K clusters."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.stack([np.bincount(index, weights=column) for column in table.T], axis=1)
    return sums, np.bincount(index)


def resampled_means(sums: NDArray, counts: NDArray, num_resamples: int, seed: int) -> NDArray:
    """(num_resamples, M) means of resamples, each K clusters drawn with replacement from the K in `sums` (K, M)."""
    rng = np.random.default_rng(seed)
    num_clusters, parts = len(counts), []
    for start in range(0, num_resamples, _CHUNK):
        size = min(_CHUNK, num_resamples - start)
        drawn = rng.integers(0, num_clusters, (size, num_clusters)) + num_clusters * np.arange(size)[:, None]
        # How often each cluster was drawn: the means of all resamples are then one matrix product.
        times = np.bincount(drawn.ravel(), minlength=size * num_clusters).reshape(size, num_clusters).astype(float)
        parts.append((times @ sums) / (times @ counts)[:, None])
    return np.concatenate(parts)


def _expanded_tail(num_clusters: int, level: float) -> float:
    """The share of resampled means to leave out at each end: (1 - level) / 2 for many clusters, less for few."""
    quantile = stats.t.ppf((1 - level) / 2, num_clusters - 1)
    return float(stats.norm.cdf(math.sqrt(num_clusters / (num_clusters - 1)) * quantile))


# --- wins -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wins:
    """How many pairs one side won, tied and lost."""

    wins: int
    ties: int
    losses: int

    @property
    def rate(self) -> float:
        """The win rate as the paper counts it: a tie is not a win."""
        return self.wins / max(1, self.wins + self.ties + self.losses)


def count_wins(differences: ArrayLike) -> Wins:
    """Count positive, zero and negative differences."""
    array = np.asarray(differences, float)
    return Wins(int((array > 0).sum()), int((array == 0).sum()), int((array < 0).sum()))


def sign_test(num_wins: int, num_losses: int) -> float:
    """Two-sided p value of the exact sign test, in which ties do not count; 1.0 without any win or loss."""
    if num_wins + num_losses == 0:
        return 1.0
    return float(stats.binomtest(num_wins, num_wins + num_losses, 0.5).pvalue)


def cluster_means(differences: ArrayLike, clusters: ArrayLike) -> NDArray:
    """(K,) mean difference of each cluster."""
    sums, counts = cluster_totals(np.asarray(differences, float)[:, None], clusters)
    return sums[:, 0] / counts


def cluster_sign_test(differences: ArrayLike, clusters: ArrayLike) -> float:
    """p value of the exact sign test over clusters: a prompt counts once, won or lost by the mean of its seeds.

    Seeds of one prompt are not independent: a test over images would reject too often.
    """
    # Means of a few equal floats may miss 0 by rounding; a prompt that wins as often as it loses is a tie.
    means = cluster_means(differences, clusters)
    scale = np.abs(np.asarray(differences, float)).max(initial=0.0)
    wins = count_wins(np.where(np.abs(means) <= 1e-12 * scale, 0.0, means))
    return sign_test(wins.wins, wins.losses)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for multiple tests by Holm's step-down rule, in the order given.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests  # takes seconds to import

    return [float(value) for value in multipletests(p_values, method="holm")[1]]


# --- sample size ------------------------------------------------------------------------------------------------------


def clusters_needed(
    differences: ArrayLike, clusters: ArrayLike, *, power: float = POWER, level: float = LEVEL
) -> int | None:
    """How many prompts, with the same number of seeds each, would show a difference as large as this one.

    With that many, a two-sided t test over the prompts' mean differences rejects at 1 - `level` with probability
    `power`. None if there is no difference, or no spread to compare it with.
    """
    means = cluster_means(differences, clusters)
    if len(means) < 2:
        return None
    spread, effect = float(means.std(ddof=1)), float(means.mean())
    # Differences that are all equal, or a mean of 0 up to rounding, do not determine a sample size.
    if spread <= 1e-12 * np.abs(means).max(initial=0.0) or abs(effect) <= 1e-12 * spread:
        return None
    return sample_size(effect / spread, power=power, level=level)


def sample_size(standardised_effect: float, *, power: float = POWER, level: float = LEVEL) -> int:
    """The smallest sample for which a two-sided one-sample t test detects an effect of mean / std with `power`."""
    effect, quantile = abs(standardised_effect), stats.norm.ppf((1 + level) / 2)
    normal = ((quantile + stats.norm.ppf(power)) / effect) ** 2
    if normal > 100_000:  # Student's t needs just this much more than the normal distribution
        return math.ceil(normal + quantile**2 / 2)
    from statsmodels.stats.power import TTestPower

    size = max(2, math.ceil(normal))  # a lower bound; TTestPower.solve_power fails to converge for large effects
    while TTestPower().power(effect, size, 1 - level) < power:
        size += 1
    return size
