"""Qwen-Image: flow matching on packed latents of a video autoencoder, with the tokens of a language model."""

from typing import TYPE_CHECKING, Any

from ..samplers import SIGMA_SAMPLERS
from .base import Embeddings
from .packed import PackedFamily

if TYPE_CHECKING:
    from torch import Tensor


class QwenImage(PackedFamily):
    """Differs from other families: the pipeline gives the guided velocity the norm of the conditional one."""

    name = "qwen-image"
    title = "Qwen-Image"
    class_prefix = "QwenImagePipeline"
    base_model = "qwen-image"
    num_tokens = 512
    samplers = SIGMA_SAMPLERS
    negative_prompt = " "  # the model card's: an empty one would have no tokens

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        """Tokens and masks of those that count, with zeros up to 512, so that batches can be stacked."""
        import torch

        embeddings: Embeddings = {}
        for prefix, texts in (("", prompts), ("negative_", [self.negative_prompt] * len(prompts))):
            tokens, mask = pipeline.encode_prompt(
                texts, device=pipeline._execution_device, max_sequence_length=self.num_tokens
            )
            mask = tokens.new_ones(tokens.shape[:2], dtype=torch.long) if mask is None else mask
            missing = self.num_tokens - tokens.shape[1]
            embeddings[f"{prefix}prompt_embeds"] = torch.nn.functional.pad(tokens, (0, 0, 0, missing))
            embeddings[f"{prefix}prompt_embeds_mask"] = torch.nn.functional.pad(mask, (0, missing))
        return embeddings

    def embedding_arguments(self, embeddings: Embeddings, guidance_scale: float) -> dict[str, Any]:
        """Without the columns that count in no row; without guidance the negative prompt would be warned of."""
        prefixes = ("", "negative_") if guidance_scale > 1 else ("",)
        arguments: dict[str, Any] = {}
        for prefix in prefixes:
            if (mask := embeddings.get(f"{prefix}prompt_embeds_mask")) is not None:
                longest = int(mask.sum(1).max())
                arguments[f"{prefix}prompt_embeds"] = embeddings[f"{prefix}prompt_embeds"][:, :longest]
                arguments[f"{prefix}prompt_embeds_mask"] = mask[:, :longest]
        return arguments

    def find_cut(self, pipeline: Any, prompt: str) -> str:
        """The template's end would be cut before the prompt."""
        tokens = pipeline.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        return pipeline.tokenizer.decode(tokens[self.num_tokens :]).strip()

    def num_read(self, pipeline: Any) -> int:
        return self.num_tokens

    def latent_channels(self, pipeline: Any) -> int:
        return int(pipeline.vae.config.z_dim)

    def unscale_latents(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        """With one mean and spread a channel."""
        mean, std = _statistics(pipeline, latents)
        return latents * std + mean

    def scale_latents(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        mean, std = _statistics(pipeline, latents)
        return (latents - mean) / std

    def decode(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        """As the one frame of a video."""
        return pipeline.vae.decode(self.unscale_latents(pipeline, latents).unsqueeze(2), return_dict=False)[0][:, :, 0]

    def encode_pixels(self, pipeline: Any, pixels: "Tensor") -> "Tensor":
        latents = pipeline.vae.encode(pixels.unsqueeze(2)).latent_dist.mode()[:, :, 0]
        return self.scale_latents(pipeline, latents)


def _statistics(pipeline: Any, latents: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Mean and spread of the autoencoder's latents, each (1, C, 1, 1)."""
    config = pipeline.vae.config
    mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std))
    return mean, std
