"""What judges share that are vision-language models of the Qwen family: an image of its own shape, amid a text.

Such a judge sees the image at its own aspect ratio, scaled so that its sides are multiples of a cell (the patches that
become one token) and its area lies within limits. Images of one size are scored together.

Source: https://github.com/QwenLM/Qwen2-VL (image processing, chat template, positions), read in transformers.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor
from torchvision.transforms import functional as transforms

from ..errors import BadWeights, MissingWeights
from ..files import ASSETS
from ..hub import find_file
from .base import Config, Judge
from .inputs import Inputs, Pixels, Tokenizer, Tokens

BEFORE_IMAGE = "<|im_start|>user\n<|vision_start|>"
IMAGE = "<|image_pad|>"
AFTER_IMAGE = "<|vision_end|>"
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
FRAMES = 2  # a still image is given as a film of so many equal frames
MAX_ROWS = 4  # images a forward pass
MAX_RATIO = 64  # of the sides, as for all judges

PatchRows = Float[Tensor, "patches values"]


def fit_size(width: int, height: int, cell: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(width, height) in multiples of `cell`, nearly of the same ratio, of an area within the limits."""
    fitted = [max(cell, round(side / cell) * cell) for side in (width, height)]
    too_large = math.prod(fitted) > max_pixels
    if not too_large and math.prod(fitted) >= min_pixels:
        return fitted[0], fitted[1]
    scale = math.sqrt((max_pixels if too_large else min_pixels) / (width * height))
    cells = [side * scale / cell for side in (width, height)]
    wide, high = (max(cell, (math.floor(n) if too_large else math.ceil(n)) * cell) for n in cells)
    return wide, high


def to_patches(pixels: Pixels, patch: int, merge: int) -> PatchRows:
    """Pixels (B, 3, H, W) to rows (B * H/p * W/p, 3 * FRAMES * p * p), the patches of one token next to each other."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    cells = pixels.view(batch, channels, rows, merge, patch, columns, merge, patch)
    cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, channels, 1, patch, patch)
    return cells.expand(-1, -1, FRAMES, -1, -1).reshape(len(cells), -1)


def image_positions(start: int, length: int, rows: int, columns: int) -> Int[Tensor, "3 length"]:
    """(3, length) positions in time, height and width of a text with an image of rows x columns tokens from `start` on.

    Text counts on along all three axes from the image's longer side.
    """
    before = torch.arange(start).expand(3, -1)
    down = torch.arange(rows).repeat_interleave(columns)
    across = torch.arange(columns).repeat(rows)
    image = start + torch.stack([torch.zeros_like(down), down, across])
    after = start + max(rows, columns) + torch.arange(length - start - rows * columns).expand(3, -1)
    return torch.cat([before, image, after], 1)


@lru_cache(maxsize=4)
def load_chat_tokenizer(file: str, extra: tuple[str, ...] = ()) -> FastTokenizer:
    """The tokenizer of a `tokenizer.json`: a file here, below assets/, or `OWNER/REPOSITORY/tokenizer.json` on the Hub.

    `extra` are special tokens that a judge adds to it. Raises: MissingWeights; BadWeights if it cannot be read.
    """
    path = ASSETS / file if (ASSETS / file).is_file() else find_file(file)
    try:
        tokenizer = FastTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise BadWeights(f"The tokenizer at {path} cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_special_tokens(list(extra))
    return tokenizer


class VisionLanguageJudge(Judge):
    """A vision-language model that reads one text with the image in it, and whose last hidden state is the score.

    Config: `vision`, `text` (the arguments of transformers' configs), `min_pixels`, `max_pixels`, `mean`, `std`,
    `tokenizer` (see `load_chat_tokenizer`), `context_length` (of the text; what exceeds it is cut off the prompt).

    They are large: no set of all judges has them, and there are no embedded weights.
    """

    on_request: ClassVar[bool] = True
    preprocessing: ClassVar[str] = "own"
    extra_tokens: ClassVar[tuple[str, ...]] = ()
    model: Any

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        vision = config["vision"]
        self.patch, self.merge = int(vision["patch_size"]), int(vision.get("spatial_merge_size", 2))
        self.image_size = math.isqrt(config["max_pixels"])

    # What such a judge defines --------------------------------------------------------------------------------------

    def write_text(self, prompt: str) -> tuple[str, str]:
        """The text before the image and after it, up to the token whose state is read."""
        raise NotImplementedError

    # What they share ------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        fast, length = load_chat_tokenizer(self.config["tokenizer"], self.extra_tokens), self.config["context_length"]
        image = fast.token_to_id(IMAGE)
        if image is None:
            raise MissingWeights(f"The tokenizer of {self.name} has no token {IMAGE}: give the one of its weights.")

        def encode(prompt: str) -> tuple[list[int], list[int]]:
            ids = self._encode(fast, image, prompt, length)
            return ids + [0] * (length - len(ids)), [1] * len(ids) + [0] * (length - len(ids))

        return Tokenizer(encode, fast.get_vocab_size(), image)

    def _encode(self, fast: FastTokenizer, image: int, prompt: str, length: int) -> list[int]:
        """At most `length` ids, with one for the whole image. A prompt that is too long loses its end."""
        words = prompt.replace("<|", "< |")  # a prompt must not be able to end the question
        while True:
            before, after = (fast.encode(part, add_special_tokens=False).ids for part in self.write_text(words))
            surplus = len(before) + 1 + len(after) - length
            if surplus <= 0 or not words:
                return [*before, image, *after][-length:]
            words = words[: -max(1, surplus)]

    def encode_prompts(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """The tokens themselves, ids and mask (N, L): such a judge reads a prompt only together with an image."""
        return tokens.ids, tokens.mask

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) at which an image of this size is seen."""
        limits = self.config["min_pixels"], self.config["max_pixels"]
        return fit_size(width, height, self.patch * self.merge, *limits)

    def normalise(self, pixels: Pixels) -> Pixels:
        return transforms.normalize(pixels, self.config["mean"], self.config["std"])

    def batches(self, inputs: Inputs) -> Iterator[tuple[list[int], Pixels]]:
        """Images of one size at a time, as `Judge.batches` says: resized by PIL, bicubic, to 8 bits."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(inputs.images):
            by_size.setdefault(self.fit(*image.size), []).append(index)
        for size, chosen in by_size.items():
            for start in range(0, len(chosen), MAX_ROWS):
                rows = chosen[start : start + MAX_ROWS]
                images = [inputs.images[row].resize(size, Image.Resampling.BICUBIC) for row in rows]
                yield rows, self.normalise(torch.stack([transforms.to_tensor(image) for image in images]))

    def preprocess(self, images: Sequence[Image.Image]) -> Pixels:
        """(B, 3, H, W) fp32 pixels of PIL images that are seen at one size."""
        batches = list(self.batches(Inputs(images, [""] * len(images))))
        order = torch.tensor([row for rows, _ in batches for row in rows])
        return torch.cat([pixels for _, pixels in batches])[order.argsort()]

    def preprocess_pixels(self, pixels: Pixels) -> Float[Tensor, "batch 3 seen_height seen_width"]:
        """As `batches` does, for pixels (B, 3, H, W) in [-1, 1], with gradients and unrounded."""
        pixels = ((pixels.float() + 1) / 2).clamp(0, 1)
        width, height = self.fit(pixels.shape[-1], pixels.shape[-2])
        if (height, width) != pixels.shape[-2:]:
            pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        return self.normalise(pixels)

    def last_states(
        self, pixels: Pixels, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"], *, flat: bool = False
    ) -> Float[Tensor, "batch features"]:
        """The hidden state of the last token of each row, images put in the place of their tokens.

        `flat` numbers all tokens in a line, as texts without an image are.
        """
        lengths = mask.sum(1)
        ids = ids[:, : int(lengths.max())]
        start = int((ids[0] == self.model.config.image_token_id).nonzero()[0])
        rows, columns = (side // (self.patch * self.merge) for side in pixels.shape[-2:])
        image = ids[:, start : start + 1].expand(-1, rows * columns)
        ids = torch.cat([ids[:, :start], image, ids[:, start + 1 :]], 1)
        ends = lengths + rows * columns - 2
        length = ids.shape[1]
        positions = torch.arange(length).expand(3, -1) if flat else image_positions(start, length, rows, columns)
        grid = torch.tensor([[1, rows * self.merge, columns * self.merge]] * len(ids), device=ids.device)
        states = self.model(
            input_ids=ids,
            # What follows a row's last token cannot be seen from it: every token may look at those before it alone.
            position_ids=positions[:, None].expand(-1, len(ids), -1).to(ids.device),
            pixel_values=to_patches(pixels, self.patch, self.merge),
            image_grid_thw=grid,
            use_cache=False,
        ).last_hidden_state
        return states[torch.arange(len(ids), device=ids.device), ends]
