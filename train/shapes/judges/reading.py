"""What ImageReward learns: to rank, and beside it to read captions back from images."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.judges.image_reward import ImageReward
from golden.judges.inputs import Tokens
from golden.shapes import parse_caption
from train.shapes.judge_images import JudgeImages
from train.shapes.judges.captions import centre_of
from train.shapes.judges.configs import DIMENSION_WORDS
from train.shapes.judges.losses import Student
from train.shapes.judges.pairs import (
    Readings,
    Shares,
    both_pixels,
    distorted,
    draw_pairs,
    generated_content,
    misplaced,
    ranked,
    readings_of,
    rendered_content,
)
from train.shapes.train_text_encoders import GRID

WRONG_ID, MASK_ID = 1, 4  # of [UNK] and [MASK] in the vocabulary of `image_reward_config`
SHARES: Shares = {rendered_content: 0.35, misplaced: 0.3, generated_content: 0.2, ranked: 0.05, distorted: 0.1}


class ReadingHeads(nn.Module):
    """What words' states say beside the rank: which word is true of the image, and where its object is."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.words = nn.Linear(width, vocab_size)
        self.places = nn.Linear(width, 2 * GRID)


def ranking_loss(student: Student, images: JudgeImages, rng: np.random.Generator, num_pairs: int) -> Tensor:
    """Of two images of a caption, the one with more attributes right is ranked higher.

    Beside the rank, heads that are thrown away read the captions back, see `reading_back_loss`, and point at objects,
    see `pointing_loss`: a rank alone teaches next to nothing to a cross-attention that starts from nothing. BLIP came
    to ImageReward with matching and captioning learned.

    Source: arXiv 2304.05977 (ImageReward), Eq. 1; arXiv 2201.12086 (BLIP), section 3.2.
    """
    judge, heads = student.judge, student.aside
    assert isinstance(judge, ImageReward)
    assert isinstance(heads, ReadingHeads)
    pairs = draw_pairs(SHARES, images, rng, num_pairs)
    readings = readings_of(pairs)
    right = [index for index, pair in enumerate(pairs) if pair.other]  # whose caption is true of the better image
    tokens = judge.tokenize(readings.captions + [pairs[index].caption for index in right])
    num_readings = len(readings.captions)
    ids, answers = tokens.ids.clone(), torch.full_like(tokens.ids, -1)
    hidden = hide_words(judge, ids[num_readings:], rng)
    answers[num_readings:][hidden] = ids[num_readings:][hidden]
    ids[num_readings:][hidden] = MASK_ID
    answers[:num_readings] = answers_of(judge, readings)
    patches = judge.vision(pixel_values=both_pixels(pairs)).last_hidden_state[readings.images + right]
    states = judge.text(
        input_ids=ids, attention_mask=tokens.mask, encoder_hidden_states=patches, is_decoder=False
    ).last_hidden_state
    rank = readings.loss(judge.mlp(states[:num_readings, 0]).float())
    pointing = pointing_loss(heads.places, states[:num_readings], places_of(judge, readings))
    return rank + reading_back_loss(heads.words, states, ids, answers) + 0.5 * pointing


# --- reading back -----------------------------------------------------------------------------------------------------


def ids_of(judge: ImageReward, *dimensions: str) -> Tensor:
    """(W,) ids of the words of dimensions."""
    return judge.tokenize([word for name in dimensions for word in DIMENSION_WORDS[name]]).ids[:, 1]


def telling_words(judge: ImageReward, ids: Tensor) -> Tensor:
    """(N, L) which words say what an image shows."""
    return torch.isin(ids, ids_of(judge, *(name for name in DIMENSION_WORDS if name != "quality")))


def hide_words(judge: ImageReward, ids: Tensor, rng: np.random.Generator) -> Tensor:
    """(N, L) which words to hide: a third of those that tell."""
    return telling_words(judge, ids) & torch.from_numpy(rng.random(ids.shape) < 1 / 3)


def answers_of(judge: ImageReward, readings: Readings) -> Tensor:
    """(N, L) ids: of the words that tell, each one that is true of the image and WRONG_ID for one that is not.

    -1 for all others, and where the true caption is unknown. Two captions are compared word by word if they are of one
    length, else telling word by telling word if they have as many of these: "left of" and "above" differ in length.
    """
    read, true = judge.tokenize(readings.captions), judge.tokenize([one or "" for one in readings.true])
    tells, true_tells = telling_words(judge, read.ids), telling_words(judge, true.ids)
    answers = torch.full_like(read.ids, -1)
    for row, caption in enumerate(readings.true):
        if caption is None:
            continue
        where, there = tells[row], true_tells[row]
        if _length(read, row) == _length(true, row):
            there = where
        elif where.sum() != there.sum():
            continue
        ids, true_ids = read.ids[row, where], true.ids[row, there]
        answers[row, where] = torch.where(ids == true_ids, ids, WRONG_ID)
    return answers


def _length(tokens: Tokens, row: int) -> int:
    return int(tokens.mask[row].sum())


def reading_back_loss(head: nn.Module, states: Tensor, ids: Tensor, answers: Tensor) -> Tensor:
    """Cross entropy of the answers (N, L) from the words' states: of hidden words, of wrong ones and of right ones."""
    loss = torch.zeros(())
    for kind, weight in (ids == MASK_ID, 1.0), (answers == WRONG_ID, 0.5), ((answers == ids) & (ids != MASK_ID), 0.5):
        if kind.any():
            loss = loss + weight * F.cross_entropy(head(states[kind]).float(), answers[kind])
    return loss


# --- pointing ---------------------------------------------------------------------------------------------------------


def places_of(judge: ImageReward, readings: Readings) -> Tensor:
    """(N, L, 2) row and column, on a grid of GRID x GRID, of the objects that each shape word names.

    -1 for all other words, for objects that the image does not show, and if the image is not rendered.
    """
    ids = judge.tokenize(readings.captions).ids
    places = torch.full((*ids.shape, 2), -1)
    nouns = torch.isin(ids, ids_of(judge, "shape"))
    for row, (caption, scene) in enumerate(zip(readings.captions, readings.scenes, strict=True)):
        if scene is None:
            continue
        groups = parse_caption(caption).groups
        for word, group in zip(nouns[row].nonzero().flatten().tolist(), groups, strict=False):  # a cut caption has less
            x, y = centre_of(scene, group)
            if not np.isnan(x):
                places[row, word] = torch.tensor([int(y * GRID), int(x * GRID)])
    return places


def pointing_loss(head: nn.Module, states: Tensor, places: Tensor) -> Tensor:
    """Cross entropy of the row and the column (N, L, 2) of the named objects, from the words' states (N, L, width)."""
    known = places[..., 0] >= 0
    if not known.any():
        return torch.zeros(())
    rows, columns = head(states[known]).float().chunk(2, dim=-1)
    return F.cross_entropy(rows, places[known][:, 0]) + F.cross_entropy(columns, places[known][:, 1])
