"""HPSv2.1: an open_clip ViT-H-14 fine-tuned on the Human Preference Dataset v2."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import open_clip
from jaxtyping import Float
from torch import Tensor

from ..hub import HubFile
from .base import Config, Judge, Scores, Tensors, cosine, parameters_of, unit
from .inputs import Pixels, Tokens


class HPSv2(Judge):
    """100 * cosine of image and prompt; about 28 for the published weights.

    Config: `open_clip` (`embed_dim`, `vision_cfg`, `text_cfg`), `tokenizer`, `context_length`.

    Source: https://huggingface.co/xswu/HPSv2, https://github.com/tgxs002/HPSv2
    """

    name = "HPSv2"
    unit = "100 x cosine"
    reads = "image and prompt, one embedding each"
    misses = "where things are in the image"
    preprocessing = "pad"
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "open_clip": {
            "embed_dim": 1024,
            "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
        },
        "tokenizer": "openai",
        "context_length": 77,
    }
    SOURCES: ClassVar = (
        (HubFile("xswu/HPSv2", "HPS_v2.1_compressed.pt"),),
        (HubFile("RE-N-Y/hpsv21", "model.safetensors"),),
    )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.model = open_clip.CLIP(**copy.deepcopy(config["open_clip"]))
        self.image_size = config["open_clip"]["vision_cfg"]["image_size"]

    def encode_prompts(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """Unit text embeddings (N, D)."""
        return (unit(self.model.encode_text(tokens.ids)),)

    def encode_images(self, pixels: Pixels) -> Float[Tensor, "batch features"]:
        """Unit image embeddings (B, D)."""
        return unit(self.model.encode_image(pixels))

    def forward(self, pixels: Pixels, *prompt_features: Tensor) -> Scores:
        (text,) = prompt_features
        return 100 * cosine(self.encode_images(pixels), text)

    @classmethod
    def convert(cls, tensors: Mapping[str, Any]) -> Tensors:
        """open_clip's keys: the official file nests them in `state_dict`, the port puts `model.` before them."""
        return {f"model.{key.removeprefix('model.')}": value for key, value in parameters_of(tensors).items()}
