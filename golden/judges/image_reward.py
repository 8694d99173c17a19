"""ImageReward: a BLIP whose text tower reads the prompt while it looks at the image, and a reward head."""

import copy
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from ..hub import HubFile
from .base import Config, Head, Judge, Scores, Tensors, parameters_of
from .inputs import Pixels, Tokens

# The official names of the vision tower, in the order in which they are replaced; text tower and head keep theirs.
VISION_NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)
UNUSED = ("blip.vision_proj.", "blip.text_proj.")  # BLIP's contrastive heads


class ImageReward(Judge):
    """(mlp - mean) / std, about normal with mean 0 over its training set.

    Config: `vision` (BlipVisionConfig's arguments), `text` (BlipTextConfig's, with `encoder_hidden_size` equal to the
    vision tower's `hidden_size`), `head` (the four hidden widths of the MLP), `mean`, `std`, `tokenizer`,
    `context_length`.

    Source: https://huggingface.co/THUDM/ImageReward (ImageReward.pt, med_config.json)
    """

    name = "ImageReward"
    unit = "reward"
    table_factor = 100
    reads = "the prompt word by word, while looking at the image"
    misses = "where things are and, more often than others, their shapes"
    preprocessing = "even"
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vision": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 16,
            "layer_norm_eps": 1e-6,
            "initializer_range": 0.02,  # transformers' default of 1e-10 cannot be trained from
        },
        "text": {
            "hidden_size": 768,
            "encoder_hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "vocab_size": 30524,
        },
        "head": [1024, 128, 64, 16],
        "mean": 0.16717362830052426,
        "std": 1.0333394966054072,
        "tokenizer": "bert",
        "context_length": 35,
    }
    SOURCES: ClassVar = (
        (HubFile("THUDM/ImageReward", "ImageReward.pt"),),
        (HubFile("RE-N-Y/ImageReward", "model.safetensors"),),
    )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        vision, text = copy.deepcopy(config["vision"]), copy.deepcopy(config["text"])
        self.vision = BlipVisionModel(BlipVisionConfig(**vision))
        # is_decoder builds the cross attention; the call below turns the causal mask off again
        self.text = BlipTextModel(BlipTextConfig(**text, is_decoder=True), add_pooling_layer=False)
        self.mlp = Head(text["hidden_size"], config["head"])
        self.image_size = vision["image_size"]

    def encode_prompts(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """The tokens themselves, ids and mask (N, L): this judge reads a prompt only together with an image."""
        return tokens.ids, tokens.mask

    def forward(self, pixels: Pixels, *prompt_features: Tensor) -> Scores:
        ids, mask = prompt_features
        patches = self.vision(pixel_values=pixels).last_hidden_state
        states = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=patches, is_decoder=False
        ).last_hidden_state
        return (self.mlp(states[:, 0]).float() - self.config["mean"]) / self.config["std"]

    @classmethod
    def convert(cls, tensors: Mapping[str, Any]) -> Tensors:
        """The official names, which the port keeps, or our own."""
        ours = {}
        for key, value in parameters_of(tensors).items():
            if key.startswith("blip.visual_encoder."):
                key = key.removeprefix("blip.visual_encoder.")
                for pattern, replacement in VISION_NAMES:
                    key = re.sub(pattern, replacement, key)
                ours[f"vision.{key}"] = value
            elif not key.startswith(UNUSED):
                ours[key.replace("blip.text_encoder.", "text.", 1)] = value
        return ours
