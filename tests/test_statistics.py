"""Statistics: they agree with scipy and statsmodels, and with simulated data whose truth is known."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.stats.power import TTestPower

from golden.statistics import (
    ELO,
    Interval,
    bootstrap_mean,
    bootstrap_means,
    bootstrap_ratio,
    bradley_terry,
    cluster_means,
    cluster_sign_test,
    clusters_needed,
    count_wins,
    holm,
    mean_pairwise,
    sample_size,
    sign_test,
)

RNG_SEED = 20240


def simulate_differences(rng: np.random.Generator, num_prompts: int, num_seeds: int, gain: float) -> np.ndarray:
    """(num_prompts, num_seeds) of -1, 0, 1: right or wrong of two arms, whose rates of success differ by `gain`.

    Prompts are easy or hard, and gain more or less, as real ones do; the mean difference over prompts is `gain`.
    """
    base = rng.beta(2, 1.5, num_prompts)[:, None] * (1 - 2 * abs(gain)) + abs(gain)
    better = base + gain * 2 * rng.random((num_prompts, 1))
    shape = (num_prompts, num_seeds)
    return (rng.random(shape) < better).astype(int) - (rng.random(shape) < base).astype(int)


@pytest.mark.parametrize(("num_prompts", "num_seeds", "gain"), [(80, 4, 0.05), (12, 2, 0.0)])
def test_interval_covers_the_true_effect(num_prompts, num_seeds, gain):
    rng = np.random.default_rng(RNG_SEED)
    clusters = np.repeat(np.arange(num_prompts), num_seeds)
    num_covered = 0
    for index in range(1000):
        values = simulate_differences(rng, num_prompts, num_seeds, gain).ravel()
        interval = bootstrap_mean(values, clusters, num_resamples=1000, seed=index)
        num_covered += interval.low <= gain <= interval.high
    assert 930 <= num_covered <= 970


def test_interval_that_ignored_prompts_would_be_too_narrow():
    rng = np.random.default_rng(RNG_SEED)
    # Every seed of a prompt shares the prompt's own gain, so that 4 seeds say little more than 1.
    values = np.repeat(rng.normal(0, 1, 100), 4)
    clustered = bootstrap_mean(values, np.repeat(np.arange(100), 4))
    pretended = bootstrap_mean(values, np.arange(400))
    width, pretended_width = clustered.high - clustered.low, pretended.high - pretended.low
    assert width == pytest.approx(2 * pretended_width, rel=0.1)


def test_interval_agrees_with_scipy_where_every_cluster_is_one_value():
    values = np.random.default_rng(RNG_SEED).exponential(size=200)
    ours = bootstrap_mean(values, np.arange(200))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_interval_weighs_clusters_by_their_size():
    values, clusters = [1.0, 1.0, 1.0, 0.0], [7, 7, 7, 9]
    interval = bootstrap_mean(values, clusters)
    assert interval.value == 0.75  # not the mean of cluster means
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_columns_share_one_bootstrap_and_the_seed_decides():
    rng = np.random.default_rng(RNG_SEED)
    table, clusters = rng.normal(size=(90, 3)), np.repeat(np.arange(30), 3)
    together = bootstrap_means(table, clusters)
    for interval, column in zip(together, table.T, strict=True):
        assert astuple(interval) == pytest.approx(astuple(bootstrap_mean(column, clusters)))
    assert together == bootstrap_means(table, clusters)
    assert together != bootstrap_means(table, clusters, seed=1)
    assert bootstrap_means(np.zeros((4, 1)), [0, 0, 1, 1]) == [Interval(0.0, 0.0, 0.0)]


def test_one_cluster_has_no_interval():
    interval = bootstrap_mean([1.0, 2.0], [0, 0])
    assert interval.value == 1.5
    assert math.isnan(interval.low)
    assert not interval.excludes_zero


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0]]])
def test_unfit_values_are_refused(values):
    with pytest.raises(ValueError, match="values must be"):
        bootstrap_mean(values, np.arange(len(values)))


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (8, 2), (2, 8), (60, 41), (310, 243)])
def test_sign_test_is_the_binomial_sum(wins, losses):
    n, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert sign_test(wins, losses) == pytest.approx(min(1.0, 2 * tail))


def test_sign_test_over_prompts_counts_a_prompt_once():
    differences = [1, 1, 1, 1, -1, -1, 1, -1, 0.1 + 0.2, -0.3]
    clusters = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert cluster_means(differences, clusters)[:3].tolist() == [1, -1, 0]
    assert cluster_sign_test(differences, clusters) == 1.0  # one prompt won, one lost, two tied
    assert cluster_sign_test([1.0] * 12, np.repeat(np.arange(6), 2)) == pytest.approx(2 / 2**6)


def test_sign_test_is_never_too_eager():
    rng = np.random.default_rng(RNG_SEED)
    clusters = np.repeat(np.arange(60), 4)
    p_values = [cluster_sign_test(simulate_differences(rng, 60, 4, 0.0).ravel(), clusters) for _ in range(500)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.07


def test_ties_are_counted_and_are_no_wins():
    wins = count_wins([0.2, 0.0, -0.1, 0.3])
    assert (wins.wins, wins.ties, wins.losses, wins.rate) == (2, 1, 1, 0.5)


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03, 0.005, 0.2, 0.9], [0.5, 0.5], [0.001], [0.02, 0.02, 0.02]])
def test_holm_is_the_step_down_rule_in_the_order_given(p_values):
    expected, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        expected[index] = running
    assert holm(p_values) == pytest.approx(expected)


def test_holm_of_nothing_is_nothing():
    assert holm([]) == []


@pytest.mark.parametrize("effect", [2.0, 0.8, -0.5, 0.2, 0.05, 0.01])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_sample_size_agrees_with_statsmodels(effect, power):
    expected = math.ceil(TTestPower().solve_power(abs(effect), alpha=0.05, power=power))
    assert sample_size(effect, power=power) == pytest.approx(expected, abs=1)
    size = sample_size(effect, power=power)
    assert TTestPower().power(abs(effect), size, 0.05) >= power - 1e-6
    assert size == 2 or TTestPower().power(abs(effect), size - 1, 0.05) < power


def test_prompts_needed_show_the_effect_in_four_of_five_studies():
    rng = np.random.default_rng(RNG_SEED)
    pilot = simulate_differences(rng, 4000, 2, 0.12)
    needed = clusters_needed(pilot.ravel(), np.repeat(np.arange(4000), 2))
    studies = [simulate_differences(rng, needed, 2, 0.12).mean(1) for _ in range(500)]
    found = np.mean([stats.ttest_1samp(study, 0).pvalue < 0.05 for study in studies])
    assert 0.74 < found < 0.86


def test_no_effect_needs_no_number():
    assert clusters_needed([0.0, 0.0, 0.0], [0, 1, 2]) is None
    assert clusters_needed([1.0, -1.0], [0, 1]) is None
    assert clusters_needed([1.0, 1.0], [0, 1]) is None
    assert clusters_needed([1.0], [0]) is None


# --- ratios and pairs -------------------------------------------------------------------------------------------------


def test_a_ratio_covers_the_true_one():
    rng = np.random.default_rng(RNG_SEED)
    covered, trials = 0, 200
    for trial in range(trials):
        baseline = rng.gamma(4, 0.25, 40)
        values = 0.9 * baseline * rng.gamma(100, 0.01, 40)  # what both share cancels
        interval = bootstrap_ratio(values, baseline, np.arange(40), num_resamples=500, seed=trial)
        covered += interval.low <= 0.9 <= interval.high
        assert interval.value == pytest.approx(values.mean() / baseline.mean())
        assert interval.high - interval.low < 0.15
    assert 0.90 <= covered / trials <= 0.99


def test_a_ratio_to_nothing_has_no_interval():
    assert astuple(bootstrap_ratio([2, 2], [1, 1], [0, 1])) == (2, 2, 2)
    for ratio in (bootstrap_ratio([1, 2], [0, 0], [0, 1]), bootstrap_ratio([1, 2], [1, 1], [0, 0])):
        assert math.isnan(ratio.low)
        assert math.isnan(ratio.high)
    assert math.isnan(bootstrap_ratio([1, 2], [0, 0], [0, 1]).value)
    assert math.isnan(bootstrap_ratio([1.0] * 4, [1.0, 0, 0, 0], range(4)).low)  # some resamples are all zeros


def test_pairs_are_all_taken_once():
    assert mean_pairwise([0, 1, 3], lambda one, other: abs(one - other)) == pytest.approx((1 + 3 + 2) / 3)


# --- votes ------------------------------------------------------------------------------------------------------------


def draw_votes(rng: np.random.Generator, strengths: dict[str, float], num_votes: int) -> list[tuple[str, str, float]]:
    """Votes on random pairs of arms with these strengths in log odds."""
    votes = []
    for _ in range(num_votes):
        first, second = rng.choice(list(strengths), 2, replace=False).tolist()
        wins = rng.random() < 1 / (1 + np.exp(strengths[second] - strengths[first]))
        votes.append((first, second, float(wins)))
    return votes


def test_a_ranking_is_the_logistic_regression_of_the_votes():
    """Of statsmodels, with the tie that is added for each pair; the first arm's strength is its zero."""
    votes = draw_votes(np.random.default_rng(RNG_SEED), {"a": 0.0, "b": 0.5, "c": -0.4}, 60)
    table, rows = [*votes, ("a", "b", 0.5), ("a", "c", 0.5), ("b", "c", 0.5)], {"a": (0, 0), "b": (1, 0), "c": (0, 1)}
    design = np.array([np.subtract(rows[first], rows[second]) for first, second, _ in table])
    fit = GLM(np.array([share for *_, share in table]), design, family=Binomial()).fit()
    found = {rating.name: rating.points for rating in bradley_terry(votes)}
    expected = np.array([0, *fit.params]) - fit.params.sum() / 3
    assert [found[name].value for name in "abc"] == pytest.approx(ELO * expected, abs=1e-4)
    centre = np.array([[-1, -1], [2, -1], [-1, 2]]) / 3
    spreads = np.sqrt(np.diag(centre @ fit.cov_params() @ centre.T))
    halves = [(found[name].high - found[name].low) / 2 for name in "abc"]
    assert halves == pytest.approx(1.959964 * ELO * spreads, rel=1e-4)


def test_two_arms_differ_by_the_log_odds_of_their_votes():
    best, worst = bradley_terry([("golden", "standard", 1.0)] * 9 + [("standard", "golden", 1.0)] * 3)
    assert (best.name, worst.name, best.num_votes) == ("golden", "standard", 12)
    assert best.points.value - worst.points.value == pytest.approx(400 * np.log10(9.5 / 3.5))
    assert best.points.low < 0 < best.points.value


def test_an_arm_that_won_every_vote_has_an_end():
    best, worst = bradley_terry([("a", "b", 1.0)] * 20)
    assert 0 < best.points.low < best.points.value < best.points.high < 1000
    assert worst.points.value == pytest.approx(-best.points.value)


def test_ties_alone_rank_nobody_first():
    for rating in bradley_terry([("a", "b", 0.5)] * 10):
        assert rating.points.value == pytest.approx(0, abs=1e-6)
        assert rating.points.low < 0 < rating.points.high


def test_intervals_of_rankings_hold_the_truth_as_often_as_they_say():
    strengths, held = {"a": 0.6, "b": 0.0, "c": -0.6}, []
    for seed in range(300):
        for rating in bradley_terry(draw_votes(np.random.default_rng(seed), strengths, 30)):
            held.append(rating.points.low <= ELO * strengths[rating.name] <= rating.points.high)
    assert 0.93 < np.mean(held) < 0.98


def test_only_arms_that_votes_connect_are_ranked():
    ratings = bradley_terry([("a", "b", 1.0), ("c", "d", 0.0), ("d", "e", 1.0)])
    assert ratings[0].name == "d"
    assert {rating.name for rating in ratings} == {"c", "d", "e"}
    assert bradley_terry([]) == []


@pytest.mark.parametrize("vote", [("a", "a", 1.0), ("a", "b", 1.5), ("a", "b", float("nan"))])
def test_votes_that_cannot_be_are_refused(vote):
    with pytest.raises(ValueError, match="share from 0 to 1"):
        bradley_terry([vote])
