"""CLIPScore: how well an openai CLIP ViT-B/32 finds the prompt in the image."""

from typing import Any, ClassVar

from torch import Tensor

from ..hub import HubFile
from .base import ClipJudge, Scores, cosine
from .inputs import Pixels

CLIP_VIT_B_32 = "openai/clip-vit-base-patch32"


class CLIPScore(ClipJudge):
    """2.5 * max(cosine, 0), without the prefix "A photo depicts".

    Below a cosine of 0 it is flat: to train there, use `encode_images` and `encode_prompts`.

    Source: https://arxiv.org/abs/2104.08718, Eq. 1; https://huggingface.co/openai/clip-vit-base-patch32
    """

    name = "CLIPScore"
    unit = "2.5 x cosine"
    table_factor = 100
    reads = "image and prompt, one embedding each"
    misses = "where things are, and how good the image looks"
    preprocessing = "even"
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "clip": {
            "text_config": {
                "hidden_size": 512,
                "intermediate_size": 2048,
                "num_hidden_layers": 12,
                "num_attention_heads": 8,
                "hidden_act": "quick_gelu",
                "projection_dim": 512,
            },
            "vision_config": {
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "hidden_act": "quick_gelu",
                "image_size": 224,
                "patch_size": 32,
                "projection_dim": 512,
            },
            "projection_dim": 512,
        },
        "tokenizer": "openai",
        "context_length": 77,
    }
    SOURCES: ClassVar = ((HubFile(CLIP_VIT_B_32, "model.safetensors"),), (HubFile(CLIP_VIT_B_32, "pytorch_model.bin"),))

    def forward(self, pixels: Pixels, *prompt_features: Tensor) -> Scores:
        (text,) = prompt_features
        # Eq. 1
        return 2.5 * cosine(self.encode_images(pixels), text).clamp(min=0)
