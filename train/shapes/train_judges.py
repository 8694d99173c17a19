"""Train the embedded set of judges, and report what they are worth on captions that they never saw.

    python train/shapes/judge_pictures.py      # once: the pictures, in runs/judge_pictures
    python train/shapes/train_judges.py all    # or one name: PickScore, HPSv2, AES, ImageReward, CLIPScore, MPS
    python train/shapes/train_judges.py --report

Each judge learns from the kind of data that its original saw. All but ImageReward go on from CLIPScore's towers, which
know pictures and captions, as the originals go on from CLIP. Their text tower starts as the embedded model's own second
text encoder, and both kinds of vision tower, CLIP's and BLIP's, from learning to see: what stands in each patch.
Killed and started again, training goes on from its last checkpoint in runs/judges-<name>.
"""

import copy
import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from judge_pictures import (
    DIMENSIONS,
    DISTORTIONS,
    FOLDER,
    PICTURE_SIZE,
    Picture,
    Pictures,
    asks,
    change_scene,
    describe,
    distort,
    draw,
    draw_caption,
    read_pictures,
    shows,
)
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from train_text_encoders import layout_of
from training import MODEL_FOLDER, rng_for, train
from transformers import BlipVisionConfig, BlipVisionModel, CLIPVisionConfig, CLIPVisionModel

from eval.statistics import bootstrap_mean
from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.files import ASSETS, load_weights, write_bytes
from golden.judges import JUDGES, Judge, embedded_path, load_judge, save_judge
from golden.judges.aesthetic import Aesthetic
from golden.judges.base import cosine, unit
from golden.judges.clip_score import CLIPScore
from golden.judges.hpsv2 import HPSv2
from golden.judges.image_reward import ImageReward
from golden.judges.inputs import normalise
from golden.judges.mps import MPS
from golden.judges.pickscore import PickScore
from golden.shapes import (
    BACKGROUNDS,
    COLOURS,
    NUMBERS,
    PLURALS,
    SHAPES,
    SINGULARS,
    VOCABULARY,
    Scene,
    parse_caption,
    sample_scene,
)

# --- sizes ------------------------------------------------------------------------------------------------------------

NUM_TOKENS = 20
TEXT_FOLDER = MODEL_FOLDER / "text_encoder_2"
WORDPIECE = "judges/wordpiece.txt"
TOWER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
}
VISION = TOWER | {"image_size": PICTURE_SIZE, "patch_size": 8}
BLIP_VISION = VISION | {"initializer_range": 0.02}  # transformers' default of 1e-10 cannot be trained from
WORDS = {"tokenizer": "shapes/model/tokenizer", "context_length": NUM_TOKENS}
HEAD = [64, 32, 16, 8]

# Words of the captions by what they say; those of quality are the only ones that speak of the picture itself.
DIMENSION_WORDS: dict[str, tuple[str, ...]] = {
    "shape": (*PLURALS, *SINGULARS),
    "colour": tuple(COLOURS),
    "number": tuple(NUMBERS),
    "position": ("left", "right", "above", "below"),
    "background": (*BACKGROUNDS, "background"),
    "quality": ("picture", "drawing", "image"),
}
OVERALL = "overall"
CONDITIONS = {dimension: " ".join(words) for dimension, words in DIMENSION_WORDS.items()}
# A few words of every dimension, since a condition holds as many tokens as a prompt.
CONDITIONS[OVERALL] = " ".join(word for words in DIMENSION_WORDS.values() for word in words[::3])


def clip_config() -> dict[str, Any]:
    """CLIPConfig's arguments: the text tower is that of the embedded model's second encoder."""
    saved = json.loads((TEXT_FOLDER / "config.json").read_text())
    names = [*TOWER, "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"]
    width = saved["projection_dim"]
    return {
        "text_config": {name: saved[name] for name in names} | {"projection_dim": width},
        "vision_config": VISION | {"projection_dim": width},
        "projection_dim": width,
        "logit_scale_init_value": 3.0,
    }


def open_clip_config() -> dict[str, Any]:
    """The same towers in open_clip's words."""
    text = clip_config()["text_config"]
    return {
        "embed_dim": text["projection_dim"],
        "vision_cfg": {
            "image_size": VISION["image_size"],
            "layers": VISION["num_hidden_layers"],
            "width": VISION["hidden_size"],
            "head_width": VISION["hidden_size"] // VISION["num_attention_heads"],
            "patch_size": VISION["patch_size"],
        },
        "text_cfg": {
            "context_length": NUM_TOKENS,
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
        },
    }


def image_reward_config() -> dict[str, Any]:
    """Writes the WordPiece vocabulary, too: every word of the captions is one token."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(VOCABULARY)]
    path, data = ASSETS / WORDPIECE, "".join(f"{token}\n" for token in tokens).encode()
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)
    text = TOWER | {"num_hidden_layers": 3, "encoder_hidden_size": VISION["hidden_size"], "vocab_size": len(tokens)}
    return {
        "vision": BLIP_VISION,
        "text": text | {"max_position_embeddings": NUM_TOKENS, "bos_token_id": 2, "sep_token_id": 3},
        "head": HEAD,
        "mean": 0.0,
        "std": 1.0,
        "tokenizer": WORDPIECE,
        "context_length": NUM_TOKENS,
    }


# --- pairs: a better and a worse picture for one caption --------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A caption, a better and a worse picture for it, and what else is known of them.

    `other` is a caption that is false of the better picture, of which `caption` is true; `scenes` what the two show,
    where they are rendered: then `other` is true of the worse one.
    """

    caption: str
    better: Picture
    worse: Picture
    other: str | None = None
    scenes: tuple[Scene, Scene] | None = None


def pick(rng: np.random.Generator, items: Sequence | np.ndarray) -> Any:
    return items[int(rng.integers(len(items)))]


def rendered_content(pictures: Pictures, rng: np.random.Generator, dimension: str | None) -> Pair:
    """A true scene and one with an attribute changed: of the same layout or of another, now and then both distorted."""
    caption, request = draw_caption(rng, dimension=dimension)
    scene = sample_scene(request, rng)
    changed, _ = change_scene(scene if rng.random() < 0.7 else sample_scene(request, rng), request, rng, dimension)
    better, worse = draw(scene), draw(changed)
    if rng.random() < 0.3:
        kind, strength = pick(rng, list(DISTORTIONS)), 0.5 * rng.random()
        better, worse = (distort(picture, kind, strength, rng) for picture in (better, worse))
    return Pair(caption, better, worse, describe(changed, caption), (scene, changed))


def misplaced(pictures: Pictures, rng: np.random.Generator, dimension: str | None) -> Pair:
    """As `rendered_content`, with two objects that have changed places: few changes are, and they are the hardest."""
    return rendered_content(pictures, rng, "position")


def conflicting(
    pictures: Pictures | None, rng: np.random.Generator, dimension: str | None, split: str = "train"
) -> Pair:
    """Two rendered pictures, each wrong: the worse in this dimension, or any, and the better in another.

    That other is never the number, with which everything else changes, too.
    """
    dimension = dimension or pick(rng, DIMENSIONS)
    while True:
        caption, request = draw_caption(rng, split, dimension)
        others = [name for name in DIMENSIONS if name not in (dimension, "number") and asks(request, name)]
        if others:
            wrong_in = pick(rng, others), dimension
            better, worse = (change_scene(sample_scene(request, rng), request, rng, name)[0] for name in wrong_in)
            return Pair(caption, draw(better), draw(worse))


def generated_content(pictures: Pictures, rng: np.random.Generator, dimension: str | None) -> Pair:
    """Two pictures of the diffusion model, one right (in the dimension asked for) and one wrong."""
    groups = pictures.contrasts[dimension or "right"]
    return generated(pictures, rng, groups, dimension) if groups else rendered_content(pictures, rng, dimension)


def ranked(pictures: Pictures, rng: np.random.Generator, dimension: str | None) -> Pair:
    """Two pictures of the diffusion model, of which one has more attributes right."""
    groups = pictures.contrasts["right"]
    if not groups:
        return rendered_content(pictures, rng, dimension)
    group = np.concatenate(pick(rng, groups))
    scores = pictures.rows["score"].to_numpy()[group]
    good = group[scores > scores.min()]
    better = int(pick(rng, good))
    worse = group[scores < pictures.rows["score"].iloc[better]]
    return generated(pictures, rng, [(np.array([better]), worse)])


def few_steps(pictures: Pictures, rng: np.random.Generator, dimension: str | None) -> Pair:
    """Two pictures of the diffusion model with the same verdict, of many steps and of few."""
    groups = pictures.contrasts["quality"]
    return replace(generated(pictures, rng, groups), other=None) if groups else distorted(pictures, rng, dimension)


def generated(
    pictures: Pictures,
    rng: np.random.Generator,
    groups: list[tuple[np.ndarray, np.ndarray]],
    dimension: str | None = None,
) -> Pair:
    """A good and a bad picture of one caption; mirrored in half of the cases where the caption leaves it open."""
    good, bad = (pick(rng, indices) for indices in pick(rng, groups))
    caption = pictures.rows["caption"].iloc[good]
    request = parse_caption(caption)
    better, worse = pictures.pixels[good], pictures.pixels[bad]
    if request.relation is None and rng.random() < 0.5:
        better, worse = better[:, ::-1], worse[:, ::-1]
    right = pictures.rows["right"].iloc[good] == 1
    other = describe(change_scene(sample_scene(request, rng), request, rng, dimension)[0], caption) if right else None
    return Pair(caption, better, worse, other)


def distorted(pictures: Pictures, rng: np.random.Generator, dimension: str | None) -> Pair:
    """A picture, clean or a little distorted, and the same much more distorted."""
    caption, picture = any_picture(pictures, rng)
    kind = pick(rng, list(DISTORTIONS))
    weaker = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.5)
    worse = distort(picture, kind, rng.uniform(weaker + 0.25, 1.0), rng)
    return Pair(caption, distort(picture, kind, weaker, rng) if weaker else picture, worse)


def any_picture(pictures: Pictures, rng: np.random.Generator) -> tuple[str, Picture]:
    """A caption and a picture for it, right or wrong: rendered or the diffusion model's."""
    if rng.random() < 0.5:
        index = int(rng.integers(len(pictures)))
        return pictures.rows["caption"].iloc[index], pictures.pixels[index]
    caption, request = draw_caption(rng)
    return caption, draw(sample_scene(request, rng))


def draw_pairs(
    shares: dict[Callable, float],
    pictures: Pictures,
    rng: np.random.Generator,
    num_pairs: int,
    dimension: str | None = None,
) -> list[Pair]:
    """Random pairs, of each kind its share."""
    kinds = list(shares)
    chosen = rng.choice(len(kinds), num_pairs, p=list(shares.values()))
    return [kinds[index](pictures, rng, dimension) for index in chosen]


def to_pixels(pictures: Sequence[Picture]) -> Tensor:
    """(B, 3, S, S) as all six judges see pictures of this size."""
    return normalise(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255)


# --- what each judge learns -------------------------------------------------------------------------------------------


class Student(nn.Module):
    """A judge in training, and a head beside it that is thrown away (ImageReward's)."""

    def __init__(self, judge: Judge, aside: nn.Module | None = None) -> None:
        super().__init__()
        self.judge = judge
        self.aside = aside or nn.Identity()


def pair_loss(judge: Judge, pairs: list[Pair]) -> Tensor:
    """Cross entropy of the choice between two pictures for one caption, by a softmax over their scores.

    Source: arXiv 2305.01569 (PickScore), section 4; arXiv 2306.09341 (HPSv2), section 4.
    """
    features = judge.encode_prompts(judge.tokenize([pair.caption for pair in pairs]))
    better, worse = judge(both_pixels(pairs), *(torch.cat([feature, feature]) for feature in features)).chunk(2)
    return -F.logsigmoid(better - worse).mean()


def both_pixels(pairs: list[Pair]) -> Tensor:
    """The pixels of all better pictures, then of all worse ones."""
    return to_pixels([pair.better for pair in pairs] + [pair.worse for pair in pairs])


def contrastive_loss(judge: Any, pairs: list[Pair]) -> Tensor:
    """Every caption finds its pictures among all, and every picture its captions: each that is true is chosen over all
    that are false. Changed scenes and their captions are among them, the hardest wrong answers there are, and no
    caption counts as false that happens to be true of another's scene.

    Source: arXiv 2103.00020 (CLIP), Fig. 3, with truth in the place of the diagonal.
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


def truth_of(pairs: list[Pair]) -> tuple[list[str], Tensor]:
    """All captions of pairs, and whether each is true (captions, pictures) of `both_pixels`: 1, 0 or NaN if unknown."""
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


def clip_score_loss(student: Student, pictures: Pictures, rng: np.random.Generator, num_pairs: int) -> Tensor:
    """Pictures and captions: rendered scenes, and the diffusion model's pictures."""
    return contrastive_loss(
        student.judge, draw_pairs({rendered_content: 0.75, generated_content: 0.25}, pictures, rng, num_pairs)
    )


def pick_score_loss(student: Student, pictures: Pictures, rng: np.random.Generator, num_pairs: int) -> Tensor:
    """Mostly right against wrong, some quality: what people chose for their own prompts."""
    return preference_loss(
        student.judge, {generated_content: 0.5, rendered_content: 0.5}, {distorted: 1.0}, 0.15, pictures, rng, num_pairs
    )


def hps_loss(student: Student, pictures: Pictures, rng: np.random.Generator, num_pairs: int) -> Tensor:
    """Content and quality in equal parts."""
    return preference_loss(
        student.judge,
        {generated_content: 0.5, rendered_content: 0.5},
        {distorted: 0.5, few_steps: 0.5},
        0.4,
        pictures,
        rng,
        num_pairs,
    )


def preference_loss(
    judge: Judge,
    content: dict[Callable, float],
    quality: dict[Callable, float],
    share: float,
    pictures: Pictures,
    rng: np.random.Generator,
    num_pairs: int,
) -> Tensor:
    """Choices by content, against the pictures and captions of all pairs, and a share of choices by quality.

    Choices within pairs alone would take away what the towers know of which colour goes with which shape.
    """
    num_quality = max(1, round(share * num_pairs))
    chosen = draw_pairs(content, pictures, rng, max(1, num_pairs - num_quality))
    better = draw_pairs(quality, pictures, rng, num_quality)
    return (1 - share) * contrastive_loss(judge, chosen) + share * pair_loss(judge, better)


@dataclass(frozen=True)
class Readings:
    """Captions, each read before a picture, and pairs of indices of readings: a better one and a worse.

    `true` has the caption that is true of each reading's picture, None where none is known.
    """

    captions: list[str]
    pictures: list[int]
    true: list[str | None]
    choices: Tensor

    def loss(self, scores: Tensor) -> Tensor:
        better, worse = scores[self.choices].unbind(-1)
        return -F.logsigmoid(better - worse).mean()


def readings_of(pairs: list[Pair]) -> Readings:
    """The choices of `contrastive_loss` within each pair, for judges that must read every caption before its picture:
    between the two pictures for a caption, and between the two captions for a picture.
    """
    captions: list[str] = []
    indices: list[int] = []
    true: list[str | None] = []
    choices: list[tuple[int, int]] = []
    for index, pair in enumerate(pairs):
        start = len(captions)
        of_better, of_worse = pair.other and pair.caption, pair.scenes and pair.other
        true += [of_better, of_worse]
        captions += [pair.caption, pair.caption]
        indices += [index, len(pairs) + index]
        choices.append((start, start + 1))
        if pair.other:
            captions.append(pair.other)
            indices.append(index)
            true.append(of_better)
            choices.append((start, start + 2))
        if pair.other and pair.scenes:
            captions.append(pair.other)
            indices.append(len(pairs) + index)
            true.append(of_worse)
            choices += [(start + 3, start + 1), (start + 3, start + 2)]
    return Readings(captions, indices, true, torch.tensor(choices))


def mps_loss(student: Student, pictures: Pictures, rng: np.random.Generator, num_pairs: int) -> Tensor:
    """Preferences of one dimension or of all together, a dimension a step, under that dimension's condition words.

    Which prompt words a condition lets the picture read is a threshold, through which nothing is learned: a second loss
    draws the words of the condition's own dimension above it and all others below.
    """
    judge = student.judge
    assert isinstance(judge, MPS)
    dimension = OVERALL if rng.random() < 0.4 else pick(rng, list(DIMENSION_WORDS))
    if dimension == OVERALL:
        shares, asked = {generated_content: 0.4, rendered_content: 0.45, distorted: 0.1, few_steps: 0.05}, None
    elif dimension == "quality":
        shares, asked = {distorted: 0.5, few_steps: 0.5}, None
    else:
        shares, asked = {generated_content: 0.3, rendered_content: 0.4, conflicting: 0.3}, dimension
    pairs = draw_pairs(shares, pictures, rng, num_pairs, asked)
    readings = readings_of(pairs)
    ids = judge.tokenize(readings.captions).ids
    condition_ids = judge.tokenize([CONDITIONS[dimension]]).ids
    words, embeds, keep = judge.encode_conditioned(ids, condition_ids)
    patches = judge.encode_patches(both_pixels(pairs))[readings.pictures]
    read = judge.cross_model(patches, words, keep)[:, 0]
    scores = judge.model.logit_scale.exp() * cosine(unit(read), embeds)
    return readings.loss(scores) + 0.3 * keeping_loss(judge, dimension, ids, condition_ids)


def keeping_loss(judge: MPS, dimension: str, ids: Tensor, condition_ids: Tensor) -> Tensor:
    """Cross entropy of keeping the words (N, L) of a dimension and no other; words of no dimension are left alone."""
    words, _ = judge.encode_words(ids)
    condition, _ = judge.encode_words(condition_ids)
    nearness = torch.einsum("nid,jd->nij", words.float(), condition[0].float()).amax(dim=-1)
    shares = nearness / nearness.amax(dim=-1, keepdim=True).clamp(min=1e-3)
    targets = torch.full((judge.tokenizer.vocab_size,), torch.nan)
    for name, own in DIMENSION_WORDS.items():
        targets[judge.tokenize(own).ids[:, 1]] = float(dimension in (name, OVERALL))
    wanted = targets[ids]
    known = ~wanted.isnan()
    return F.binary_cross_entropy_with_logits(10 * (shares - judge.config["threshold"])[known], wanted[known])


RENDERED_RATING = 9.0
STEP_RATINGS = {20: 8.0, 10: 7.0, 5: 5.0, 3: 3.0}


def aesthetic_loss(student: Student, pictures: Pictures, rng: np.random.Generator, num_pictures: int) -> Tensor:
    """Squared error of a rating from 1 to 10, whatever the prompt: see `rating`."""
    batch, ratings = [], []
    for _ in range(num_pictures):
        if rng.random() < 0.3:
            picture, best = draw(sample_scene(draw_caption(rng)[1], rng)), RENDERED_RATING
        else:
            index = int(rng.integers(len(pictures)))
            row = pictures.rows.iloc[index]
            picture, best = pictures.pixels[index], rating(int(row["num_inference_steps"]), float(row["malformed"]))
        strength = 0.0
        if rng.random() < 0.5:
            strength = rng.uniform(0.05, 1.0)
            picture = distort(picture, pick(rng, list(DISTORTIONS)), strength, rng)
        batch.append(picture)
        ratings.append(max(1.0, best - 6 * strength))
    return F.mse_loss(student.judge(to_pixels(batch)), torch.tensor(ratings))


def rating(num_inference_steps: int, malformed: float) -> float:
    """The rating of a generated picture: by its number of steps, less 2 where every object is malformed."""
    return STEP_RATINGS[num_inference_steps] - 2 * malformed


def ranking_loss(student: Student, pictures: Pictures, rng: np.random.Generator, num_pairs: int) -> Tensor:
    """Of two pictures of a caption, the one with more attributes right is ranked higher.

    Beside the rank, a head that is thrown away reads the captions back, see `reading_back_loss`: a rank alone teaches a
    cross-attention that starts from nothing next to nothing. BLIP came to ImageReward with matching and captioning
    learned.

    Source: arXiv 2304.05977 (ImageReward), Eq. 1; arXiv 2201.12086 (BLIP), section 3.2.
    """
    judge = student.judge
    assert isinstance(judge, ImageReward)
    shares = {rendered_content: 0.5, misplaced: 0.15, generated_content: 0.2, ranked: 0.05, distorted: 0.1}
    pairs = draw_pairs(shares, pictures, rng, num_pairs)
    readings = readings_of(pairs)
    right = [index for index, pair in enumerate(pairs) if pair.other]  # whose caption is true of the better picture
    tokens = judge.tokenize(readings.captions + [pairs[index].caption for index in right])
    num_readings = len(readings.captions)
    ids, answers = tokens.ids.clone(), torch.full_like(tokens.ids, -1)
    hidden = hide_words(judge, ids[num_readings:], rng)
    answers[num_readings:][hidden] = ids[num_readings:][hidden]
    ids[num_readings:][hidden] = MASK_ID
    answers[:num_readings] = answers_of(judge, readings)
    patches = judge.vision(pixel_values=both_pixels(pairs)).last_hidden_state[readings.pictures + right]
    states = judge.text(
        input_ids=ids, attention_mask=tokens.mask, encoder_hidden_states=patches, is_decoder=False
    ).last_hidden_state
    rank = readings.loss(judge.mlp(states[:num_readings, 0]).float())
    return rank + reading_back_loss(student.aside, states, ids, answers)


WRONG_ID, MASK_ID = 1, 4  # of [UNK] and [MASK] in the vocabulary of `image_reward_config`


def telling_words(judge: ImageReward, ids: Tensor) -> Tensor:
    """(N, L) which words say what a picture shows."""
    names = [word for name, words in DIMENSION_WORDS.items() if name != "quality" for word in words]
    return torch.isin(ids, judge.tokenize(names).ids[:, 1])


def hide_words(judge: ImageReward, ids: Tensor, rng: np.random.Generator) -> Tensor:
    """(N, L) which words to hide: a third of those that tell."""
    return telling_words(judge, ids) & torch.from_numpy(rng.random(ids.shape) < 1 / 3)


def answers_of(judge: ImageReward, readings: Readings) -> Tensor:
    """(N, L) ids: of the words that tell, each one that is true of the picture and WRONG_ID for one that is not.

    -1 for all others, and where the true caption is unknown or of another length.
    """
    ids, mask = judge.tokenize(readings.captions)
    true, true_mask = judge.tokenize([one or "" for one in readings.true])
    known = telling_words(judge, ids) & (mask.sum(-1) == true_mask.sum(-1))[:, None]
    return torch.where(ids == true, ids, WRONG_ID).masked_fill(~known, -1)


def reading_back_loss(head: nn.Module, states: Tensor, ids: Tensor, answers: Tensor) -> Tensor:
    """Cross entropy of the answers (N, L) from the words' states: of hidden words, of wrong ones and of right ones."""
    loss = torch.zeros(())
    for kind, weight in (ids == MASK_ID, 1.0), (answers == WRONG_ID, 0.5), ((answers == ids) & (ids != MASK_ID), 0.5):
        if kind.any():
            loss = loss + weight * F.cross_entropy(head(states[kind]).float(), answers[kind])
    return loss


# --- where each judge starts ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The data, and what a run may change: `longer` times a recipe's steps, or `num_steps`, and its batch size."""

    pictures: Pictures
    held_out: Pictures
    seed: int = 0
    longer: float = 1.0
    num_steps: int | None = None
    batch_size: int | None = None

    def steps(self, own: int) -> int:
        """The number of steps of a run whose recipe says `own`."""
        return self.num_steps or max(1, round(own * self.longer))


class Eyes(nn.Module):
    """A vision tower and the heads that say what stands in each patch: shape and colour, and the background's."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.cells = nn.Linear(VISION["hidden_size"], len(SHAPES) + 1 + len(COLOURS) + 1)
        self.background = nn.Linear(VISION["hidden_size"], len(BACKGROUNDS))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 64, classes) logits of the patches and (B, 4) of the background."""
        states = self.tower(pixel_values=pixels).last_hidden_state
        return self.cells(states[:, 1:]).float(), self.background(states[:, 0]).float()


def eyes_loss(eyes: Eyes, rng: np.random.Generator, num_pictures: int) -> Tensor:
    scenes = [sample_scene(draw_caption(rng)[1], rng) for _ in range(num_pictures)]
    batch = [draw(scene) for scene in scenes]
    kinds = list(DISTORTIONS)
    batch = [distort(p, pick(rng, kinds), 0.5 * rng.random(), rng) if rng.random() < 0.3 else p for p in batch]
    cells, backgrounds = eyes(to_pixels(batch))
    layouts = torch.from_numpy(np.stack([layout_of(scene) for scene in scenes]))
    wanted = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
    loss = F.cross_entropy(backgrounds, wanted)
    for part, target in zip(cells.split([len(SHAPES) + 1, len(COLOURS) + 1], -1), layouts.unbind(-1), strict=True):
        loss = loss + F.cross_entropy(part.transpose(1, 2), target)
    return loss


def train_eyes(kind: str, options: Options) -> dict[str, Tensor]:
    """The weights of a vision tower of "clip" or "blip" that has learned to see."""
    torch.manual_seed(options.seed)
    tower = (
        CLIPVisionModel(CLIPVisionConfig(**VISION))
        if kind == "clip"
        else BlipVisionModel(BlipVisionConfig(**BLIP_VISION))
    )
    eyes = Eyes(tower)

    def compute_loss(step: int) -> Tensor:
        with fast():
            return eyes_loss(eyes, rng_for(options.seed, step), options.batch_size or 64)

    trained = train_fast(f"judges-eyes-{kind}", eyes, compute_loss, options.steps(EYES_STEPS), 1e-3)
    return trained.tower.state_dict()


def train_towers(options: Options) -> dict[str, Tensor]:
    """The weights of the CLIPModel from which all judges but ImageReward start: CLIPScore's."""
    return train_student("CLIPScore", options).judge.model.state_dict()


def start_clip_score(options: Options) -> Student:
    """Eyes that see, and the embedded model's text encoder."""
    eyes = train_eyes("clip", options)
    torch.manual_seed(options.seed)
    judge = CLIPScore({"clip": clip_config(), **WORDS})
    judge.model.vision_model.load_state_dict(eyes)
    text, _ = load_weights(TEXT_FOLDER / "model.safetensors")
    judge.model.load_state_dict(judge.model.state_dict() | {name: value.float() for name, value in text.items()})
    return Student(judge)


def start_pick_score(options: Options) -> Student:
    judge = PickScore({"clip": clip_config(), **WORDS})
    judge.model.load_state_dict(train_towers(options))
    return Student(judge)


def start_hpsv2(options: Options) -> Student:
    judge = HPSv2({"open_clip": open_clip_config(), **WORDS})
    judge.model.load_state_dict(to_open_clip(train_towers(options)))
    return Student(judge)


def start_aesthetic(options: Options) -> Student:
    """The vision tower; the head starts at the middle of the scale, and keeps lengths: five layers of torch's own start
    would leave a fifteenth of what comes in.
    """
    clip = train_towers(options)
    torch.manual_seed(options.seed)
    judge = Aesthetic({"vision": clip_config()["vision_config"], "head": HEAD})
    own = ("vision_model.", "visual_projection.")
    judge.clip.load_state_dict({name: value for name, value in clip.items() if name.startswith(own)})
    for layer in judge.mlp.layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
    nn.init.constant_(judge.get_parameter(f"mlp.layers.{len(judge.mlp.layers) - 1}.bias"), 5.5)
    return Student(judge)


def start_mps(options: Options) -> Student:
    clip = train_towers(options)
    torch.manual_seed(options.seed)
    cross = {"layers": 2, "heads": 4, "head_width": 32, "ff_mult": 2}
    judge = MPS({"clip": clip_config(), "cross": cross, "condition": CONDITIONS[OVERALL], "threshold": 0.3, **WORDS})
    judge.model.load_state_dict(clip)
    return Student(judge)


def start_image_reward(options: Options) -> Student:
    eyes = train_eyes("blip", options)
    torch.manual_seed(options.seed)
    judge = ImageReward(image_reward_config())
    judge.vision.load_state_dict(eyes)
    return Student(judge, nn.Linear(TOWER["hidden_size"], judge.config["text"]["vocab_size"]))


OPEN_CLIP_NAMES = (
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^visual_projection\.weight", "visual.proj"),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_projection\.weight", "text_projection"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.self_attn\.q_proj\.", ".attn.in_proj_"),
)


def to_open_clip(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' CLIPModel under open_clip's names, where queries, keys and values are one matrix."""
    ours = {}
    for name, value in clip.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            value = torch.cat([clip[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
        for pattern, replacement in OPEN_CLIP_NAMES:
            name = re.sub(pattern, replacement, name)
        ours[name] = value.T.contiguous() if name in ("visual.proj", "text_projection") else value
    return ours


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a judge is made: where it starts, what it learns, and for how long; `batch_size` counts captions."""

    start: Callable[[Options], Student]
    compute_loss: Callable[[Student, Pictures, np.random.Generator, int], Tensor]
    num_steps: int
    batch_size: int
    learning_rate: float


RECIPES: dict[str, Recipe] = {
    "CLIPScore": Recipe(start_clip_score, clip_score_loss, 2800, 32, 7e-4),
    "PickScore": Recipe(start_pick_score, pick_score_loss, 1000, 32, 5e-4),
    "ImageReward": Recipe(start_image_reward, ranking_loss, 4000, 32, 7e-4),
    "MPS": Recipe(start_mps, mps_loss, 800, 28, 5e-4),
    "HPSv2": Recipe(start_hpsv2, hps_loss, 400, 32, 5e-4),
    "AES": Recipe(start_aesthetic, aesthetic_loss, 400, 64, 1e-3),
}


EYES_STEPS = 500
SAVE_EVERY = 50


def fast() -> ExitStack:
    """Half precision and plain attention: on a CPU both are faster for models of this size."""
    stack = ExitStack()
    stack.enter_context(torch.autocast("cpu", torch.bfloat16))
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    return stack


def train_judge(name: str, options: Options) -> Judge:
    """A trained judge in evaluation mode: from its checkpoint as far as there is one."""
    judge = train_student(name, options).judge
    if isinstance(judge, ImageReward):
        standardise(judge, options.pictures)
    return judge


def train_student(name: str, options: Options) -> Any:
    recipe = RECIPES[name]
    student = recipe.start(options)

    def compute_loss(step: int) -> Tensor:
        rng = rng_for(options.seed, step)
        with fast():
            return recipe.compute_loss(student, options.pictures, rng, options.batch_size or recipe.batch_size)

    def evaluate(trained: Any, step: int) -> dict:
        return {"held_out_right_vs_wrong": accuracy_of(trained.judge, options.held_out)}

    num_steps = options.steps(recipe.num_steps)
    return train_fast(f"judges-{name}", student, compute_loss, num_steps, recipe.learning_rate, evaluate)


def train_fast(
    name: str,
    model: nn.Module,
    compute_loss: Callable[[int], Tensor],
    num_steps: int,
    learning_rate: float,
    evaluate: Callable[[Any, int], dict] | None = None,
) -> Any:
    """`train` for runs of some hundred steps."""
    return train(
        name,
        model,
        compute_loss,
        num_steps=num_steps,
        learning_rate=learning_rate,
        num_warmup=30,
        weight_decay=0.01,
        ema_decay=0.99,
        save_every=SAVE_EVERY,
        evaluate=evaluate,
    )


def standardise(judge: ImageReward, pictures: Pictures) -> None:
    """Set the config's mean and deviation so that rewards over the training pictures have mean 0 and deviation 1."""
    judge.config |= {"mean": 0.0, "std": 1.0}
    rewards = score_pictures(judge, pictures)
    judge.config |= {"mean": float(rewards.mean()), "std": float(rewards.std())}


def score_pictures(judge: Judge, pictures: Pictures) -> np.ndarray:
    """(N,) scores of all pictures for their captions."""
    images = [Image.fromarray(picture) for picture in pictures.pixels]
    return judge.score(images, pictures.rows["caption"].tolist()).numpy()


# --- what they are worth ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choices:
    """Pairs of indices into pictures, better and worse, and the caption that each belongs to: all (n,)."""

    better: np.ndarray
    worse: np.ndarray
    captions: np.ndarray

    def accuracy(self, scores: np.ndarray) -> str:
        """Share of pairs whose better picture scores higher, in %, and its 95 % interval by bootstrap over captions."""
        if not len(self.better):
            return "no pairs"
        interval = bootstrap_mean(scores[self.better] > scores[self.worse], self.captions)
        return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def choices(pictures: Pictures, name: str, among: np.ndarray | None = None) -> Choices:
    """All pairs of a good and a bad picture of one caption, see `Pictures.contrasts`, of those in `among` (N,)."""
    found: list[tuple[int, int, int]] = []
    for number, (good, bad) in enumerate(pictures.contrasts[name]):
        if among is not None:
            good, bad = good[among[good]], bad[among[bad]]
        found += [(one, other, number) for one in good for other in bad]
    better, worse, captions = np.array(found, int).reshape(-1, 3).T
    return Choices(better, worse, captions)


def accuracy_of(judge: Judge, pictures: Pictures) -> float | None:
    """Share of right pictures that score above wrong ones of the same caption; None without any."""
    pairs = choices(pictures, "right")
    if not len(pairs.better):
        return None
    scores = score_pictures(judge, pictures)
    return round(float((scores[pairs.better] > scores[pairs.worse]).mean()), 4)


def report(judges: dict[str, Judge], pictures: Pictures, seed: int = 0) -> tuple[str, dict[str, dict[str, float]]]:
    """Tables in Markdown over held-out pictures, and each judge's mean and deviation over the standard ones."""
    scores = {name: score_pictures(judge, pictures) for name, judge in judges.items()}
    standard = pictures.standard()
    spread = {
        name: {"mean": float(values[standard].mean()), "std": float(values[standard].std())}
        for name, values in scores.items()
    }
    text = "\n\n".join(
        [
            f"{len(pictures)} pictures of {len(pictures.by_caption)} held-out captions.",
            accuracy_table(judges, scores, pictures, seed),
            "By MPS's condition words:\n\n" + condition_table(judges["MPS"], pictures, seed) if "MPS" in judges else "",
            "Spearman correlation, all held-out pictures:\n\n" + correlation_table(scores),
            "The same within captions, each caption's mean taken off:\n\n"
            + correlation_table({name: within_captions(values, pictures) for name, values in scores.items()}),
            f"Rendered, {NUM_RENDERED} pairs of each kind of change:\n\n" + change_table(judges, seed),
        ]
    )
    return text, spread


def accuracy_table(judges: dict[str, Judge], scores: dict[str, np.ndarray], pictures: Pictures, seed: int) -> str:
    """One row a judge, one column a kind of pair."""
    kinds = {
        "right / wrong": choices(pictures, "right"),
        "the same, standard settings": choices(pictures, "right", pictures.standard()),
        "many / few steps": choices(pictures, "quality"),
    }
    made = {
        "rendered, one attribute changed": beside_changed(seed),
        "clean / distorted": beside_distorted(pictures, seed),
    }
    rows = []
    for name, judge in judges.items():
        cells = [pairs.accuracy(scores[name]) for pairs in kinds.values()]
        cells += [pairs.accuracy(score_pictures(judge, doubled)) for doubled, pairs in made.values()]
        rows.append([name, *cells])
    kinds |= {kind: pairs for kind, (_, pairs) in made.items()}
    return table(["judge", *(f"{kind}, n = {len(pairs.better)}" for kind, pairs in kinds.items())], rows)


NUM_RENDERED = 400


def change_table(judges: dict[str, Judge], seed: int) -> str:
    """One row a judge, one column a dimension in which rendered scenes are changed."""
    made = [beside_changed(seed, dimension) for dimension in DIMENSIONS]
    rows = [
        [name, *(pairs.accuracy(score_pictures(judge, doubled)) for doubled, pairs in made)]
        for name, judge in judges.items()
    ]
    return table(["changed", *DIMENSIONS], rows)


def beside_changed(seed: int, dimension: str | None = None) -> tuple[Pictures, Choices]:
    """Rendered scenes of held-out captions and the same with one attribute changed, and the pairs that they form."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(NUM_RENDERED):
        caption, request = draw_caption(rng, "held_out", dimension)
        scene = sample_scene(request, rng)
        pairs.append(Pair(caption, draw(scene), draw(change_scene(scene, request, rng, dimension)[0])))
    return as_pictures(pairs)


def as_pictures(pairs: list[Pair]) -> tuple[Pictures, Choices]:
    """The better pictures and after them the worse ones, and the pairs that they form."""
    pixels = np.stack([pair.better for pair in pairs] + [pair.worse for pair in pairs])
    rows = pd.DataFrame({"caption": [pair.caption for pair in pairs] * 2})
    order = np.arange(len(pairs))
    captions = rows["caption"].astype("category").cat.codes.to_numpy()[: len(pairs)]
    return Pictures(pixels, rows), Choices(order, order + len(pairs), captions)


def beside_distorted(pictures: Pictures, seed: int) -> tuple[Pictures, Choices]:
    """The standard pictures and after them the same distorted at random, and the pairs that they form."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in np.flatnonzero(pictures.standard()):
        clean = pictures.pixels[index]
        worse = distort(clean, pick(rng, list(DISTORTIONS)), rng.uniform(0.3, 1.0), rng)
        pairs.append(Pair(pictures.rows["caption"].iloc[index], clean, worse))
    return as_pictures(pairs)


def condition_table(judge: Judge, pictures: Pictures, seed: int) -> str:
    """MPS under each dimension's condition and under the overall one: on pictures of which one is right in the
    dimension, and on rendered pairs of which the better is right in it and wrong in another, see `conflicting`.
    """
    overall = score_pictures(judge, pictures)
    rows = []
    for dimension in (*DIMENSIONS, "quality"):
        pairs = choices(pictures, dimension)
        asked = with_condition(judge, CONDITIONS[dimension])
        row = [dimension, str(len(pairs.better)), pairs.accuracy(score_pictures(asked, pictures))]
        row.append(pairs.accuracy(overall))
        if dimension in DIMENSIONS:
            rng = np.random.default_rng(seed)
            drawn = [conflicting(None, rng, dimension, "held_out") for _ in range(NUM_RENDERED)]
            made, pairs = as_pictures(drawn)
            row += [pairs.accuracy(score_pictures(one, made)) for one in (asked, judge)]
        rows.append([*row, "", ""][:6])
    header = ["pairs that differ in", "n", "under its own condition", "under the overall one"]
    conflicts = f"rendered, wrong in another dimension / in this, n = {NUM_RENDERED}"
    return table([*header, f"{conflicts}: own condition", "overall"], rows)


def with_condition(judge: Judge, words: str) -> Judge:
    """The same judge, asked about something else."""
    other = copy.deepcopy(judge)
    other.config["condition"] = words
    return other.float()  # which also forgets the prompts as they were read before


def within_captions(scores: np.ndarray, pictures: Pictures) -> np.ndarray:
    """(N,) scores less the mean of their caption's: a judge that learned from choices says nothing across prompts."""
    column = pd.Series(scores)
    return (column - column.groupby(pictures.rows["caption"].to_numpy()).transform("mean")).to_numpy()


def correlation_table(scores: dict[str, np.ndarray]) -> str:
    """Spearman's rank correlation of every two judges."""
    ranks = np.stack([stats.rankdata(values) for values in scores.values()])
    rows = [[name, *(f"{value:+.2f}" for value in row)] for name, row in zip(scores, np.corrcoef(ranks), strict=True)]
    return table(["", *scores], rows)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- command line -----------------------------------------------------------------------------------------------------


def save(judge: Judge, options: Options) -> Path:
    """Into the embedded set, in half precision."""
    num_steps = str(options.steps(RECIPES[judge.name].num_steps))
    notes = {"trained_by": "train/shapes/train_judges.py", "num_steps": num_steps, "seed": str(options.seed)}
    return save_judge(judge, dtype=torch.float16, notes=notes)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("judge", nargs="?", choices=[*RECIPES, "all"], help="which one to train")
    parser.add_argument("--report", action="store_true", help="print what the embedded judges are worth")
    parser.add_argument("--pictures", type=Path, default=FOLDER, help="folder made by judge_pictures.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longer", type=float, default=1.0, help="this many times every recipe's steps")
    parser.add_argument("--num-steps", type=int, help="the same number of steps for everything (default: the recipe's)")
    parser.add_argument("--batch-size", type=int, help="captions a step (default: the recipe's)")
    arguments = parser.parse_args()
    if arguments.judge is None and not arguments.report:
        raise InvalidInput(f"Name a judge to train ({', '.join(RECIPES)}, all), or ask for the --report.")
    if any(count is not None and count < 1 for count in (arguments.num_steps, arguments.batch_size)):
        raise InvalidInput("--num-steps and --batch-size must be 1 or more.")
    if not 0 < arguments.longer <= 100:
        raise InvalidInput(f"--longer must be more than 0 and at most 100, got {arguments.longer:g}.")
    held_out = read_pictures(arguments.pictures, "held_out")
    if arguments.judge:
        pictures = read_pictures(arguments.pictures, "train")
        options = Options(
            pictures, held_out, arguments.seed, arguments.longer, arguments.num_steps, arguments.batch_size
        )
        for name in RECIPES if arguments.judge == "all" else [arguments.judge]:
            print(save(train_judge(name, options), options))
    if arguments.report:
        text, spread = report({name: load_judge(name) for name in JUDGES}, held_out)
        write_bytes(embedded_path(CLIPScore).parent / "spread.json", json.dumps(spread, indent=2).encode() + b"\n")
        print(text)


if __name__ == "__main__":
    run_command(main)
