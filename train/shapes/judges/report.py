"""What judges are worth on captions that they never saw: tables in Markdown."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image
from scipy import stats

from golden.judges import Judge
from golden.shapes import Request, Scene, change_one_attribute, sample_scene
from golden.statistics import bootstrap_mean
from train.shapes.judge_images import JudgeImages
from train.shapes.judges.captions import DIMENSIONS, draw, draw_caption, mirror
from train.shapes.judges.configs import CONDITIONS
from train.shapes.judges.distortions import distort, pick_distortion
from train.shapes.judges.pairs import ImagePair, conflicting

NUM_RENDERED = 400
"""Rendered pairs of each kind."""


@dataclass(frozen=True)
class RankedPairs:
    """Pairs of indices into images, better and worse, and the caption that each belongs to: all (n,)."""

    better: np.ndarray
    worse: np.ndarray
    captions: np.ndarray

    def accuracy(self, scores: np.ndarray) -> str:
        """Share of pairs whose better image scores higher, in %, and its 95 % interval by bootstrap over captions."""
        if not len(self.better):
            return "no pairs"
        interval = bootstrap_mean(scores[self.better] > scores[self.worse], self.captions)
        return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"

    def share(self, scores: np.ndarray) -> float | None:
        """Share of pairs whose better image scores higher, in [0, 1]; None without any."""
        if not len(self.better):
            return None
        return round(float((scores[self.better] > scores[self.worse]).mean()), 4)


def score_images(judge: Judge, images: JudgeImages) -> np.ndarray:
    """(N,) scores of all images for their captions."""
    return judge.score([Image.fromarray(one) for one in images.pixels], images.rows["caption"].tolist()).numpy()


# --- pairs to choose from ---------------------------------------------------------------------------------------------


def contrasting(images: JudgeImages, name: str, among: np.ndarray | None = None) -> RankedPairs:
    """All pairs of a good and a bad image of one caption, see `JudgeImages.contrasts`, of those in `among` (N,)."""
    found: list[tuple[int, int, int]] = []
    for number, (good, bad) in enumerate(images.contrasts[name]):
        if among is not None:
            good, bad = good[among[good]], bad[among[bad]]
        found += [(one, other, number) for one in good for other in bad]
    better, worse, captions = np.array(found, int).reshape(-1, 3).T
    return RankedPairs(better, worse, captions)


def beside_changed(
    seed: int, dimension: str | None = None, change: Callable[..., Scene] = change_one_attribute
) -> tuple[JudgeImages, RankedPairs]:
    """Rendered scenes of held-out captions and the same with one attribute changed, and the pairs that they form."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(NUM_RENDERED):
        caption, request = draw_caption(rng, "held_out", dimension)
        scene = sample_scene(request, rng)
        pairs.append(ImagePair(caption, draw(scene), draw(change(scene, request, rng, dimension))))
    return as_images(pairs)


def beside_mirrored(seed: int) -> tuple[JudgeImages, RankedPairs]:
    """Rendered scenes of held-out captions and their mirror images, in which a relation is turned round."""

    def change(scene: Scene, request: Request, rng: np.random.Generator, dimension: str | None) -> Scene:
        return mirror(scene, request, rng)

    return beside_changed(seed, "position", change)


def beside_distorted(images: JudgeImages, seed: int) -> tuple[JudgeImages, RankedPairs]:
    """The standard images and after them the same distorted at random, and the pairs that they form."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in np.flatnonzero(images.standard()):
        clean = images.pixels[index]
        worse = distort(clean, pick_distortion(rng), rng.uniform(0.3, 1.0), rng)
        pairs.append(ImagePair(images.rows["caption"].iloc[index], clean, worse))
    return as_images(pairs)


def as_images(pairs: list[ImagePair]) -> tuple[JudgeImages, RankedPairs]:
    """The better images and after them the worse ones, and the pairs that they form."""
    pixels = np.stack([pair.better for pair in pairs] + [pair.worse for pair in pairs])
    rows = pd.DataFrame({"caption": [pair.caption for pair in pairs] * 2})
    order = np.arange(len(pairs))
    captions = rows["caption"].astype("category").cat.codes.to_numpy()[: len(pairs)]
    return JudgeImages(pixels, rows), RankedPairs(order, order + len(pairs), captions)


def share_right_vs_wrong(judge: Judge, images: JudgeImages) -> float | None:
    """Share of right images that score above wrong ones of the same caption; None without any."""
    pairs = contrasting(images, "right")
    return pairs.share(score_images(judge, images)) if len(pairs.better) else None


def share_right_position(judge: Judge, seed: int = 1) -> float | None:
    """Share of rendered scenes that score above the same with a position changed."""
    images, pairs = beside_changed(seed, "position")
    return pairs.share(score_images(judge, images))


# --- the report -------------------------------------------------------------------------------------------------------


def report(judges: dict[str, Judge], images: JudgeImages, seed: int = 0) -> tuple[str, dict[str, dict[str, float]]]:
    """Tables in Markdown over held-out images, and each judge's mean and deviation over the standard ones."""
    scores = {name: score_images(judge, images) for name, judge in judges.items()}
    standard = images.standard()
    spread = {
        name: {"mean": float(values[standard].mean()), "std": float(values[standard].std())}
        for name, values in scores.items()
    }
    text = "\n\n".join(
        [
            f"{len(images)} images of {len(images.by_caption)} held-out captions.",
            accuracy_table(judges, scores, images, seed),
            "By MPS's condition words:\n\n" + condition_table(judges["MPS"], images, seed) if "MPS" in judges else "",
            "Spearman correlation, all held-out images:\n\n" + correlation_table(scores),
            "The same within captions, with each caption's mean subtracted:\n\n"
            + correlation_table({name: within_captions(values, images) for name, values in scores.items()}),
            f"Rendered, {NUM_RENDERED} pairs of each kind of change:\n\n" + change_table(judges, seed),
        ]
    )
    return text, spread


def accuracy_table(judges: dict[str, Judge], scores: dict[str, np.ndarray], images: JudgeImages, seed: int) -> str:
    """One row per judge, one column per kind of pair."""
    kinds = {
        "right / wrong": contrasting(images, "right"),
        "the same, standard settings": contrasting(images, "right", images.standard()),
        "many / few steps": contrasting(images, "quality"),
    }
    made = {
        "rendered, one attribute changed": beside_changed(seed),
        "clean / distorted": beside_distorted(images, seed),
    }
    rows = []
    for name, judge in judges.items():
        cells = [pairs.accuracy(scores[name]) for pairs in kinds.values()]
        cells += [pairs.accuracy(score_images(judge, doubled)) for doubled, pairs in made.values()]
        rows.append([name, *cells])
    kinds |= {kind: pairs for kind, (_, pairs) in made.items()}
    return table(["judge", *(f"{kind}, n = {len(pairs.better)}" for kind, pairs in kinds.items())], rows)


def change_table(judges: dict[str, Judge], seed: int) -> str:
    """One row per judge, one column per dimension in which rendered scenes are changed, and one for mirror images."""
    made = {dimension: beside_changed(seed, dimension) for dimension in DIMENSIONS}
    made["position, mirrored"] = beside_mirrored(seed)
    rows = [
        [name, *(pairs.accuracy(score_images(judge, doubled)) for doubled, pairs in made.values())]
        for name, judge in judges.items()
    ]
    return table(["changed", *made], rows)


def condition_table(judge: Judge, images: JudgeImages, seed: int) -> str:
    """MPS under each dimension's condition and under the overall one: on images of which one is right in the
    dimension, and on rendered pairs of which the better is right in it and wrong in another, see `conflicting`.
    """
    overall = score_images(judge, images)
    rows = []
    for dimension in (*DIMENSIONS, "quality"):
        pairs = contrasting(images, dimension)
        asked = with_condition(judge, CONDITIONS[dimension])
        row = [dimension, str(len(pairs.better)), pairs.accuracy(score_images(asked, images))]
        row.append(pairs.accuracy(overall))
        if dimension in DIMENSIONS:
            rng = np.random.default_rng(seed)
            drawn = [conflicting(None, rng, dimension, "held_out") for _ in range(NUM_RENDERED)]
            made, pairs = as_images(drawn)
            row += [pairs.accuracy(score_images(one, made)) for one in (asked, judge)]
        rows.append([*row, "", ""][:6])
    header = ["pairs that differ in", "n", "under its own condition", "under the overall one"]
    conflicts = f"rendered, wrong in another dimension / in this, n = {NUM_RENDERED}"
    return table([*header, f"{conflicts}: own condition", "overall"], rows)


def with_condition(judge: Judge, words: str) -> Judge:
    """The same judge under another condition."""
    other = copy.deepcopy(judge)
    other.config["condition"] = words
    return other.float()  # which also forgets the prompts as they were read before


def within_captions(scores: np.ndarray, images: JudgeImages) -> np.ndarray:
    """(N,) scores less the mean of their caption's: a judge that learned from choices says nothing across prompts."""
    column = pd.Series(scores)
    return (column - column.groupby(images.rows["caption"].to_numpy()).transform("mean")).to_numpy()


def correlation_table(scores: dict[str, np.ndarray]) -> str:
    """Spearman's rank correlation of every two judges."""
    ranks = np.stack([stats.rankdata(values) for values in scores.values()])
    rows = [[name, *(f"{value:+.2f}" for value in row)] for name, row in zip(scores, np.corrcoef(ranks), strict=True)]
    return table(["", *scores], rows)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
