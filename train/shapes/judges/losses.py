"""What the CLIP judges and AES learn; ImageReward's loss is in reading.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.judges import Judge
from golden.judges.base import cosine, unit
from golden.judges.hpsv2 import HPSv2
from golden.judges.mps import MPS
from golden.shapes import sample_scene
from train.shapes.judge_images import JudgeImages
from train.shapes.judges.captions import draw, draw_caption
from train.shapes.judges.configs import COMPANIONS, CONDITIONS, DIMENSION_WORDS, OVERALL
from train.shapes.judges.distortions import distort, pick_distortion
from train.shapes.judges.pairs import (
    ImagePair,
    Shares,
    both_pixels,
    conflicting,
    distorted,
    draw_pairs,
    few_steps,
    generated_content,
    misplaced,
    pick,
    readings_of,
    rendered_content,
    to_pixels,
    truth_of,
)


class Student(nn.Module):
    """A judge in training, and heads beside it that are thrown away (ImageReward's)."""

    def __init__(self, judge: Judge, aside: nn.Module | None = None) -> None:
        super().__init__()
        self.judge = judge
        self.aside = aside or nn.Identity()


ComputeLoss = Callable[[Student, JudgeImages, np.random.Generator, int], Tensor]
"""(student, images, rng, number of captions) -> the loss of one step."""


def pair_loss(judge: Judge, pairs: list[ImagePair]) -> Tensor:
    """Cross entropy of the choice between two images for one caption, by a softmax over their scores.

    Source: arXiv 2305.01569 (PickScore), section 4; arXiv 2306.09341 (HPSv2), section 4.
    """
    features = judge.encode_prompts(judge.tokenize([pair.caption for pair in pairs]))
    better, worse = judge(both_pixels(pairs), *(torch.cat([feature, feature]) for feature in features)).chunk(2)
    return -F.logsigmoid(better - worse).mean()


def contrastive_loss(judge: Any, pairs: list[ImagePair]) -> Tensor:
    """Every caption finds its images among all, and every image its captions: each that is true is chosen over all
    that are false. Changed scenes and their captions are among them, the hardest wrong answers there are, and no
    caption counts as false that happens to be true of another's scene.

    Source: arXiv 2103.00020 (CLIP), Fig. 3, with truth instead of the diagonal.
    """
    captions, truth = truth_of(pairs)
    images = judge.encode_images(both_pixels(pairs))
    (texts,) = judge.encode_prompts(judge.tokenize(captions))
    scale = 100 if isinstance(judge, HPSv2) else judge.model.logit_scale.clamp(max=4.6).exp()
    with torch.autocast("cpu", enabled=False):
        logits = scale * texts @ images.T
    loss = torch.zeros(())
    for direction in (0, 1):
        rivals = logits.masked_fill(truth != 0, -1e4).logsumexp(direction, keepdim=True)
        loss = loss + F.softplus(rivals - logits)[truth == 1].mean() / 2
    return loss


def clip_score_loss(student: Student, images: JudgeImages, rng: np.random.Generator, num_pairs: int) -> Tensor:
    """Images and captions: rendered scenes, many of them misplaced, and generated images."""
    shares: Shares = {rendered_content: 0.45, misplaced: 0.3, generated_content: 0.25}
    return contrastive_loss(student.judge, draw_pairs(shares, images, rng, num_pairs))


# --- preferences: PickScore and HPSv2 ---------------------------------------------------------------------------------

CONTENT: Shares = {generated_content: 0.45, rendered_content: 0.3, misplaced: 0.25}


@dataclass(frozen=True)
class Preference:
    """Choices by content, and a share of choices by quality, whose kinds are `quality`."""

    quality: Shares
    share: float

    def __call__(self, student: Student, images: JudgeImages, rng: np.random.Generator, num_pairs: int) -> Tensor:
        """Content is chosen against the images and captions of all pairs.

        Choices within pairs alone would take away what the towers know of which colour goes with which shape.
        """
        num_quality = max(1, round(self.share * num_pairs))
        chosen = draw_pairs(CONTENT, images, rng, max(1, num_pairs - num_quality))
        better = draw_pairs(self.quality, images, rng, num_quality)
        content_loss, quality_loss = contrastive_loss(student.judge, chosen), pair_loss(student.judge, better)
        return (1 - self.share) * content_loss + self.share * quality_loss


pick_score_loss = Preference({distorted: 1.0}, 0.15)
"""Mostly right against wrong, some quality: what people chose for their own prompts."""
hps_loss = Preference({distorted: 0.5, few_steps: 0.5}, 0.4)
"""Content and quality in about equal parts."""


# --- MPS --------------------------------------------------------------------------------------------------------------

OVERALL_SHARE = 0.4
MPS_DIMENSIONS = (*DIMENSION_WORDS, "position")  # twice: it is the hardest


def mps_shares(dimension: str) -> tuple[Shares, str | None]:
    """The kinds of pairs for a condition, and the dimension in which they differ."""
    if dimension == OVERALL:
        return {generated_content: 0.3, rendered_content: 0.3, misplaced: 0.3, distorted: 0.06, few_steps: 0.04}, None
    if dimension == "quality":
        return {distorted: 0.5, few_steps: 0.5}, None
    if dimension == "position":
        return {generated_content: 0.2, misplaced: 0.6, conflicting: 0.2}, dimension
    return {generated_content: 0.3, rendered_content: 0.4, conflicting: 0.3}, dimension


def mps_loss(student: Student, images: JudgeImages, rng: np.random.Generator, num_pairs: int) -> Tensor:
    """Preferences of one dimension or of all together, a dimension per step, under that dimension's condition words.

    Which prompt words a condition lets the image read is a threshold, through which nothing is learned: a second loss
    draws the words of the condition's own dimension above it and all others below.
    """
    judge = student.judge
    assert isinstance(judge, MPS)
    dimension = OVERALL if rng.random() < OVERALL_SHARE else pick(rng, MPS_DIMENSIONS)
    shares, asked = mps_shares(dimension)
    pairs = draw_pairs(shares, images, rng, num_pairs, asked)
    readings = readings_of(pairs)
    ids = judge.tokenize(readings.captions).ids
    condition_ids = judge.tokenize([CONDITIONS[dimension]]).ids
    words, embeds, keep = judge.encode_conditioned(ids, condition_ids)
    patches = judge.encode_patches(both_pixels(pairs))[readings.images]
    read = judge.cross_model(patches, words, keep)[:, 0]
    scores = judge.model.logit_scale.exp() * cosine(unit(read), embeds)
    return readings.loss(scores) + 0.3 * keeping_loss(judge, dimension, ids, condition_ids)


def keeping_loss(judge: MPS, dimension: str, ids: Tensor, condition_ids: Tensor) -> Tensor:
    """Cross entropy of keeping the words (N, L) of a dimension, and of what it needs beside it (COMPANIONS), and no
    other; words of no dimension are left alone.
    """
    words, _ = judge.encode_words(ids)
    condition, _ = judge.encode_words(condition_ids)
    nearness = torch.einsum("nid,jd->nij", words.float(), condition[0].float()).amax(dim=-1)
    shares = nearness / nearness.amax(dim=-1, keepdim=True).clamp(min=1e-3)
    kept = (dimension, *COMPANIONS.get(dimension, ()))
    targets = torch.full((judge.tokenizer.vocab_size,), torch.nan)
    for name, own in DIMENSION_WORDS.items():
        targets[judge.tokenize(own).ids[:, 1]] = float(name in kept or dimension == OVERALL)
    wanted = targets[ids]
    known = ~wanted.isnan()
    return F.binary_cross_entropy_with_logits(10 * (shares - judge.config["threshold"])[known], wanted[known])


# --- AES --------------------------------------------------------------------------------------------------------------

RENDERED_RATING = 9.0
STEP_RATINGS = {20: 8.0, 10: 7.0, 5: 5.0, 3: 3.0}


def aesthetic_loss(student: Student, images: JudgeImages, rng: np.random.Generator, num_images: int) -> Tensor:
    """Squared error of a rating from 1 to 10, whatever the prompt: see `rating`."""
    batch, ratings = [], []
    for _ in range(num_images):
        if rng.random() < 0.3:
            pixels, best = draw(sample_scene(draw_caption(rng)[1], rng)), RENDERED_RATING
        else:
            index = int(rng.integers(len(images)))
            row = images.rows.iloc[index]
            pixels, best = images.pixels[index], rating(int(row["num_inference_steps"]), float(row["malformed"]))
        strength = 0.0
        if rng.random() < 0.5:
            strength = rng.uniform(0.05, 1.0)
            pixels = distort(pixels, pick_distortion(rng), strength, rng)
        batch.append(pixels)
        ratings.append(max(1.0, best - 6 * strength))
    return F.mse_loss(student.judge(to_pixels(batch)), torch.tensor(ratings))


def rating(num_inference_steps: int, malformed: float) -> float:
    """The rating of a generated image: by its number of steps, less 2 if every object is malformed."""
    return STEP_RATINGS[num_inference_steps] - 2 * malformed
