"""Hunyuan-DiT: a diffusion transformer with two text encoders, CLIP's and T5's, of different lengths."""

from typing import Any

from .base import Embeddings, Family, name_outputs

_NUM_TOKENS = (77, 256)  # of the two text encoders


class HunyuanDiT(Family):
    name = "hunyuan-dit"
    title = "Hunyuan-DiT"
    class_prefix = "HunyuanDiT"
    base_model = "hunyuan-dit"
    npnets = ("hunyuan-dit",)
    text_encoders = ("text_encoder", "text_encoder_2")

    def call_arguments(self) -> dict[str, Any]:
        # Or the pipeline would change the size to one of its list, and the noise would not fit.
        return {"use_resolution_binning": False}

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        """NPNet reads the first encoder's embeddings, CLIP's; both come with masks of the tokens that count."""
        embeddings: Embeddings = {}
        for index, (suffix, num_tokens) in enumerate(zip(("", "_2"), _NUM_TOKENS, strict=True)):
            encoded = pipeline.encode_prompt(
                prompts,
                device=pipeline._execution_device,
                dtype=pipeline.transformer.dtype,
                do_classifier_free_guidance=True,
                max_sequence_length=num_tokens,
                text_encoder_index=index,
            )
            names = (
                "prompt_embeds",
                "negative_prompt_embeds",
                "prompt_attention_mask",
                "negative_prompt_attention_mask",
            )
            embeddings |= name_outputs([name + suffix for name in names], encoded)
        return embeddings
