"""VQAScore: how likely a vision-language model answers Yes when it is asked whether an image shows the prompt.

The model is Qwen3-VL 4B: Apache-2.0, current, of the family that GenEval 2 asks. Differentiable: `score_pixels` gives
gradients, at the price of a 4-billion-parameter model.
"""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..errors import BadWeights
from ..hub import HubFile
from .base import Config, Scores, Tensors, parameters_of
from .inputs import Pixels
from .vision_language import AFTER_IMAGE, ANSWER, BEFORE_IMAGE, VisionLanguageJudge, load_chat_tokenizer

QUESTION = 'Is this an image of "{prompt}"? Answer Yes or No.'
YES = "Yes"
REPO = "Qwen/Qwen3-VL-4B-Instruct"


class VQAScore(VisionLanguageJudge):
    """The probability of the answer Yes, from 0 to 1.

    Config: see VisionLanguageJudge. The words' embeddings are also the output layer, as in the published 4B model.

    Differs from the original: another model and wording, so that scores are not those of the paper (Source: Lin et al.
    2024, arXiv 2404.01291, whose model is CLIP-FlanT5).
    """

    name = "VQAScore"
    unit = "P(Yes)"
    table_factor = 100
    reads = "the image in its own shape, then the prompt as a question"
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vision": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "out_hidden_size": 2560,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        "text": {
            "vocab_size": 151936,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        "image_token_id": 151655,
        "min_pixels": 256 * 32 * 32,
        "max_pixels": 1024 * 32 * 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "tokenizer": f"{REPO}/tokenizer.json",
        "context_length": 512,
    }
    SOURCES: ClassVar = (tuple(HubFile(REPO, f"model-0000{part}-of-00002.safetensors") for part in (1, 2)),)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        from transformers import Qwen3VLConfig, Qwen3VLModel  # takes seconds, and most never ask for this judge

        vision, text = copy.deepcopy(config["vision"]), copy.deepcopy(config["text"])
        self.model = Qwen3VLModel(
            Qwen3VLConfig(vision_config=vision, text_config=text, image_token_id=config["image_token_id"])
        )

    def write_text(self, prompt: str) -> tuple[str, str]:
        return BEFORE_IMAGE, f"{AFTER_IMAGE}{QUESTION.replace('{prompt}', prompt)}{ANSWER}"

    @property
    def yes(self) -> int:
        """The token of the answer. Raises: BadWeights if the tokenizer has none for it."""
        ids = load_chat_tokenizer(self.config["tokenizer"], self.extra_tokens).encode(YES, add_special_tokens=False).ids
        if len(ids) != 1:
            raise BadWeights(f"The tokenizer of {self.name} must have one token for {YES!r}, got {len(ids)}.")
        return ids[0]

    def forward(self, pixels: Pixels, *prompt_features: Tensor) -> Scores:
        ids, mask = prompt_features
        state = self.last_states(pixels, ids, mask)
        words = self.model.get_input_embeddings().weight
        return F.linear(state, words).float().softmax(-1)[:, self.yes]

    @classmethod
    def convert(cls, tensors: Mapping[str, Any]) -> Tensors:
        """transformers' own keys; an output layer of its own is dropped, since it equals the words' embeddings."""
        return {key: value for key, value in parameters_of(tensors).items() if not key.startswith("lm_head.")}
