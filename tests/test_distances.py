"""Distances: between images of a prompt, between sets of images, between the singular vectors of noises."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import sqrtm

from eval.distances import (
    NUM_REAL,
    diversity,
    diversity_ratio,
    find_diversities,
    frechet_by_variant,
    frechet_distance,
    layout_distance,
    render_real,
    singular_similarity,
)
from golden.shapes import check_image


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def unit(table: np.ndarray) -> np.ndarray:
    return table / np.linalg.norm(table, axis=-1, keepdims=True)


def make_extras(features: dict[str, np.ndarray]) -> pd.DataFrame:
    """Rows of variants from features (prompts, seeds, D)."""
    return pd.DataFrame(
        {"prompt_index": prompt, "seed": seed, "variant": name, "features": table[prompt, seed]}
        for name, table in features.items()
        for prompt in range(table.shape[0])
        for seed in range(table.shape[1])
    )


def test_diversity_is_the_mean_distance_of_all_pairs(rng):
    table = unit(rng.normal(size=(3, 4, 6)))
    cosines = table @ table.transpose(0, 2, 1)
    expected = [1 - c[np.triu_indices(4, 1)].mean() for c in cosines]
    assert diversity(make_extras({"a": table}), "a").to_numpy() == pytest.approx(expected)


def test_seeds_that_fall_together_are_seen(rng):
    spread = unit(rng.normal(size=(40, 3, 8)))
    together = unit(spread + 2 * spread.mean(1, keepdims=True))
    extras = make_extras({"standard": spread, "npnet": together})
    assert diversity(extras, "standard").mean() == pytest.approx(1, abs=0.1)
    assert (diversity(extras, "npnet") < diversity(extras, "standard")).mean() > 0.95
    assert diversity(make_extras({"a": spread[:, :1].repeat(3, 1)}), "a").to_numpy() == pytest.approx(0, abs=1e-12)


STAR, HEART = ["star", 0.3, 0.4], ["heart", 0.7, 0.6]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([], [], 0),
        ([STAR, HEART], [HEART, STAR], 0),
        ([STAR], [["star", 0.6, 0.8]], 1),  # half of the image away
        ([STAR], [["star", 0.3, 0.6]], 0.4),
        ([STAR], [["heart", 0.3, 0.4]], 1),
        ([STAR], [], 1),
        ([STAR, HEART], [STAR], 0.5),
        ([STAR, ["star", 0.5, 0.4]], [["star", 0.5, 0.4], ["star", 0.3, 0.5]], 0.1),  # matched across the order
    ],
)
def test_layouts_are_as_far_apart_as_their_objects(one, other, expected):
    assert layout_distance(one, other) == pytest.approx(expected)
    assert layout_distance(other, one) == pytest.approx(expected)


def test_layout_distance_is_a_metric(rng):
    kinds = ("star", "heart")
    draw = lambda: [[kinds[rng.integers(2)], *rng.random(2)] for _ in range(rng.integers(4))]  # noqa: E731
    for _ in range(200):
        one, two, three = draw(), draw(), draw()
        assert layout_distance(one, three) <= layout_distance(one, two) + layout_distance(two, three) + 1e-9
        assert 0 <= layout_distance(one, two) <= 1


def test_diversity_is_set_against_the_baselines_on_the_same_prompts(rng):
    spread = unit(rng.normal(size=(40, 3, 8)))
    together = unit(spread + 2 * spread.mean(1, keepdims=True))
    extras = make_extras({"standard": spread, "npnet": together})
    ratio = diversity_ratio(extras, "npnet", "standard")
    assert ratio.low < ratio.value < ratio.high < 1
    fewer = extras[(extras["variant"] == "standard") | (extras["prompt_index"] < 20)]
    expected = diversity(fewer, "npnet").mean() / diversity(extras, "standard")[:20].mean()
    assert diversity_ratio(fewer, "npnet", "standard").value == pytest.approx(expected)
    assert diversity_ratio(extras, "standard", "standard").low == 1


def test_diversity_takes_two_seeds_and_measured_columns(rng):
    extras = make_extras({"a": unit(rng.normal(size=(2, 2, 4)))})
    assert find_diversities(extras) == ["features"]
    assert find_diversities(extras.assign(layout=["[]"] * 4)) == ["features", "layout"]
    assert find_diversities(extras.assign(layout=["[]", "[]", "[]", None])) == ["features"]
    assert find_diversities(extras[extras["seed"] == 0]) == []


@pytest.mark.parametrize("num", [500, 12])  # 12 images of 20 features: the covariance is singular
def test_frechet_distance_is_the_formula(rng, num):
    ours, theirs = rng.normal(size=(num, 20)), rng.normal(size=(400, 20)) @ rng.normal(size=(20, 20)) + 1
    one, two = np.cov(ours.T), np.cov(theirs.T)
    root = sqrtm(one @ two).real
    formula = np.square(ours.mean(0) - theirs.mean(0)).sum() + np.trace(one + two - 2 * root)
    assert frechet_distance(ours, theirs) == pytest.approx(formula, rel=1e-4)
    assert frechet_distance(ours, theirs) == pytest.approx(frechet_distance(theirs, ours))


def test_frechet_distance_knows_shifts_and_stretches(rng):
    features = rng.normal(size=(300, 5))
    features -= features.mean(0)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features + 2, features) == pytest.approx(5 * 4)
    expected = np.square(features.std(0, ddof=1)).sum()  # (3 s - 2 s)^2 in each direction
    assert frechet_distance(3 * features, 2 * features) == pytest.approx(expected)


def test_the_variant_nearer_to_real_images_is_found_with_an_interval(rng):
    real = rng.normal(size=(400, 4))
    near, far = rng.normal(size=(50, 2, 4)), rng.normal(size=(50, 2, 4)) + 1
    found = frechet_by_variant(make_extras({"near": near, "far": far}), ["near", "far"], real, num_resamples=50)
    assert found["near"].high < found["far"].low
    assert found["far"].low < found["far"].value < found["far"].high
    again = frechet_by_variant(make_extras({"near": near, "far": far}), ["near", "far"], real, num_resamples=50)
    assert found == again


def test_real_images_show_their_prompts():
    prompts = ["a red circle left of a blue square", "three stars"]
    images = render_real(prompts)
    assert len(images) == 2 * NUM_REAL
    for index, image in enumerate(images):
        assert check_image(prompts[index // NUM_REAL], image).correct


def test_singular_vectors_are_compared_rank_by_rank():
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    left, right = singular_similarity(noise, 2 * noise)
    assert left.shape == right.shape == (16,)
    assert left == pytest.approx(1)
    assert right == pytest.approx(1)
    other = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert singular_similarity(noise, other)[0].mean() < 0.4
    near, _ = singular_similarity(noise, noise + 0.02 * other)
    assert 0.7 < near.mean() < 1
