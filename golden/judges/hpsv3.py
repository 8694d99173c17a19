"""HPSv3: Qwen2-VL with a reward head, trained on pairs of images from photographs to the newest generators.

Differentiable: `score_pixels` gives gradients, at the price of a 7-billion-parameter model.
"""

import ast
import copy
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadWeights, MissingWeights
from ..hub import HubFile
from .base import Config, Scores, Tensors, parameters_of
from .inputs import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, Pixels
from .vision_language import AFTER_IMAGE, BEFORE_IMAGE, VisionLanguageJudge

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
REWARD = "<|Reward|>"
PACKAGE = "hpsv3"
INSTRUCTION_FILE = "dataset/data_collator_qwen.py"


@cache
def read_instruction() -> str:
    """The instruction that the weights were trained with, `{text_prompt}` in it, up to the token whose state is scored.

    It belongs to the package hpsv3, of which only this text is read: nothing of it is imported or run, so that neither
    its dependencies nor its pins matter. Raises: MissingWeights if it is not installed; BadWeights if it has changed.
    """
    spec = find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise MissingWeights(
            "HPSv3 needs the instruction that it was trained with: install it with pip install --no-deps hpsv3."
        )
    path = Path(folders[0]) / INSTRUCTION_FILE
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {
            target.id: ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        question, end = texts["INSTRUCTION"], texts["prompt_with_special_token"]
        return question + end[: end.index(REWARD) + len(REWARD)]
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        raise BadWeights(f"The instruction of HPSv3 is not in {path} as it was in version 1.0.0: {error}") from error


class HPSv3(VisionLanguageJudge):
    """The mean of a reward that is a normal distribution to the model, about -5 to 15.

    Config: see VisionLanguageJudge; `instruction` (None for that of the package), `head` (its two hidden widths).

    Differs from the original: the head is as precise as the rest of the model, which in bfloat16 is not fp32.

    Source: https://github.com/MizzenAI/HPSv3, package hpsv3 1.0.0. Its model is called without positions, so that the
    image's tokens are numbered in a line, as the text's are, and not by rows and columns as Qwen2-VL itself does.
    """

    name = "HPSv3"
    unit = "reward"
    reads = "the image in its own shape, then an instruction with the prompt in it"
    extra_tokens = (REWARD,)
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vision": {
            "depth": 32,
            "embed_dim": 1280,
            "hidden_size": 3584,
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
        "text": {
            "vocab_size": 151658,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "image_token_id": 151655,
        "head": [1024, 16],
        "min_pixels": 256 * 28 * 28,
        "max_pixels": 256 * 28 * 28,
        "mean": list(OPENAI_DATASET_MEAN),
        "std": list(OPENAI_DATASET_STD),
        "instruction": None,
        "tokenizer": "Qwen/Qwen2-VL-7B-Instruct/tokenizer.json",
        "context_length": 1536,
    }
    SOURCES: ClassVar = ((HubFile("MizzenAI/HPSv3", "HPSv3.safetensors"),),)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        from transformers import Qwen2VLConfig, Qwen2VLModel  # takes seconds, and most never ask for this judge

        vision, text = copy.deepcopy(config["vision"]), copy.deepcopy(config["text"])
        self.model = Qwen2VLModel(
            Qwen2VLConfig(vision_config=vision, text_config=text, image_token_id=config["image_token_id"])
        )
        first, second = config["head"]
        width = text["hidden_size"]
        self.head = nn.Sequential(
            nn.Linear(width, first),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, 2),  # mean and spread
        )

    def write_text(self, prompt: str) -> tuple[str, str]:
        instruction = self.config["instruction"] or read_instruction()
        return SYSTEM + BEFORE_IMAGE, AFTER_IMAGE + instruction.replace("{text_prompt}", prompt)

    def forward(self, pixels: Pixels, *prompt_features: Tensor) -> Scores:
        ids, mask = prompt_features
        state = self.last_states(pixels, ids, mask, flat=True).float()
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                state = F.linear(state, layer.weight.float(), layer.bias.float())
            else:
                state = layer(state)
        return state[:, 0]

    @classmethod
    def convert(cls, tensors: Mapping[str, Any]) -> Tensors:
        """The official keys, which are those of transformers 4.45, or our own; the head that names words is dropped."""
        ours = {}
        for key, value in parameters_of(tensors).items():
            if key.startswith(("model.visual.", "model.language_model.", "head.")):
                ours[key] = value
            elif key.startswith("rm_head."):
                ours[key.replace("rm_head.", "head.", 1)] = value
            elif key.startswith("visual."):
                ours[f"model.{key}"] = value
            elif key.startswith("model."):
                ours[key.replace("model.", "model.language_model.", 1)] = value
            elif not key.startswith("lm_head."):
                ours[key] = value
        return ours
