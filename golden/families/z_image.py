"""Z-Image: flow matching with a transformer that reads prompts and latents as one sequence."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..samplers import SIGMA_SAMPLERS
from .base import Embeddings, Family
from .chat import find_chat_cut

if TYPE_CHECKING:
    from torch import Tensor

_NATIVE_PIXELS = 1024  # of the pipeline's call


class ZImage(Family):
    name = "z-image"
    title = "Z-Image"
    class_prefix = "ZImagePipeline"
    base_model = "z-image"
    num_tokens = 512
    samplers = SIGMA_SAMPLERS
    noise = "16 channels, 8 pixels"
    is_flow = True
    half_precision = "bfloat16"
    latents_in_fp32 = True

    def guidance_arguments(self, guidance_scale: float) -> dict[str, Any]:
        """The pipeline's guidance is `cond + w (cond - uncond)`: 0 is none."""
        return {"guidance_scale": guidance_scale - 1}

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        """Tokens, with zeros up to 512: the pipeline's rows have different lengths."""
        encoded = pipeline.encode_prompt(
            list(prompts),  # the pipeline writes into it
            device=pipeline._execution_device,
            max_sequence_length=self.num_tokens,
        )
        names = ("prompt_embeds", "negative_prompt_embeds")
        return {name: self._pad(rows) for name, rows in zip(names, encoded, strict=True)}

    def _pad(self, rows: Sequence["Tensor"]) -> "Tensor":
        import torch

        return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, self.num_tokens - len(row))) for row in rows])

    def embedding_arguments(self, embeddings: Embeddings, guidance_scale: float) -> dict[str, Any]:
        """Lists of each row's own tokens, without the zeros after them."""
        return {name: [row[row.any(1)] for row in rows] for name, rows in embeddings.items()}

    def embedding_dim(self, pipeline: Any) -> int:
        return int(self.network(pipeline).config.cap_feat_dim)

    def patch_size(self, pipeline: Any) -> int:
        return int(self.network(pipeline).config.all_patch_size[0])

    def native_size(self, pipeline: Any) -> int:
        return _NATIVE_PIXELS // int(pipeline.vae_scale_factor)

    def find_cut(self, pipeline: Any, prompt: str) -> str:
        return find_chat_cut(pipeline.tokenizer, prompt, self.num_tokens, enable_thinking=True)

    def num_read(self, pipeline: Any) -> int:
        return self.num_tokens
