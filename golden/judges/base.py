"""The one contract of all judges, and the parts that several of them share."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from ..errors import GoldenError, InvalidInput
from ..hub import HubFile
from .inputs import Inputs, Pixels, Tokenizer, Tokens, load_tokenizer, preprocess_pixels
from .sharing import SharedJudge

Config = Mapping[str, Any]
Tensors = dict[str, Tensor]
Scores = Float[Tensor, " batch"]

MAX_CACHED_PROMPTS = 256
MAX_BATCH = 32


class Judge(SharedJudge, nn.Module):
    """A model that says how good images are. Built from a config, so that one class holds published and small weights.

    A judge has three parts, each differentiable, and `score` runs them:
        pixels = judge.preprocess(images)                  # (B, 3, S, S)
        features = judge.encode_prompts(judge.tokenize(prompts))  # tuple of (B, ...)
        scores = judge(pixels, *features)                  # (B,) in the units that are reported

    Everything that tables, charts and the page know of a judge is an attribute here.

    Attributes:
        name: as in tables, and in JUDGES.
        unit: what a score is, for labels.
        table_factor, digits: what the paper's tables multiply a score by, and the decimals that they print.
        reads: what it looks at, for labels.
        misses: what judges of its kind may miss, for labels; empty if nothing is known. What the embedded ones read is
            in assets/judges/README.md.
        preprocessing: which pixels it sees, see `Inputs.pixels`.
        reads_prompts: False for a judge of images alone.
        on_request: True for a judge that is too large to load unless it is asked for by name: "all" leaves it out, and
            it has no embedded weights.
        PUBLISHED: the config of the published weights.
        SOURCES: alternatives in order of preference, each the hub files that together hold the published weights.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    table_factor: ClassVar[int] = 1
    digits: ClassVar[int] = 2
    reads: ClassVar[str]
    misses: ClassVar[str] = ""
    preprocessing: ClassVar[str] = "floor"
    reads_prompts: ClassVar[bool] = True
    on_request: ClassVar[bool] = False
    PUBLISHED: ClassVar[dict[str, Any]]
    SOURCES: ClassVar[tuple[tuple[HubFile, ...], ...]]

    image_size: int

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = copy.deepcopy(dict(config))
        self.provenance: dict[str, Any] = {"judge": self.name, "weights": "random"}
        self.metadata: dict[str, str] = {}  # what the weight file says about itself, its config aside
        self._prompt_features: dict[str, tuple[Tensor, ...]] = {}

    # What a judge defines -------------------------------------------------------------------------------------------

    def encode_prompts(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """Features of prompts before the judge sees an image: tensors whose first dimension is the prompts'."""
        raise NotImplementedError

    def forward(self, pixels: Pixels, *prompt_features: Tensor) -> Scores:
        """(B,) scores of preprocessed `pixels` (B, 3, S, S), with gradients."""
        raise NotImplementedError

    @classmethod
    def convert(cls, tensors: Mapping[str, Any]) -> Tensors:
        """Map a checkpoint of any known layout, the official and the ports', to this module's own keys."""
        raise NotImplementedError

    @classmethod
    def companions(cls, tensors: Tensors) -> tuple[HubFile, ...]:
        """Hub files that complete a converted checkpoint which holds only a part of the judge."""
        return ()

    # What all judges share ------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def tokenizer(self) -> Tokenizer:
        """Loaded when first needed, and shared among judges."""
        return load_tokenizer(self.config["tokenizer"], self.config["context_length"])

    def preprocess(self, images: Sequence[Image.Image]) -> Pixels:
        """(B, 3, S, S) fp32 pixels of PIL images, on the CPU."""
        return Inputs(images, [""] * len(images)).pixels(self.preprocessing, self.image_size)

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """Tokens of prompts, on the judge's device."""
        tokens = self.tokenizer(prompts)
        return Tokens(tokens.ids.to(self.device), tokens.mask.to(self.device))

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Scores:
        """Score B images, each against its own prompt.

        Returns: (B,) fp32 on the CPU, in the judge's raw reported units (`unit`); higher is better.
        Raises: InvalidInput for unequal lists or unreadable images; GoldenError if a score is not a number.
        """
        return self.score_inputs(Inputs(images, prompts))

    @torch.no_grad()
    def score_inputs(self, inputs: Inputs) -> Scores:
        """As `score`, on inputs whose pixels and tokens other judges may already have asked for."""
        with self.evaluating():
            scores = torch.empty(len(inputs))
            for rows, pixels in self.batches(inputs):
                features = self.cached_prompt_features([inputs.prompts[row] for row in rows])
                scores[rows] = self(pixels.to(self.device, self.dtype), *features).float().cpu()
        if not scores.isfinite().all():
            raise GoldenError(f"{self.name} returned a score that is not a number.")
        return scores

    def batches(self, inputs: Inputs) -> Iterator[tuple[list[int], Pixels]]:
        """The rows of `inputs`, a few at a time, with their preprocessed pixels, which are of one size."""
        pixels = inputs.pixels(self.preprocessing, self.image_size)
        for start in range(0, len(inputs), MAX_BATCH):
            rows = list(range(start, min(start + MAX_BATCH, len(inputs))))
            yield rows, pixels[rows]

    def preprocess_pixels(self, pixels: Pixels) -> Float[Tensor, "batch 3 seen_height seen_width"]:
        """What the judge sees of pixels (B, 3, H, W) in [-1, 1], with gradients."""
        return preprocess_pixels(pixels, self.preprocessing, self.image_size)

    def score_pixels(self, pixels: Pixels, prompts: Sequence[str]) -> Scores:
        """As `score`, with gradients: for images that are still tensors, such as a decoder's output.

        Args:
            pixels: (B, 3, H, W) in [-1, 1], beyond which they are clamped, on any device.
            prompts: B strings.

        Returns: (B,) fp32 scores on the judge's device. Gradients reach the pixels, and not the judge's weights. They
            equal those of `score` up to the rounding to 8 bits, which is left out here: by at most 0.02 in a
            preprocessed pixel, of unit deviation. MPS returns its raw score of each image, as in `score`.
        Raises: InvalidInput unless there is one prompt for each image.
        """
        if len(pixels) != len(prompts) or not len(pixels):
            raise InvalidInput(
                f"Expected one prompt for each image, at least one; got {len(pixels)} images, {len(prompts)} prompts."
            )
        seen = self.preprocess_pixels(pixels.to(self.device))
        weights = {name: value.detach() for name, value in self.named_parameters()}
        with self.evaluating():
            with torch.no_grad():  # they are kept for later calls, which must find no graph
                features = self.cached_prompt_features(prompts)
            return torch.func.functional_call(self, weights, (seen.to(self.dtype), *features)).float()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode within a block: dropout would make scores random."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            if was_training:
                self.train()

    def forget_prompts(self) -> None:
        """Drop the cached prompt features, whose last bits depend on the batch in which they were computed."""
        self._prompt_features.clear()

    def cached_prompt_features(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """`encode_prompts`, each prompt encoded once however often it is scored."""
        if not self.reads_prompts:
            return ()
        cache = self._prompt_features
        rows = {prompt: cache[prompt] for prompt in prompts if prompt in cache}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in rows]
        if new:
            columns = self.encode_prompts(self.tokenize(new))
            encoded = dict(zip(new, zip(*columns, strict=True), strict=True))
            if len(cache) + len(new) > MAX_CACHED_PROMPTS:
                cache.clear()
            cache.update(encoded)
            rows |= encoded
        return tuple(torch.stack(column) for column in zip(*(rows[prompt] for prompt in prompts), strict=True))

    # Whatever may change the weights makes the cached features stale.

    def train(self, mode: bool = True) -> "Judge":
        if mode != self.training:
            self.forget_prompts()
        return super().train(mode)

    def load_state_dict(self, *args, **kwargs):
        self.forget_prompts()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args, **kwargs):  # .to(), .half(), .cuda()
        self.forget_prompts()
        return super()._apply(*args, **kwargs)


class ClipJudge(Judge):
    """A judge on transformers' CLIPModel. Config: `clip` (CLIPConfig's arguments), `tokenizer`, `context_length`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.model = CLIPModel(CLIPConfig(**copy.deepcopy(config["clip"])))
        self.image_size = config["clip"]["vision_config"]["image_size"]

    def encode_prompts(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """Unit text embeddings (N, D)."""
        return (unit(self.model.get_text_features(tokens.ids).pooler_output),)

    def encode_images(self, pixels: Pixels) -> Float[Tensor, "batch features"]:
        """Unit image embeddings (B, D)."""
        return unit(self.model.get_image_features(pixels).pooler_output)

    @classmethod
    def convert(cls, tensors: Mapping[str, Any]) -> Tensors:
        """CLIPModel's own keys, with or without the `model.` before them."""
        return {f"model.{key.removeprefix('model.')}": value for key, value in parameters_of(tensors).items()}


class Head(nn.Module):
    """The aesthetic predictor's MLP: linear layers and dropout, no activations; (N, width) to (N,).

    Source: https://github.com/christophschuhmann/improved-aesthetic-predictor
    """

    def __init__(self, width: int, hidden: Sequence[int] = (1024, 128, 64, 16)) -> None:
        super().__init__()
        first, second, third, fourth = hidden
        self.layers = nn.Sequential(
            nn.Linear(width, first),
            nn.Dropout(0.2),
            nn.Linear(first, second),
            nn.Dropout(0.2),
            nn.Linear(second, third),
            nn.Dropout(0.1),
            nn.Linear(third, fourth),
            nn.Linear(fourth, 1),
        )

    def forward(self, embeds: Float[Tensor, "batch width"]) -> Scores:
        return self.layers(embeds).squeeze(-1)


def unit(embeds: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
    """Embeddings of norm 1, in fp32 whatever the model's dtype: half-precision cosines tie."""
    return F.normalize(embeds.float(), dim=-1)


def cosine(a: Float[Tensor, "batch width"], b: Float[Tensor, "batch width"]) -> Scores:
    """(B,) row-wise cosines of unit embeddings (B, D)."""
    return (a * b).sum(-1)


def parameters_of(tensors: Mapping[str, Any]) -> Tensors:
    """The tensors of a checkpoint, without the constant index buffers that older versions of libraries saved."""
    inner = tensors.get("state_dict", tensors)
    drop = ("position_ids", "inv_freq")
    return {key: value for key, value in inner.items() if isinstance(value, Tensor) and not key.endswith(drop)}
