"""PixArt-Sigma: a diffusion transformer that reads T5's tokens, on SDXL's latents."""

from typing import Any

from .base import Embeddings, name_outputs
from .masked import MaskedFamily


class PixArtSigma(MaskedFamily):
    name = "pixart-sigma"
    title = "PixArt-Sigma"
    class_prefix = "PixArtSigma"
    base_model = "pixart-sigma"
    num_tokens = 300

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        """T5's embeddings with masks of the tokens that count, cleaned as the pipeline's own call cleans a prompt."""
        encoded = pipeline.encode_prompt(
            prompts,
            device=pipeline._execution_device,
            do_classifier_free_guidance=True,
            max_sequence_length=self.num_tokens,
            clean_caption=True,
        )
        return name_outputs(self.encoded, encoded)
