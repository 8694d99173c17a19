"""AES: LAION's aesthetic predictor, a regression on CLIP image embeddings. It never reads the prompt."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..hub import HubFile
from .base import Config, Head, Judge, Scores, Tensors, parameters_of, unit
from .inputs import Pixels

BACKBONE = HubFile("openai/clip-vit-large-patch14", "model.safetensors")
PREFIXES = {
    "clip.": "clip.",
    "mlp.": "mlp.",
    "layers.": "mlp.layers.",  # the official file: the head alone
    "vision_model.": "clip.vision_model.",  # the backbone, as a whole CLIPModel
    "visual_projection.": "clip.visual_projection.",
}


class Aesthetic(Judge):
    """An aesthetic rating, roughly 1 to 10, raw.

    Config: `vision` (CLIPVisionConfig's arguments), `head` (the four hidden widths of the MLP).

    Source: https://github.com/christophschuhmann/improved-aesthetic-predictor
    """

    name = "AES"
    unit = "rating, 1 to 10"
    digits = 4
    reads = "the image alone, never the prompt"
    misses = "whatever the prompt asks for"
    preprocessing = "even"
    reads_prompts = False
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vision": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "hidden_act": "quick_gelu",
            "image_size": 224,
            "patch_size": 14,
            "projection_dim": 768,
        },
        "head": [1024, 128, 64, 16],
    }
    # The official head `sac+logos+ava1-l14-linearMSE.pth` is on GitHub, not on the hub: give its path as weights.
    SOURCES: ClassVar = ((HubFile("RE-N-Y/laion-aesthetic", "model.safetensors"),),)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        vision = CLIPVisionConfig(**copy.deepcopy(config["vision"]))
        self.clip = CLIPVisionModelWithProjection(vision)
        self.mlp = Head(vision.projection_dim, config["head"])
        self.image_size = config["vision"]["image_size"]

    def forward(self, pixels: Pixels, *prompt_features: Tensor) -> Scores:
        embeds = unit(self.clip(pixel_values=pixels).image_embeds)
        return self.mlp(embeds.to(self.dtype)).float()

    @classmethod
    def convert(cls, tensors: Mapping[str, Any]) -> Tensors:
        """The port's keys, the official head's, or those of the CLIP model under it, whose text half is dropped."""
        ours = {}
        for key, value in parameters_of(tensors).items():
            prefix = next((old for old in PREFIXES if key.startswith(old)), None)
            if prefix is not None:
                ours[PREFIXES[prefix] + key.removeprefix(prefix)] = value
        return ours

    @classmethod
    def companions(cls, tensors: Tensors) -> tuple[HubFile, ...]:
        """The official file holds the head alone: the CLIP model under it comes from openai."""
        return () if any(key.startswith("clip.") for key in tensors) else (BACKBONE,)
