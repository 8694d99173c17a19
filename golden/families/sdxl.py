"""Stable Diffusion XL: SDXL, its fine-tuned and few-step relatives, ControlNet, img2img and inpainting."""

from typing import Any

from ..samplers import ALIGNED_SAMPLERS, PLAIN_SAMPLERS
from .base import Embeddings, Family, name_outputs


class StableDiffusionXL(Family):
    name = "sdxl"
    title = "Stable Diffusion XL"
    class_prefix = "StableDiffusionXL"
    base_model = "sdxl"
    npnets = ("sdxl",)
    text_encoders = ("text_encoder_2",)  # the refiner has no other
    controlnet_class = "StableDiffusionXLControlNetPipeline"
    samplers = (*PLAIN_SAMPLERS, *ALIGNED_SAMPLERS)
    takes_start_image = True

    def load_arguments(self) -> dict[str, Any]:
        return {"add_watermarker": False}

    def network(self, pipeline: Any) -> Any:
        return pipeline.unet

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        encoded = pipeline.encode_prompt(prompts, device=pipeline._execution_device, do_classifier_free_guidance=True)
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return name_outputs(names, encoded)
