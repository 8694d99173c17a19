"""Stable Diffusion 3 and 3.5: flow matching with a transformer that reads two CLIP text encoders and T5."""

from typing import Any

from ..samplers import FLOW_SAMPLERS
from .base import Embeddings, Family, name_outputs

_CLIP_TOKENS, _T5_TOKENS = 77, 256


class StableDiffusion3(Family):
    """Without its third text encoder, T5, the pipeline puts zeros in the place of T5's embeddings.

    As many as CLIP's tokens, 77 in a full-size model: the pipeline's own default of 256 gives a miniature three times
    the tokens.
    """

    name = "sd3"
    title = "Stable Diffusion 3"
    class_prefix = "StableDiffusion3"
    base_model = "sd3.5-medium"
    num_tokens = _CLIP_TOKENS + _T5_TOKENS
    samplers = FLOW_SAMPLERS
    noise = "16 channels, 8 pixels"
    is_flow = True
    optional_parts = ("text_encoder_3", "tokenizer_3")

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        """CLIP's tokens, padded to T5's width, and then T5's."""
        num_t5_tokens = pipeline.tokenizer_max_length if pipeline.text_encoder_3 is None else _T5_TOKENS
        encoded = pipeline.encode_prompt(
            prompts, None, None, device=pipeline._execution_device, max_sequence_length=num_t5_tokens
        )
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return name_outputs(names, encoded)

    def embedding_dim(self, pipeline: Any) -> int:
        return int(self.network(pipeline).config.joint_attention_dim)

    def widest_tokenizer(self, pipeline: Any) -> Any:
        """T5's, which reads more of a prompt than CLIP's."""
        return pipeline.tokenizer if pipeline.text_encoder_3 is None else pipeline.tokenizer_3

    def num_read(self, pipeline: Any) -> int:
        return _CLIP_TOKENS if pipeline.text_encoder_3 is None else _T5_TOKENS
