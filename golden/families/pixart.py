"""PixArt-Sigma: a diffusion transformer that reads T5's tokens, on SDXL's latents."""

from typing import TYPE_CHECKING, Any

from .base import Embeddings, Family, name_outputs

if TYPE_CHECKING:
    from torch import Tensor


class PixArtSigma(Family):
    name = "pixart-sigma"
    title = "PixArt-Sigma"
    class_prefix = "PixArtSigma"
    base_model = "pixart-sigma"
    num_tokens = 300

    def call_arguments(self) -> dict[str, Any]:
        # Or the pipeline would change the size to one of its list, and the noise would not fit.
        # Its default negative prompt, "", is refused beside the embeddings of one.
        return {"use_resolution_binning": False, "negative_prompt": None}

    def network(self, pipeline: Any) -> Any:
        return pipeline.transformer

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        """T5's embeddings with masks of the tokens that count, cleaned as the pipeline's own call cleans a prompt."""
        encoded = pipeline.encode_prompt(
            prompts,
            device=pipeline._execution_device,
            do_classifier_free_guidance=True,
            max_sequence_length=self.num_tokens,
            clean_caption=True,
        )
        names = (
            "prompt_embeds",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
        )
        return name_outputs(names, encoded)

    def npnet_embeds(self, embeddings: Embeddings) -> "Tensor":
        """Zeros stand for the tokens beyond the prompt: most of the 300, and no part of what the transformer reads."""
        embeds = embeddings["prompt_embeds"]
        mask = embeddings.get("prompt_attention_mask")
        return embeds if mask is None else embeds * mask.unsqueeze(-1).to(embeds)

    def embedding_dim(self, pipeline: Any) -> int:
        return int(self.network(pipeline).config.caption_channels)
