"""Pairs of a better and a worse image for one caption, and what is known to be true of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golden.judges.inputs import normalise
from golden.shapes import Request, Scene, change_one_attribute, parse_caption, sample_scene
from train.shapes.judge_images import JudgeImages
from train.shapes.judges.captions import DIMENSIONS, Pixels, asks, describe, draw, draw_caption, mirror, shows
from train.shapes.judges.distortions import distort, pick_distortion


@dataclass(frozen=True)
class ImagePair:
    """A caption, a better and a worse image for it, and what else is known of them.

    `other` is a caption that is false of the better image, of which `caption` is true; `scenes` what the two show, if
    they are rendered: then `other` is true of the worse one.
    """

    caption: str
    better: Pixels
    worse: Pixels
    other: str | None = None
    scenes: tuple[Scene, Scene] | None = None


MakePair = Callable[[JudgeImages, np.random.Generator, str | None], ImagePair]
Shares = dict[MakePair, float]


def pick(rng: np.random.Generator, items: Sequence | np.ndarray) -> Any:
    return items[int(rng.integers(len(items)))]


def draw_pairs(
    shares: Shares, images: JudgeImages, rng: np.random.Generator, num_pairs: int, dimension: str | None = None
) -> list[ImagePair]:
    """Random pairs, of each kind its share."""
    kinds = list(shares)
    chosen = rng.choice(len(kinds), num_pairs, p=list(shares.values()))
    return [kinds[index](images, rng, dimension) for index in chosen]


# --- rendered ---------------------------------------------------------------------------------------------------------


def rendered_content(images: JudgeImages, rng: np.random.Generator, dimension: str | None) -> ImagePair:
    """A true scene, and one with an attribute changed, of the same layout or of another."""
    caption, request = draw_caption(rng, dimension=dimension)
    scene = sample_scene(request, rng)
    start = scene if rng.random() < 0.7 else sample_scene(request, rng)
    return rendered(caption, scene, change_one_attribute(start, request, rng, dimension), rng)


def misplaced(images: JudgeImages, rng: np.random.Generator, dimension: str | None) -> ImagePair:
    """A true scene, and one with the same objects in other places, so that a relation is false.

    Of all changes few are of this kind, and they are the hardest: without a fixed share of them in every batch judges
    learned none. Half of the changed scenes are the mirror image of the true one.
    """
    caption, request = draw_caption(rng, dimension="position")
    scene = sample_scene(request, rng)
    return rendered(caption, scene, misplace(scene, request, rng), rng)


def misplace(scene: Scene, request: Request, rng: np.random.Generator) -> Scene:
    """The same objects with a relation turned round, or laid out anew by another relation."""
    if rng.random() < 0.5:
        return mirror(scene, request, rng)
    return change_one_attribute(scene, request, rng, "position")


def rendered(caption: str, scene: Scene, changed: Scene, rng: np.random.Generator) -> ImagePair:
    """The pair of a true and a false scene; in 3 of 10 cases both are distorted alike."""
    better, worse = draw(scene), draw(changed)
    if rng.random() < 0.3:
        kind, strength = pick_distortion(rng), 0.5 * rng.random()
        better, worse = (distort(pixels, kind, strength, rng) for pixels in (better, worse))
    return ImagePair(caption, better, worse, describe(changed, caption), (scene, changed))


def conflicting(
    images: JudgeImages | None, rng: np.random.Generator, dimension: str | None, split: str = "train"
) -> ImagePair:
    """Two rendered images, each wrong: the worse in this dimension, or any, and the better in another.

    That other is never the count, with which everything else changes, too.
    """
    dimension = dimension or pick(rng, DIMENSIONS)
    while True:
        caption, request = draw_caption(rng, split, dimension)
        others = [name for name in DIMENSIONS if name not in (dimension, "count") and asks(request, name)]
        if others:
            wrong_in = pick(rng, others), dimension
            better, worse = (change_one_attribute(sample_scene(request, rng), request, rng, name) for name in wrong_in)
            return ImagePair(caption, draw(better), draw(worse))


# --- generated --------------------------------------------------------------------------------------------------------


def generated_content(images: JudgeImages, rng: np.random.Generator, dimension: str | None) -> ImagePair:
    """Two generated images, one right (in the dimension asked for) and one wrong."""
    groups = images.contrasts[dimension or "right"]
    return generated(images, rng, groups, dimension) if groups else rendered_content(images, rng, dimension)


def ranked(images: JudgeImages, rng: np.random.Generator, dimension: str | None) -> ImagePair:
    """Two generated images, of which one has more attributes right."""
    groups = images.contrasts["right"]
    if not groups:
        return rendered_content(images, rng, dimension)
    group = np.concatenate(pick(rng, groups))
    scores = images.rows["score"].to_numpy()[group]
    good = group[scores > scores.min()]
    better = int(pick(rng, good))
    worse = group[scores < images.rows["score"].iloc[better]]
    return generated(images, rng, [(np.array([better]), worse)])


def few_steps(images: JudgeImages, rng: np.random.Generator, dimension: str | None) -> ImagePair:
    """Two generated images with the same verdict, of many steps and of few."""
    groups = images.contrasts["quality"]
    return replace(generated(images, rng, groups), other=None) if groups else distorted(images, rng, dimension)


def generated(
    images: JudgeImages,
    rng: np.random.Generator,
    groups: list[tuple[np.ndarray, np.ndarray]],
    dimension: str | None = None,
) -> ImagePair:
    """A good and a bad image of one caption; mirrored in half of the cases if the caption leaves that open."""
    good, bad = (pick(rng, indices) for indices in pick(rng, groups))
    caption = images.rows["caption"].iloc[good]
    request = parse_caption(caption)
    better, worse = images.pixels[good], images.pixels[bad]
    if not request.relations and rng.random() < 0.5:
        better, worse = better[:, ::-1], worse[:, ::-1]
    if images.rows["right"].iloc[good] != 1:
        return ImagePair(caption, better, worse)
    changed = change_one_attribute(sample_scene(request, rng), request, rng, dimension)
    return ImagePair(caption, better, worse, describe(changed, caption))


# --- quality ----------------------------------------------------------------------------------------------------------


def distorted(images: JudgeImages, rng: np.random.Generator, dimension: str | None) -> ImagePair:
    """An image, clean or a little distorted, and the same much more distorted."""
    caption, pixels = any_image(images, rng)
    kind = pick_distortion(rng)
    weaker = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.5)
    worse = distort(pixels, kind, rng.uniform(weaker + 0.25, 1.0), rng)
    return ImagePair(caption, distort(pixels, kind, weaker, rng) if weaker else pixels, worse)


def any_image(images: JudgeImages, rng: np.random.Generator) -> tuple[str, Pixels]:
    """A caption and an image for it, right or wrong: rendered or generated."""
    if rng.random() < 0.5:
        index = int(rng.integers(len(images)))
        return images.rows["caption"].iloc[index], images.pixels[index]
    caption, request = draw_caption(rng)
    return caption, draw(sample_scene(request, rng))


# --- what is true of pairs --------------------------------------------------------------------------------------------


def to_pixels(images: Sequence[Pixels]) -> Tensor:
    """(B, 3, S, S) as all six judges see images of this size."""
    return normalise(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255)


def both_pixels(pairs: list[ImagePair]) -> Tensor:
    """The pixels of all better images, then of all worse ones."""
    return to_pixels([pair.better for pair in pairs] + [pair.worse for pair in pairs])


def truth_of(pairs: list[ImagePair]) -> tuple[list[str], Tensor]:
    """All captions of pairs, and whether each is true (captions, images) of `both_pixels`: 1, 0 or NaN if unknown."""
    with_other = [index for index, pair in enumerate(pairs) if pair.other]
    captions = [pair.caption for pair in pairs] + [str(pairs[index].other) for index in with_other]
    scenes = [pair.scenes and pair.scenes[side] for side in (0, 1) for pair in pairs]
    truth = np.full((len(captions), len(scenes)), np.nan, np.float32)
    requests = [parse_caption(caption) for caption in captions]
    for column, scene in enumerate(scenes):
        if scene:
            truth[:, column] = [shows(scene, request) for request in requests]
    own = np.arange(len(pairs))
    truth[own, own], truth[own, len(pairs) + own] = 1, 0
    truth[len(pairs) + np.arange(len(with_other)), with_other] = 0
    return captions, torch.from_numpy(truth)


@dataclass(frozen=True)
class Readings:
    """Captions, each read before an image, and pairs of indices of readings: a better one and a worse.

    `true` has the caption that is true of each reading's image, None if none is known; `scenes` what the image shows,
    None if it is not rendered.
    """

    captions: list[str]
    images: list[int]
    true: list[str | None]
    scenes: list[Scene | None]
    choices: Tensor

    def loss(self, scores: Tensor) -> Tensor:
        """Cross entropy of choosing the better reading of each two, from the scores (N,) of all readings."""
        better, worse = scores[self.choices].unbind(-1)
        return -torch.nn.functional.logsigmoid(better - worse).mean()


def readings_of(pairs: list[ImagePair]) -> Readings:
    """The choices within each pair, for judges that must read every caption before its image: between the two images
    for a caption, and between the two captions for an image.
    """
    found = Readings([], [], [], [], torch.empty(0))
    choices: list[tuple[int, int]] = []

    def read(index: int, caption: str, side: int) -> None:
        pair = pairs[index]
        found.captions.append(caption)
        found.images.append(side * len(pairs) + index)
        found.true.append((pair.other and pair.caption) if side == 0 else (pair.scenes and pair.other))
        found.scenes.append(pair.scenes[side] if pair.scenes else None)

    for index, pair in enumerate(pairs):
        start = len(found.captions)
        read(index, pair.caption, 0)
        read(index, pair.caption, 1)
        choices.append((start, start + 1))
        if pair.other:
            read(index, pair.other, 0)
            choices.append((start, start + 2))
        if pair.other and pair.scenes:
            read(index, pair.other, 1)
            choices += [(start + 3, start + 1), (start + 3, start + 2)]
    return replace(found, choices=torch.tensor(choices))
