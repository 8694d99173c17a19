"""The one contract of all judges, and the parts that several of them share."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from ..errors import GoldenError
from .hub import HubFile
from .inputs import Inputs, Tokenizer, Tokens, load_tokenizer

Config = Mapping[str, Any]
Tensors = dict[str, Tensor]

MAX_CACHED_PROMPTS = 256
MAX_BATCH = 32


class Judge(nn.Module):
    """A model that says how good images are. Built from a config, so that one class holds published and small weights.

    A judge has three parts, each differentiable, and `score` runs them:
        pixels = judge.preprocess(images)                  # (B, 3, S, S)
        features = judge.encode_prompts(judge.tokenize(prompts))  # tuple of (B, ...)
        scores = judge(pixels, *features)                  # (B,) in the units that are reported

    Attributes:
        name: as in tables, and in JUDGES.
        unit: what a score is, for labels.
        preprocessing: which pixels it sees, see `Inputs.pixels`.
        reads_prompts: False for a judge of pictures alone.
        PUBLISHED: the config of the published weights.
        SOURCES: alternatives in order of preference, each the hub files that together hold the published weights.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    preprocessing: ClassVar[str] = "floor"
    reads_prompts: ClassVar[bool] = True
    PUBLISHED: ClassVar[dict[str, Any]]
    SOURCES: ClassVar[tuple[tuple[HubFile, ...], ...]]

    image_size: int

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = copy.deepcopy(dict(config))
        self.provenance: dict[str, Any] = {"judge": self.name, "weights": "random"}
        self._prompt_features: dict[str, tuple[Tensor, ...]] = {}

    # What a judge defines -------------------------------------------------------------------------------------------

    def encode_prompts(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """What the judge makes of prompts before it sees an image: tensors whose first dimension is the prompts'."""
        raise NotImplementedError

    def forward(self, pixels: Tensor, *prompt_features: Tensor) -> Tensor:
        """(B,) scores of `pixels` (B, 3, S, S), with gradients."""
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

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, 3, S, S) fp32 pixels of PIL images, on the CPU."""
        return Inputs(images, [""] * len(images)).pixels(self.preprocessing, self.image_size)

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """Tokens of prompts, on the judge's device."""
        tokens = self.tokenizer(prompts)
        return Tokens(tokens.ids.to(self.device), tokens.mask.to(self.device))

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Score B images, each against its own prompt.

        Returns: (B,) fp32 on the CPU, in the judge's raw reported units (`unit`); higher is better.
        Raises: InvalidInput for unequal lists or unreadable images; GoldenError if a score is not a number.
        """
        return self.score_inputs(Inputs(images, prompts))

    @torch.no_grad()
    def score_inputs(self, inputs: Inputs) -> Tensor:
        """As `score`, on inputs whose pixels and tokens other judges may already have asked for."""
        was_training = self.training
        self.eval()  # dropout would make scores random
        try:
            pixels = inputs.pixels(self.preprocessing, self.image_size)
            parts = []
            for start in range(0, len(inputs), MAX_BATCH):
                rows = slice(start, start + MAX_BATCH)
                features = self.cached_prompt_features(inputs.prompts[rows])
                parts.append(self(pixels[rows].to(self.device, self.dtype), *features).float().cpu())
        finally:
            if was_training:
                self.train()
        scores = torch.cat(parts)
        if not scores.isfinite().all():
            raise GoldenError(f"{self.name} gave a score that is not a number.")
        return scores

    def forget_prompts(self) -> None:
        """Drop the remembered prompt features, which differ in their last bits by what they were computed beside."""
        self._prompt_features.clear()

    def cached_prompt_features(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """`encode_prompts`, where each prompt is encoded once however often it is scored."""
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

    # Whatever may change the weights makes the kept features stale.

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

    def encode_images(self, pixels: Tensor) -> Tensor:
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

    def forward(self, embeds: Tensor) -> Tensor:
        return self.layers(embeds).squeeze(-1)


def unit(embeds: Tensor) -> Tensor:
    """Embeddings of length 1, in fp32 whatever the model's dtype: half-precision cosines tie."""
    return F.normalize(embeds.float(), dim=-1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """(B,) row-wise cosines of unit embeddings (B, D)."""
    return (a * b).sum(-1)


def parameters_of(tensors: Mapping[str, Any]) -> Tensors:
    """The tensors of a checkpoint, without the constant index buffers that older versions of libraries saved."""
    inner = tensors.get("state_dict", tensors)
    drop = ("position_ids", "inv_freq")
    return {key: value for key, value in inner.items() if isinstance(value, Tensor) and not key.endswith(drop)}
