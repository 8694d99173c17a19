"""FLUX.2 [klein]: flow matching on latents of 128 channels, each cell of which is 16 x 16 pixels.

FLUX.2 [dev] is not among them: it follows a guidance scale that is an input of its network, and has no other.
"""

from typing import TYPE_CHECKING, Any

from ..samplers import SIGMA_SAMPLERS
from .base import Embeddings, Family
from .chat import find_chat_cut

if TYPE_CHECKING:
    from torch import Tensor

_SIDE = 2  # cells of the autoencoder along a side of one cell of the latents


class Flux2Klein(Family):
    name = "flux2-klein"
    title = "FLUX.2 [klein]"
    class_prefix = "Flux2KleinPipeline"
    base_model = "flux2-klein-base"
    num_tokens = 512
    samplers = SIGMA_SAMPLERS
    noise = "128 channels, 16 pixels"
    is_flow = True
    half_precision = "bfloat16"

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        """Hidden states of three layers of the language model side by side."""
        embeddings: Embeddings = {}
        for prefix, texts in (("", prompts), ("negative_", [self.negative_prompt] * len(prompts))):
            tokens, _ = pipeline.encode_prompt(
                texts, device=pipeline._execution_device, max_sequence_length=self.num_tokens
            )
            embeddings[f"{prefix}prompt_embeds"] = tokens
        return embeddings

    def embedding_dim(self, pipeline: Any) -> int:
        return int(self.network(pipeline).config.joint_attention_dim)

    def cell_size(self, pipeline: Any) -> int:
        return _SIDE * int(pipeline.vae_scale_factor)

    def native_size(self, pipeline: Any) -> int:
        return int(pipeline.default_sample_size) // _SIDE

    def latent_channels(self, pipeline: Any) -> int:
        return int(self.network(pipeline).config.in_channels)

    def unpack(self, pipeline: Any, packed: "Tensor", height: int, width: int) -> "Tensor":
        """The pipeline packs its latents itself, after it was given them, and its scheduler sees tokens."""
        return packed.transpose(1, 2).unflatten(2, (height, width))

    def read_output(self, pipeline: Any, output: "Tensor", height: int, width: int) -> "Tensor":
        """The pipeline returns what its autoencoder decodes."""
        return self.scale_latents(pipeline, output)

    def unscale_latents(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        """With one mean and spread a channel; (B, C, h, w) to (B, C / 4, 2 h, 2 w)."""
        mean, std = _statistics(pipeline, latents)
        cells = (latents * std + mean).unflatten(1, (-1, _SIDE, _SIDE))
        return cells.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)

    def scale_latents(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        cells = latents.unflatten(3, (-1, _SIDE)).unflatten(2, (-1, _SIDE))
        folded = cells.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        mean, std = _statistics(pipeline, folded)
        return (folded - mean) / std

    def find_cut(self, pipeline: Any, prompt: str) -> str:
        return find_chat_cut(pipeline.tokenizer, prompt, self.num_tokens, enable_thinking=False)

    def num_read(self, pipeline: Any) -> int:
        return self.num_tokens


def _statistics(pipeline: Any, latents: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Mean and spread of the autoencoder's latents, each (1, C, 1, 1)."""
    norm = pipeline.vae.bn
    mean, spread = norm.running_mean, (norm.running_var + pipeline.vae.config.batch_norm_eps).sqrt()
    return mean.view(1, -1, 1, 1).to(latents), spread.view(1, -1, 1, 1).to(latents)
