"""Choosing among seeds: equal to choosing by hand, over every possible draw."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from eval.selection import (
    best_of,
    best_of_curve,
    choice_probabilities,
    cluster_scores,
    held_out_gain,
    judge_matrix,
    pairs_matrix,
    scores_of,
    worth_in_seeds,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def best_by_hand(choosing: np.ndarray, measured: np.ndarray, num: int) -> float:
    """The mean over all draws of `num`, and over the images that tie for the best of a draw."""
    outcomes = []
    for drawn in combinations(range(len(choosing)), num):
        best = max(choosing[i] for i in drawn)
        tied = [measured[i] for i in drawn if choosing[i] == best]
        outcomes.append(sum(tied) / len(tied))
    return float(np.mean(outcomes))


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_every_draw(rng, num):
    choosing, measured = rng.integers(0, 4, (6, 5)).astype(float), rng.normal(size=(6, 5))
    expected = [best_by_hand(a, b, num) for a, b in zip(choosing, measured, strict=True)]
    assert best_of(choosing, measured, num) == pytest.approx(expected)


def test_probabilities_sum_to_one_and_one_seed_is_any_seed(rng):
    scores = rng.normal(size=(20, 6))
    for num in range(1, 7):
        assert choice_probabilities(scores, num).sum(1) == pytest.approx(1)
    assert choice_probabilities(scores, 1) == pytest.approx(1 / 6)
    assert best_of(scores, scores, 6) == pytest.approx(scores.max(1))
    assert (np.diff(best_of_curve(scores, scores), axis=1) >= 0).all()


def test_worth_in_seeds_finds_the_number_that_golden_images_were_made_with(rng):
    standard = rng.normal(size=(4000, 8))
    # A "golden" image that is the best of three others.
    golden = rng.normal(size=(4000, 3)).max(1)
    worth = worth_in_seeds(best_of_curve(standard, standard), golden, num_resamples=500)
    assert worth.low < 3 < worth.high
    assert worth.high - worth.low < 0.6


def test_worth_in_seeds_stays_between_one_and_all(rng):
    standard = rng.normal(size=(50, 4))
    curves = best_of_curve(standard, standard)
    assert worth_in_seeds(curves, np.full(50, -9.0), num_resamples=50).value == 1
    assert worth_in_seeds(curves, np.full(50, 9.0), num_resamples=50).value == 4
    assert worth_in_seeds(curves, curves[:, 1], num_resamples=50).value == pytest.approx(2)


def make_rows(rng: np.random.Generator, num_prompts: int = 300, num_seeds: int = 4) -> pd.DataFrame:
    """Standard images whose quality three judges measure: one exactly, one with noise, one not at all."""
    index = pd.MultiIndex.from_product([range(num_prompts), range(num_seeds)], names=["prompt_index", "seed"])
    quality = rng.normal(size=len(index))
    rows = index.to_frame(index=False).assign(variant="standard", prompt="p")
    noise = rng.normal(size=(2, len(index)))
    return rows.assign(exact=quality, noisy=quality + noise[0], blind=noise[1])


def test_a_held_out_judge_exposes_one_that_only_pleases_itself(rng):
    matrix = judge_matrix(make_rows(rng), "standard", ["exact", "noisy", "blind"], 4)
    assert matrix["exact", "exact"].value == pytest.approx(1.03, abs=0.1)  # the mean of the best of four normal values
    assert matrix["exact", "noisy"].value == pytest.approx(1.03 / math.sqrt(2), abs=0.1)
    assert matrix["blind", "blind"].value > 0.9
    assert abs(matrix["blind", "exact"].value) < 0.1
    assert abs(held_out_gain(matrix, "blind")) < 0.1 < held_out_gain(matrix, "noisy")


def test_prompts_that_miss_a_seed_are_left_out(rng):
    rows = make_rows(rng, 5, 3).iloc[1:]
    assert scores_of(rows, "standard", "exact").shape == (4, 3)
    assert cluster_scores(rows, "standard", "exact").tolist() == [1, 2, 3, 4]


def test_prompts_of_one_cluster_are_drawn_together(rng):
    rows = make_rows(rng, 40, 4)
    twice = pd.concat([rows, rows.assign(prompt_index=rows["prompt_index"] + 40)])
    twice = twice.assign(cluster=twice["prompt_index"] % 40)
    assert cluster_scores(twice, "standard", "exact").tolist() == [*range(40), *range(40)]
    once = judge_matrix(rows, "standard", ["exact", "noisy"], 4)
    again = judge_matrix(twice, "standard", ["exact", "noisy"], 4)
    for key, interval in once.items():
        assert again[key].value == pytest.approx(interval.value)
        assert again[key].high - again[key].low == pytest.approx(interval.high - interval.low, rel=0.1)
    scores, golden = scores_of(twice, "standard", "exact"), rng.normal(0.5, 1, 40)
    curves, golden = best_of_curve(scores, scores), np.tile(golden, 2)
    together = worth_in_seeds(curves, golden, cluster_scores(twice, "standard", "exact"), num_resamples=500)
    apart = worth_in_seeds(curves, golden, num_resamples=500)
    assert together.value == apart.value
    assert together.high - together.low > apart.high - apart.low


def test_pairs_are_kept_by_one_judge_and_measured_by_another(rng):
    rows = make_rows(rng, 400, 1)
    change = rng.normal(size=len(rows))
    names = ["exact", "blind"]
    pairs = rows.assign(
        prompt=rows["prompt_index"].astype(str),
        **{f"source_{name}": rows[name] for name in names},
        target_exact=rows["exact"] + change,
        target_blind=rows["blind"] + rng.normal(size=len(rows)),
    )
    matrix = pairs_matrix(pairs, names)
    expected = change[change > 0].mean() / rows["exact"].std()
    assert matrix["exact", "exact"].value == pytest.approx(expected)
    assert abs(matrix["blind", "exact"].value) < 0.25
    nothing_kept = pairs.assign(target_blind=pairs["source_blind"] - 1)
    assert {first for first, _ in pairs_matrix(nothing_kept, names)} == {"exact"}
