"""Sizes, vocabularies and condition words of the embedded judges."""

import json
import re
from typing import Any

import torch
from torch import Tensor

from golden.files import ASSETS, write_bytes
from golden.shapes import BACKGROUNDS, COLOURS, NUMBERS, PLURALS, VOCABULARY
from train.shapes.judges.captions import IMAGE_SIZE
from train.shapes.training import MODEL_FOLDER

TEXT_FOLDER = MODEL_FOLDER / "text_encoder_2"
WORDPIECE = "judges/vocabulary.txt"
TOWER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
}
VISION = TOWER | {"image_size": IMAGE_SIZE, "patch_size": 8}
BLIP_VISION = VISION | {"initializer_range": 0.02}  # transformers' default of 1e-10 cannot be trained from
HEAD = [64, 32, 16, 8]
CROSS = {"layers": 2, "heads": 4, "head_width": 32, "ff_mult": 2}

# Words of the captions by what they say; those of quality are the only ones that speak of the image itself.
DIMENSION_WORDS: dict[str, tuple[str, ...]] = {
    "shape": (*PLURALS, *PLURALS.values()),
    "colour": tuple(COLOURS),
    "count": tuple(NUMBERS),
    "position": ("left", "right", "above", "below"),
    "background": (*BACKGROUNDS, "background"),
    "quality": ("picture", "drawing", "image"),
}
OVERALL = "overall"
CONDITIONS = {dimension: " ".join(words) for dimension, words in DIMENSION_WORDS.items()}
# A few words of every dimension, since a condition holds as many tokens as a prompt.
CONDITIONS[OVERALL] = " ".join(word for words in DIMENSION_WORDS.values() for word in words[::3])

# What a condition lets the image read beside its own words: "left of" alone says nothing without the objects.
COMPANIONS: dict[str, tuple[str, ...]] = {"position": ("shape", "colour")}


def text_config() -> dict[str, Any]:
    """The config of the embedded model's second text encoder."""
    return json.loads((TEXT_FOLDER / "config.json").read_text())


def words_config() -> dict[str, Any]:
    """How the CLIP judges read prompts: as the embedded model does."""
    return {"tokenizer": "shapes/model/tokenizer", "context_length": text_config()["max_position_embeddings"]}


def clip_config() -> dict[str, Any]:
    """CLIPConfig's arguments: the text tower is that of the embedded model's second encoder."""
    saved = text_config()
    names = [*TOWER, "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"]
    width = saved["projection_dim"]
    return {
        "text_config": {name: saved[name] for name in names} | {"projection_dim": width},
        "vision_config": VISION | {"projection_dim": width},
        "projection_dim": width,
        "logit_scale_init_value": 3.0,
    }


def open_clip_config() -> dict[str, Any]:
    """The same towers in open_clip's terms."""
    text = clip_config()["text_config"]
    return {
        "embed_dim": text["projection_dim"],
        "vision_cfg": {
            "image_size": VISION["image_size"],
            "layers": VISION["num_hidden_layers"],
            "width": VISION["hidden_size"],
            "head_width": VISION["hidden_size"] // VISION["num_attention_heads"],
            "patch_size": VISION["patch_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
        },
    }


def image_reward_config() -> dict[str, Any]:
    """Also writes the WordPiece vocabulary: every word of the captions, comma and full stop is one token."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys((*VOCABULARY, ",", "."))]
    path, data = ASSETS / WORDPIECE, "".join(f"{token}\n" for token in tokens).encode()
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)
    length = text_config()["max_position_embeddings"]
    text = TOWER | {"num_hidden_layers": 3, "encoder_hidden_size": VISION["hidden_size"], "vocab_size": len(tokens)}
    return {
        "vision": BLIP_VISION,
        "text": text | {"max_position_embeddings": length, "bos_token_id": 2, "sep_token_id": 3},
        "head": HEAD,
        "mean": 0.0,
        "std": 1.0,
        "tokenizer": WORDPIECE,
        "context_length": length,
    }


OPEN_CLIP_NAMES = (
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^visual_projection\.weight", "visual.proj"),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_projection\.weight", "text_projection"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.self_attn\.q_proj\.", ".attn.in_proj_"),
)


def to_open_clip(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' CLIPModel under open_clip's names, where queries, keys and values are one matrix."""
    ours = {}
    for name, value in clip.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            value = torch.cat([clip[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
        for pattern, replacement in OPEN_CLIP_NAMES:
            name = re.sub(pattern, replacement, name)
        ours[name] = value.T.contiguous() if name in ("visual.proj", "text_projection") else value
    return ours
