"""What judges see: pixels from PIL images and tokens from prompts, computed once and shared among them."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms
from transformers import BertTokenizer, CLIPTokenizer

from ..errors import BadWeights, InvalidInput, MissingWeights
from ..files import ASSETS
from ..hub import HubFile, fetch_file

MAX_ASPECT_RATIO = 64
BERT_VOCABULARY = HubFile("google-bert/bert-base-uncased", "vocab.txt")

Box = tuple[int, int, int, int]
Pixels = Float[Tensor, "batch 3 height width"]
Ids = Int[Tensor, "prompts length"]
Vocabulary = tuple[dict[str, int], list[tuple[str, str]]]


# --- images ---------------------------------------------------------------------------------------------------------


def as_rgb(image: object, index: int) -> Image.Image:
    """Check one image and convert it to RGB. Raises: InvalidInput naming the image and what is wrong with it."""
    if not isinstance(image, Image.Image):
        raise InvalidInput(f"Image {index} must be a PIL image, got a {type(image).__name__}.")
    short, long = sorted(image.size)
    if short < 1 or long > MAX_ASPECT_RATIO * short:
        raise InvalidInput(
            f"Image {index} is {image.width}x{image.height}; sides must be positive, at most {MAX_ASPECT_RATIO} to 1."
        )
    try:
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # PIL decodes lazily: a cut-off file fails here
        raise InvalidInput(f"Image {index} cannot be decoded: {error}") from error


def scaled_size(width: int, height: int, shortest: int) -> tuple[int, int]:
    """(width, height) once the shortest edge is `shortest`; the other edge is rounded down, as in CLIP."""
    if width <= height:
        return shortest, int(shortest * height / width)
    return int(shortest * width / height), shortest


def crop_box(width: int, height: int, size: int, rounding: str) -> Box:
    """Centre crop (left, top, right, bottom) of a scaled image.

    If an odd number of rows is to be cut off, the originals disagree: transformers rounds the margin down ("floor"),
    torchvision half to even ("even"). The two boxes differ by at most one pixel.
    """
    margins = (width - size, height - size)
    left, top = (margin // 2 if rounding == "floor" else round(margin / 2) for margin in margins)
    return left, top, left + size, top + size


def normalise(pixels: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """CLIP's mean and standard deviation, for pixels (..., 3, H, W) in [0, 1]."""
    return transforms.normalize(pixels, list(OPENAI_DATASET_MEAN), list(OPENAI_DATASET_STD))


def cropped_pixels(image: Image.Image, size: int, box: Box) -> Float[Tensor, "3 {size} {size}"]:
    """(3, size, size): PIL bicubic resize of the shortest edge to `size`, centre crop `box`, CLIP mean and deviation.

    Source: https://github.com/openai/CLIP (clip.load's preprocess).
    """
    scaled = image.resize(scaled_size(*image.size, size), Image.Resampling.BICUBIC)
    return normalise(transforms.to_tensor(scaled.crop(box)))


def padded_pixels(image: Image.Image, size: int) -> Float[Tensor, "3 {size} {size}"]:
    """(3, size, size): bicubic resize of the LONGEST edge as a float tensor, zero padding to a square, CLIP mean and
    deviation. The tensor resize may overshoot [0, 1]; the original does not clamp it. It also leaves an image whose
    longest edge is `size` already without padding, on which its model fails; here that image is padded.

    Source: https://github.com/tgxs002/HPSv2 (ResizeMaxSize).
    """
    return normalise(pad_to_square(transforms.to_tensor(image), size))


def pad_to_square(pixels: Float[Tensor, "*batch 3 height width"], size: int) -> Float[Tensor, "*batch 3 {size} {size}"]:
    """Pixels in [0, 1], resized and padded as in `padded_pixels`."""
    scale = size / max(pixels.shape[-2:])
    if scale != 1:
        edges = [max(1, round(edge * scale)) for edge in pixels.shape[-2:]]
        pixels = transforms.resize(pixels, edges, InterpolationMode.BICUBIC, antialias=True)
    height, width = pixels.shape[-2:]
    left, top = (size - width) // 2, (size - height) // 2
    return transforms.pad(pixels, [left, top, size - width - left, size - height - top])


def preprocess_pixels(pixels: Pixels, preprocessing: str, size: int) -> Float[Tensor, "batch 3 {size} {size}"]:
    """What `Inputs.pixels` makes of images, for pixels (B, 3, H, W) in [-1, 1], with gradients, in fp32.

    PIL rounds to 8 bits after each direction of its resize; nothing is rounded here.
    """
    pixels = ((pixels.float() + 1) / 2).clamp(0, 1)
    height, width = pixels.shape[-2:]
    if preprocessing == "pad":
        return normalise(pad_to_square(pixels, size))
    new_width, new_height = scaled_size(width, height, size)
    for edges in ((height, new_width), (new_height, new_width)):  # PIL's kernel, and its clipping after each direction
        if edges != pixels.shape[-2:]:
            pixels = F.interpolate(pixels, edges, mode="bicubic", antialias=True).clamp(0, 1)
    left, top, right, bottom = crop_box(new_width, new_height, size, preprocessing)
    return normalise(pixels[..., top:bottom, left:right])


class Inputs:
    """Images and prompts of one scoring call, checked once; pixels of each kind are computed once and kept.

    Args:
        images: B PIL images of any size and mode.
        prompts: B strings, one an image.

    Raises: InvalidInput if the two lists differ in length, are empty, or hold anything else.
    """

    def __init__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> None:
        if isinstance(prompts, str) or isinstance(images, Image.Image):
            raise InvalidInput("Images and prompts must be two lists of the same length, also for a single image.")
        images, prompts = list(images), list(prompts)
        if len(images) != len(prompts) or not images:
            raise InvalidInput(
                f"Expected one prompt for each image, at least one; got {len(images)} images, {len(prompts)} prompts."
            )
        self.images = tuple(as_rgb(image, index) for index, image in enumerate(images))
        self.prompts = tuple(check_prompt(prompt, index) for index, prompt in enumerate(prompts))
        self._pixels: dict[object, Tensor] = {}

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, preprocessing: str, size: int) -> Float[Tensor, "batch 3 {size} {size}"]:
        """(B, 3, size, size) fp32 on the CPU; `preprocessing` is "floor" or "even" (P0, see `crop_box`) or "pad"."""
        if preprocessing == "pad":
            key: object = (size, "pad")
            if key not in self._pixels:
                self._pixels[key] = torch.stack([padded_pixels(image, size) for image in self.images])
            return self._pixels[key]
        boxes = [crop_box(*scaled_size(*image.size, size), size, preprocessing) for image in self.images]
        key = (size, tuple(boxes))  # the boxes, not the rounding: nearly always the two roundings agree and share
        if key not in self._pixels:
            pairs = zip(self.images, boxes, strict=True)
            self._pixels[key] = torch.stack([cropped_pixels(image, size, box) for image, box in pairs])
        return self._pixels[key]


# --- prompts --------------------------------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """Token ids and the mask of real tokens, both (N, L) int64."""

    ids: Ids
    mask: Ids


def check_prompt(prompt: object, index: int) -> str:
    """Return the prompt. Raises: InvalidInput if it is not text that can be encoded."""
    if not isinstance(prompt, str):
        raise InvalidInput(f"Prompt {index} must be text, got a {type(prompt).__name__}.")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InvalidInput(f"Prompt {index} contains invalid Unicode (half of a surrogate pair).")
    return prompt


class Tokenizer:
    """Prompts to `Tokens` of one length; a prompt seen before is looked up."""

    def __init__(self, encode: Callable[[str], tuple[list[int], list[int]]], vocab_size: int, end_id: int) -> None:
        self._encode = lru_cache(maxsize=4096)(encode)
        self.vocab_size = vocab_size
        self.end_id = end_id

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        rows = [self._encode(prompt) for prompt in prompts]
        ids, masks = zip(*rows, strict=True)
        return Tokens(torch.tensor(ids), torch.tensor(masks))


@lru_cache(maxsize=16)
def load_tokenizer(kind: str, length: int) -> Tokenizer:
    """The tokenizer of a judge's config, shared by all judges that name the same.

    Args:
        kind: "openai" (open_clip's: cleans HTML and broken Unicode, pads with 0), "clip" (transformers' on the same
            vocabulary, pads with the end token), "bert" (bert-base-uncased, from the hub), or a path below `assets/`: a
            folder with `vocab.json` and `merges.txt` (CLIP's format) or a `.txt` file (a WordPiece vocabulary).
        length: tokens a prompt, the start and end tokens included; longer prompts are cut, the end token kept.

    Raises: MissingWeights if its files are missing; BadWeights if they are damaged.
    """
    if kind == "openai":
        return openai_tokenizer(length)
    if kind == "clip":
        return transformers_tokenizer(clip_tokenizer(openai_vocabulary()), length)
    path = fetch_file(*BERT_VOCABULARY) if kind == "bert" else ASSETS / kind
    if not path.exists():
        raise MissingWeights(f"No tokenizer at {path}: the weights need the vocabulary they were trained with.")
    try:
        tokenizer = clip_tokenizer(read_bpe(path)) if path.is_dir() else BertTokenizer(vocab=read_wordpiece(path))
        return transformers_tokenizer(tokenizer, length)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadWeights(f"The tokenizer at {path} cannot be read: {error}") from error


def openai_tokenizer(length: int) -> Tokenizer:
    """open_clip's tokenizer. Source: https://github.com/openai/CLIP (clip.tokenize with truncate=True)."""
    tokenizer = SimpleTokenizer()

    def encode(prompt: str) -> tuple[list[int], list[int]]:
        ids = tokenizer([prompt], context_length=length)[0]
        used = int((ids == tokenizer.eot_token_id).nonzero()[0]) + 1
        return ids.tolist(), [1] * used + [0] * (length - used)

    return Tokenizer(encode, tokenizer.vocab_size, tokenizer.eot_token_id)


def transformers_tokenizer(tokenizer: CLIPTokenizer | BertTokenizer, length: int) -> Tokenizer:
    """A tokenizer of transformers, padded and cut to `length`."""

    def encode(prompt: str) -> tuple[list[int], list[int]]:
        row = tokenizer(prompt, padding="max_length", truncation=True, max_length=length)
        return row["input_ids"], row["attention_mask"]

    end = tokenizer.eos_token_id if isinstance(tokenizer, CLIPTokenizer) else tokenizer.sep_token_id
    return Tokenizer(encode, len(tokenizer), end)


def clip_tokenizer(vocabulary: Vocabulary) -> CLIPTokenizer:
    """transformers' CLIP tokenizer of (vocab, merges)."""
    vocab, merges = vocabulary
    return CLIPTokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]


def openai_vocabulary() -> Vocabulary:
    """(vocab, merges) of CLIP in transformers' spelling, from the file that open_clip carries: no download needed."""
    tokenizer = SimpleTokenizer()
    vocab = dict(tokenizer.encoder)
    for theirs, ours in (("<start_of_text>", "<|startoftext|>"), ("<end_of_text>", "<|endoftext|>")):
        vocab[ours] = vocab.pop(theirs)
    return vocab, sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)


def read_bpe(folder: Path) -> Vocabulary:
    """(vocab, merges) of a folder with `vocab.json` and `merges.txt`.

    Raises: ValueError unless the end token has the highest id, by which CLIP finds the end of a prompt.
    """
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    merges = [(first, second) for first, second in pairs]  # a line of other than two parts raises ValueError here
    if vocab.get("<|endoftext|>") != max(vocab.values()):
        raise ValueError("<|endoftext|> must have the highest id")
    return vocab, merges


def read_wordpiece(path: Path) -> dict[str, int]:
    """The vocabulary of a WordPiece `.txt` file, one token a line."""
    return {token: index for index, token in enumerate(path.read_text(encoding="utf-8").splitlines())}
