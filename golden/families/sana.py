"""SANA: flow matching with a linear transformer, on latents of 32 channels that are 32 times smaller than the image."""

import inspect
from typing import TYPE_CHECKING, Any

from ..samplers import FLOW_SAMPLERS
from .base import Embeddings, name_outputs
from .masked import MaskedFamily

if TYPE_CHECKING:
    from torch import Tensor


class Sana(MaskedFamily):
    name = "sana"
    title = "SANA"
    class_prefix = "SanaPipeline"
    base_model = "sana"
    num_tokens = 300
    samplers = FLOW_SAMPLERS
    noise = "32 channels, 32 pixels"
    is_flow = True
    half_precision = "bfloat16"
    latents_in_fp32 = True

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        """Embeddings with masks of the tokens that count, after the instruction that the pipeline itself puts first."""
        call = inspect.signature(type(pipeline).__call__).parameters
        encoded = pipeline.encode_prompt(
            prompts,
            device=pipeline._execution_device,
            max_sequence_length=self.num_tokens,
            complex_human_instruction=call["complex_human_instruction"].default,
        )
        return name_outputs(self.encoded, encoded)

    def find_cut(self, pipeline: Any, prompt: str) -> str:
        """The instruction's tokens do not count; two of 300 are lost to marks."""
        tokens = pipeline.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        return pipeline.tokenizer.decode(tokens[self.num_tokens - 2 :]).strip()

    def num_read(self, pipeline: Any) -> int:
        return self.num_tokens

    def encode_pixels(self, pipeline: Any, pixels: "Tensor") -> "Tensor":
        """The autoencoder has no noise of its own."""
        return self.scale_latents(pipeline, pipeline.vae.encode(pixels, return_dict=False)[0])
