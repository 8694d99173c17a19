"""Stable Diffusion 1 and 2: a UNet that reads one CLIP text encoder."""

from typing import Any

from .base import Embeddings, Family, name_outputs


class StableDiffusion(Family):
    name = "sd"
    title = "Stable Diffusion 1 and 2"
    class_prefix = "StableDiffusionPipeline"
    base_model = "sd15"

    def load_arguments(self) -> dict[str, Any]:
        # A gigabyte that would only ever see images of the pipeline's own decoding.
        return {"safety_checker": None, "requires_safety_checker": False}

    def network(self, pipeline: Any) -> Any:
        return pipeline.unet

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        encoded = pipeline.encode_prompt(prompts, pipeline._execution_device, 1, True)
        return name_outputs(("prompt_embeds", "negative_prompt_embeds"), encoded)
