"""FLUX.1: flow matching on packed latents, with T5's tokens and one pooled embedding of CLIP.

FLUX.1-dev was distilled to follow a guidance scale that is an input of its network, which stays at the pipeline's
default here. What golden calls guidance is the pipeline's `true_cfg_scale`, between two predictions. FLUX.1-schnell has
no use for either.
"""

from typing import Any

from ..samplers import SIGMA_SAMPLERS
from .base import Embeddings
from .packed import PackedFamily


class Flux(PackedFamily):
    name = "flux"
    title = "FLUX.1"
    class_prefix = "FluxPipeline"
    base_model = "flux-dev"
    text_encoders = ("text_encoder", "text_encoder_2")
    num_tokens = 512
    samplers = SIGMA_SAMPLERS

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        embeddings: Embeddings = {}
        for prefix, texts in (("", prompts), ("negative_", [self.negative_prompt] * len(prompts))):
            tokens, pooled, _ = pipeline.encode_prompt(
                texts, device=pipeline._execution_device, max_sequence_length=self.num_tokens
            )
            embeddings |= {f"{prefix}prompt_embeds": tokens, f"{prefix}pooled_prompt_embeds": pooled}
        return embeddings

    def widest_tokenizer(self, pipeline: Any) -> Any:
        """T5's, which reads more of a prompt than CLIP's."""
        return pipeline.tokenizer_2
