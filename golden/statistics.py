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
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

NUM_RESAMPLES = 10_000
LEVEL = 0.95
MIN_CLUSTERS = 8
"""Fewer clusters (prompts, or seeds of one prompt) give no interval, and nothing to print in bold."""
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


# --- votes ------------------------------------------------------------------------------------------------------------

ELO = 400 / math.log(10)
"""Points of the Elo scale in one unit of log odds: 400 points are odds of 10 to 1."""


@dataclass(frozen=True)
class Rating:
    """An arm's place in a ranking by votes, in Elo points around the mean of the arms that are ranked with it."""

    name: str
    points: Interval
    num_votes: int


def bradley_terry(votes: Sequence[tuple[str, str, float]], *, level: float = LEVEL) -> list[Rating]:
    """Rank arms by paired votes (first, second, share of the vote that goes to the first: 1, 0, or 0.5 for a tie).

    The model says that a beats b with odds exp(strength_a - strength_b). Strengths maximise the likelihood, to which
    one tie is added for every pair of arms that met: without it an arm that won every vote would be infinitely strong.
    With two arms the interval is then Gart's for log odds, which holds for few votes, too. Ties count as half a win
    for either side, which makes intervals wider rather than narrower. Only arms that votes connect can be ranked
    against each other: of several groups the one with the most votes is ranked.

    Source: Bradley and Terry 1952, "Rank analysis of incomplete block designs"; Gart 1966 for the added tie.
    Returns: the ratings, the best first; empty without votes.
    Raises: ValueError for a share outside [0, 1], or an arm against itself.
    """
    if any(first == second or not 0 <= share <= 1 for first, second, share in votes):
        raise ValueError("each vote must be (first, second, share), of two different arms, with a share from 0 to 1")
    names = list(dict.fromkeys(name for first, second, _ in votes for name in (first, second)))
    place = {name: index for index, name in enumerate(names)}
    counted = np.zeros((len(names), len(names)))
    for first, second, share in votes:
        counted[place[first], place[second]] += share
        counted[place[second], place[first]] += 1 - share
    met = counted + counted.T > 0
    kept = _largest_group(met, (counted + counted.T).sum(1))
    wins = (counted + 0.5 * met)[np.ix_(kept, kept)]
    if not len(kept):
        return []
    strengths, covariance = _fit_strengths(wins)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(np.diag(covariance))
    num_votes = (counted + counted.T)[np.ix_(kept, kept)].sum(1).round().astype(int)
    ratings = [
        Rating(names[index], Interval(*(float(ELO * v) for v in (s, s - h, s + h))), int(n))
        for index, s, h, n in zip(kept, strengths, half, num_votes, strict=True)
    ]
    return sorted(ratings, key=lambda rating: -rating.points.value)


def _largest_group(met: NDArray, num_votes: NDArray) -> NDArray:
    """The indices of the arms that votes connect: of several such groups, those of the one with the most votes."""
    if not len(met):
        return np.array([], int)
    _, groups = connected_components(met, directed=False)
    return np.flatnonzero(groups == np.bincount(groups, weights=num_votes).argmax())


def _fit_strengths(wins: NDArray) -> tuple[NDArray, NDArray]:
    """Strengths (K,) that sum to 0, and their covariance (K, K), from `wins` (K, K) of rows over columns."""
    games = wins + wins.T

    # A penalty on the sum fixes what the votes leave open, and changes no difference.
    def loss(s: NDArray) -> float:
        return float((wins * np.logaddexp(0, s[None] - s[:, None])).sum() + s.sum() ** 2 / 2)

    def slope(s: NDArray) -> NDArray:
        expected = games * expit(s[:, None] - s[None])
        return (expected - wins).sum(1) + s.sum()

    def information(s: NDArray) -> NDArray:
        chance = expit(s[:, None] - s[None])
        spread = games * chance * (1 - chance)
        return np.diag(spread.sum(1)) - spread + 1

    fit = minimize(loss, np.zeros(len(wins)), jac=slope, hess=information, method="trust-exact", tol=1e-9)
    inverse = np.linalg.inv(information(fit.x))
    return fit.x, inverse - 1 / len(wins) ** 2  # without the part that the penalty holds
