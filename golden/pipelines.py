"""Load a diffusers pipeline for a model; encode prompts, denoise a batch, decode.

The pipeline itself stays unchanged: golden noise enters as the `latents` argument that every diffusers pipeline has.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from .errors import BadWeights, MissingWeights
from .models import ModelSpec
from .samplers import make_sampler, remember_clean_estimate

Embeddings = dict[str, Tensor]
"""The prompt arguments of a pipeline's call (`prompt_embeds`, ...), each with one row per prompt."""

OnStep = Callable[[int, int, Tensor], None]
"""(steps done, steps in all, x0 estimate) after every step; may raise to stop the run."""

_CACHE_BYTES = 2**28  # about 200 prompts of SDXL in half precision, all that were ever asked of a small model
_ENCODED_AT_ONCE = 64


def load_pipeline(spec: ModelSpec, device: str = "cpu", dtype: torch.dtype | None = None) -> Any:
    """Load a model's diffusers pipeline; half precision on a GPU and fp32 on the CPU unless told.

    Raises: MissingWeights if it is neither on this machine nor to be fetched.
    """
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.float16)
    try:
        pipeline = getattr(diffusers, spec.pipeline).from_pretrained(
            spec.repo,
            dtype=dtype,
            revision=spec.revision,
            variant=spec.variant,
            use_safetensors=True,
            **({"add_watermarker": False} if "XL" in spec.pipeline else {}),
        )
    except SafetensorError as error:
        raise BadWeights(f"The model {spec.name!r} has a damaged weight file in {spec.repo}: {error}.") from error
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise MissingWeights(
            f"The model {spec.name!r} could not be loaded: fetch the repository {spec.repo} from the Hugging Face hub "
            f"and give its folder with --model ({reason})."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, dtype)


def latent_shape(pipeline: Any, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of a picture; the model's own size by default."""
    network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    size = network.config.sample_size
    scale = pipeline.vae_scale_factor
    return network.config.in_channels, (height // scale if height else size), (width // scale if width else size)


def encode_prompts(pipeline: Any, prompts: Sequence[str]) -> Embeddings:
    """The embeddings of prompts (at least one), each computed once and kept with the pipeline; one row per prompt.

    The keys are the keyword arguments that the pipeline's call takes.
    """
    cache: OrderedDict[str, Embeddings] = pipeline.__dict__.setdefault("_golden_embeddings", OrderedDict())
    missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in cache))
    if missing:
        encode = _encode_hunyuan if isinstance(pipeline, diffusers.HunyuanDiTPipeline) else _encode_sdxl
        for start in range(0, len(missing), _ENCODED_AT_ONCE):
            batch = missing[start : start + _ENCODED_AT_ONCE]
            encoded = encode(pipeline, batch)
            for index, prompt in enumerate(batch):
                # Copies, since a view would keep the whole batch in memory for as long as one of its rows is kept.
                cache[prompt] = {name: value[index].clone() for name, value in encoded.items()}
    rows = [cache[prompt] for prompt in prompts]
    row_bytes = sum(value.nbytes for value in rows[0].values())
    while len(cache) * row_bytes > _CACHE_BYTES and len(cache) > 1:
        cache.popitem(last=False)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@torch.inference_mode()
def _encode_sdxl(pipeline: Any, prompts: list[str]) -> Embeddings:
    encoded = pipeline.encode_prompt(prompts, device=pipeline._execution_device, do_classifier_free_guidance=True)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, encoded, strict=True))


@torch.inference_mode()
def _encode_hunyuan(pipeline: Any, prompts: list[str]) -> Embeddings:
    """Two encoders of different lengths, CLIP's and T5's, and both are told which tokens count."""
    embeddings: Embeddings = {}
    for index, (suffix, num_tokens) in enumerate((("", 77), ("_2", 256))):
        encoded = pipeline.encode_prompt(
            prompts,
            device=pipeline._execution_device,
            dtype=pipeline.transformer.dtype,
            do_classifier_free_guidance=True,
            max_sequence_length=num_tokens,
            text_encoder_index=index,
        )
        names = ("prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask")
        embeddings |= dict(zip((name + suffix for name in names), encoded, strict=True))
    return embeddings


def repeat_embeddings(embeddings: Embeddings, times: int) -> Embeddings:
    """The rows of `embeddings`, `times` times one after the other."""
    return {name: torch.cat([value] * times) for name, value in embeddings.items()}


@torch.inference_mode()
def denoise(
    pipeline: Any,
    noise: Tensor,
    embeddings: Embeddings,
    seeds: Sequence[int],
    *,
    sampler: str | Any = "ddim",
    num_inference_steps: int,
    guidance_scale: float,
    on_step: OnStep | None = None,
    **pipeline_arguments: Any,
) -> Tensor:
    """Run the pipeline from noise (B, C, h, w) to finished latents (B, C, h, w).

    `seeds` (one per row) seed the step noise of ancestral samplers, so that rows with the same seed get the same.
    `sampler` is a name of SAMPLERS or a scheduler. `pipeline_arguments` go to the pipeline's call as they are (the
    `image` of a ControlNet). Not safe to call twice at a time on one pipeline.
    """
    own_scheduler = pipeline.scheduler
    scheduler = make_sampler(sampler, own_scheduler.config) if isinstance(sampler, str) else sampler
    if on_step:
        remember_clean_estimate(scheduler)

    def after_step(pipe: Any, index: int, timestep: Any, tensors: dict) -> dict:
        if on_step:
            on_step(index + 1, pipe.num_timesteps, scheduler.clean_estimate)
        return {}

    if isinstance(pipeline, diffusers.HunyuanDiTPipeline):
        # Or the pipeline would change the size to one of its list, and the noise would not fit.
        pipeline_arguments = {"use_resolution_binning": False} | pipeline_arguments
    _, _, height, width = noise.shape
    try:
        pipeline.scheduler = scheduler
        return pipeline(
            **embeddings,
            latents=noise.to(pipeline._execution_device, pipeline.dtype),
            height=height * pipeline.vae_scale_factor,
            width=width * pipeline.vae_scale_factor,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
            callback_on_step_end=after_step,
            output_type="latent",
            **pipeline_arguments,
        ).images
    finally:
        pipeline.scheduler = own_scheduler
        pipeline.maybe_free_model_hooks()


@torch.inference_mode()
def decode(pipeline: Any, latents: Tensor) -> list[Image.Image]:
    """Finished latents (B, C, h, w) to RGB pictures."""
    vae = pipeline.vae
    pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return pixels_to_images(pixels)


def images_to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size to a tensor (B, 3, H, W) in [-1, 1]."""
    arrays = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1


def pixels_to_images(pixels: Tensor) -> list[Image.Image]:
    """A tensor (B, 3, H, W) in [-1, 1] to RGB pictures."""
    arrays = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
