"""PickScore: a CLIP ViT-H/14 fine-tuned on the choices of Pick-a-Pic's users."""

from typing import Any, ClassVar

from torch import Tensor

from ..hub import HubFile
from .base import ClipJudge, Scores, cosine
from .inputs import Pixels

# Also the shape of the MPS judge's two towers. Source: https://huggingface.co/laion/CLIP-ViT-H-14-laion2B-s32B-b79K
VIT_H_14: dict[str, Any] = {
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 1024,
    },
    "projection_dim": 1024,
}


class PickScore(ClipJudge):
    """exp(logit_scale) * cosine of image and prompt; about 21 for the published weights.

    Source: https://huggingface.co/yuvalkirstain/PickScore_v1
    """

    name = "PickScore"
    unit = "scaled cosine"
    reads = "image and prompt, one embedding each"
    misses = "where things are in the image"
    PUBLISHED: ClassVar[dict[str, Any]] = {"clip": VIT_H_14, "tokenizer": "clip", "context_length": 77}
    SOURCES: ClassVar = (
        (HubFile("yuvalkirstain/PickScore_v1", "model.safetensors"),),
        (HubFile("RE-N-Y/pickscore", "model.safetensors"),),
    )

    def forward(self, pixels: Pixels, *prompt_features: Tensor) -> Scores:
        (text,) = prompt_features
        return self.model.logit_scale.float().exp() * cosine(self.encode_images(pixels), text)
