"""Distances: between images of several seeds, between generated and real images, between noises and their source."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from eval.summary import CLUSTER, clusters_of, drop_ends
from golden.npnet import decompose, to_matrix
from golden.shapes import parse_caption, render, sample_scene
from golden.statistics import Interval, bootstrap_ratio, mean_pairwise

NUM_REAL = 4  # rendered scenes per prompt
FAR = 0.5  # of an image's side: objects as far from each other count as different ones


# --- between images of several seeds ----------------------------------------------------------------------------------


def feature_distance(features: pd.Series) -> float:
    """Mean of 1 - cosine over pairs of unit features (D,); 0 if they are equal."""
    table = np.stack(features.to_list()).astype(float)
    size = len(table)
    total = np.square(table.sum(0)).sum()  # of all cosines, including each vector's with itself
    return float(1 - (total - size) / (size * (size - 1)))


def layout_distance(one: Sequence[Sequence[Any]], other: Sequence[Sequence[Any]]) -> float:
    """From 0 (equal) to 1 between two layouts, each with the (kind, x, y) of its objects.

    Objects are matched so that the sum is least. A pair of one kind counts by its distance, and as 1 from FAR on;
    a pair of two kinds and an object without a partner count as 1.
    Source: Schuhmacher et al. 2008, "A Consistent Metric for Performance Evaluation of Multi-Object Filters" (OSPA).
    """
    largest = max(len(one), len(other))
    if not largest:
        return 0.0
    cost = np.ones((len(one), len(other)))
    for i, (kind, x, y) in enumerate(one):
        for j, (other_kind, other_x, other_y) in enumerate(other):
            if kind == other_kind:
                cost[i, j] = min(1.0, float(np.hypot(x - other_x, y - other_y)) / FAR)
    matched = cost[linear_sum_assignment(cost)]
    return float((matched.sum() + largest - len(matched)) / largest)


def mean_layout_distance(layouts: pd.Series) -> float:
    """Mean over pairs of layouts, which rows keep as JSON."""
    return mean_pairwise([_read_layout(text) for text in layouts], layout_distance)


_read_layout = lru_cache(maxsize=4096)(json.loads)

DIVERSITY: dict[str, Callable[[pd.Series], float]] = {"features": feature_distance, "layout": mean_layout_distance}
"""By column of the extras, the mean distance between the images of one prompt."""


def find_diversities(extras: pd.DataFrame) -> list[str]:
    """The columns of DIVERSITY that were measured, for images of at least two seeds."""
    several = extras["seed"].nunique() > 1
    return [name for name in DIVERSITY if several and name in extras and extras[name].notna().all()]


def diversity(extras: pd.DataFrame, variant: str, column: str = "features") -> pd.Series:
    """By prompt, the mean distance between the images of its seeds; 0 if they are equal."""
    own = extras[extras["variant"] == variant]
    return own.groupby("prompt_index")[column].agg(DIVERSITY[column])


def diversity_ratio(extras: pd.DataFrame, variant: str, baseline: str, column: str = "features") -> Interval:
    """The mean of `diversity` over that of the baseline on the same prompts, with its interval over prompts."""
    own = diversity(extras, variant, column)
    other = diversity(extras[extras["prompt_index"].isin(own.index)], baseline, column)
    clusters = clusters_by_prompt(extras)[own.index]
    return drop_ends(bootstrap_ratio(own, other[own.index], clusters), clusters)


def clusters_by_prompt(extras: pd.DataFrame) -> pd.Series:
    """The cluster of each prompt, by its index."""
    return extras.assign(**{CLUSTER: clusters_of(extras)}).groupby("prompt_index")[CLUSTER].first()


# --- generated and real images ----------------------------------------------------------------------------------------


def render_real(prompts: list[str], num: int = NUM_REAL) -> list[Image.Image]:
    """Real images of the shapes world: rendered scenes that match the prompts, the same in every call."""
    rng = np.random.default_rng(553)
    return [render(sample_scene(parse_caption(prompt), rng)) for prompt in prompts for _ in range(num)]


def frechet_distance(ours: NDArray, theirs: NDArray) -> float:
    """Frechet distance between Gaussians fitted to two sets of features (N, D) and (M, D); 0 if they are equal.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), where the trace of the root is the sum of the singular values of
    C1^(1/2) C2^(1/2). It falls with the number of images: compare sets of equal size only.
    Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", section 3.
    Differs from the paper: the features are CLIP's, not Inception's.
    """
    means = [features.mean(0) for features in (ours, theirs)]
    # R with R'R = C, from the centred features themselves: avoids the root of a matrix that may be singular.
    first, second = (
        scipy.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")[0][: features.shape[1]]
        for features, mean in zip((ours, theirs), means, strict=True)
    )
    root = scipy.linalg.svdvals(first @ second.T).sum()
    return float(np.square(means[0] - means[1]).sum() + np.square(first).sum() + np.square(second).sum() - 2 * root)


def frechet_by_variant(
    extras: pd.DataFrame, variants: list[str], real: NDArray, num_resamples: int = 200
) -> dict[str, Interval]:
    """By variant, its distance to real images, with an interval by bootstrap over prompts (same draws for all)."""
    rng = np.random.default_rng(0)
    extras = extras.assign(**{CLUSTER: clusters_of(extras)})
    tables = {}
    for name in variants:
        own = extras[extras["variant"] == name].sort_values(["prompt_index", "seed"])
        tables[name] = (np.stack(own["features"].to_list()).astype(float), own[CLUSTER].to_numpy())
    clusters = np.unique(next(iter(tables.values()))[1])
    draws = [rng.choice(clusters, len(clusters)) for _ in range(num_resamples)]
    found = {}
    for name, (features, index) in tables.items():
        places = {cluster: np.flatnonzero(index == cluster) for cluster in clusters}
        value = frechet_distance(features, real)
        again = [frechet_distance(features[np.concatenate([places[c] for c in draw])], real) for draw in draws]
        # Repeated images in a resample raise its distance: keep the spread, centred on the value.
        low, high = np.quantile(again, [0.025, 0.975]) - np.mean(again)
        found[name] = drop_ends(Interval(value, value + float(low), value + float(high)), clusters)
    return found


# --- noises -----------------------------------------------------------------------------------------------------------


def singular_similarity(source: Tensor, noise: Tensor) -> tuple[NDArray, NDArray]:
    """(K,) and (K,): |cosine| between left, and right, singular vectors of two noises (B, C, h, w), rank by rank.

    Means over the batch, largest singular value first; 1 is the same direction.
    Source: Fig. 8 of the paper; the matrix is the one that NPNet decomposes.
    """
    with torch.inference_mode():
        (u, _, vh), (other_u, _, other_vh) = (decompose(to_matrix(part.double())) for part in (source, noise))
    left = (u * other_u).sum(1).abs().mean(0)
    right = (vh * other_vh).sum(2).abs().mean(0)
    return left.numpy(), right.numpy()
