"""What transformers have in common that read a long prompt with a mask of the tokens that count."""

from typing import TYPE_CHECKING, Any

from .base import Embeddings, Family

if TYPE_CHECKING:
    from torch import Tensor


class MaskedFamily(Family):
    """Prompt embeddings come with masks, and sizes are what was asked for."""

    encoded = (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    )
    """What `encode_prompt` of these pipelines returns, in its order."""

    def call_arguments(self) -> dict[str, Any]:
        # Or the pipeline would change the size to one of its list, and the noise would not fit.
        # Its default negative prompt, "", is refused beside the embeddings of one.
        return {"use_resolution_binning": False, "negative_prompt": None}

    def npnet_embeds(self, embeddings: Embeddings) -> "Tensor":
        """Zeros stand for the tokens beyond the prompt: most of them, and no part of what the transformer reads."""
        embeds = embeddings["prompt_embeds"]
        mask = embeddings.get("prompt_attention_mask")
        return embeds if mask is None else embeds * mask.unsqueeze(-1).to(embeds)

    def embedding_dim(self, pipeline: Any) -> int:
        return int(self.network(pipeline).config.caption_channels)
