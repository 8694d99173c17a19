"""Load a diffusers pipeline for a model; encode prompts, denoise a batch, decode.

The pipeline itself stays unchanged: golden noise enters as the `latents` argument that every diffusers pipeline has.
"""

import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from .errors import BadWeights, GoldenError, InvalidInput, MissingWeights
from .files import load_weights
from .models import ModelSpec, fetch_file, find_file
from .samplers import make_sampler, remember_clean_estimate

logger = logging.getLogger("golden")

Embeddings = dict[str, Tensor]
"""What a pipeline is told to paint (`prompt_embeds`, ..., a ControlNet's `image`), each with one row per prompt."""

OnStep = Callable[[int, int, Tensor], None]
"""(steps done, steps in all, x0 estimate) after every step; may raise to stop the run."""

_CACHED_PROMPTS = 64  # of SDXL 40 MB in half precision
_ENCODED_AT_ONCE = 64
_NUM_TOKENS = 77  # of CLIP's text encoders, start and end marks included
_DECODED_AT_ONCE = 8  # more are slower on a CPU, whose cache they leave, and no faster on a GPU

MEMORY_MODES = ("auto", "high", "low")
_PAIR_BYTES_PER_CELL = 2**19  # what a pair takes beside the weights, for each cell of its latents: 8 GiB at 128 x 128
_TILE = 64  # cells of latents, along a side, that the VAE decodes at once where memory is low

# --- loading ----------------------------------------------------------------------------------------------------------


def load_pipeline(spec: ModelSpec, device: str = "cpu", dtype: torch.dtype | None = None, memory: str = "high") -> Any:
    """Load a model's diffusers pipeline; half precision on a GPU and fp32 on the CPU unless told.

    `memory` is one of MEMORY_MODES: "high" puts everything on the device at once; "low" is for cards of 8 to 12 GB
    (`spare_memory`); "auto" is high where everything fits in what is free, and says which it chose.

    Raises: MissingWeights if it is neither on this machine nor to be fetched; BadWeights if it is damaged; InvalidInput
    for an unknown memory mode.
    """
    if memory not in MEMORY_MODES:
        raise InvalidInput(f"Unknown memory mode {memory!r}: choose one of {', '.join(MEMORY_MODES)}.")
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.float16)
    pipeline_class = getattr(diffusers, spec.pipeline)
    where = {"revision": spec.revision, "variant": spec.variant, "use_safetensors": True}
    parts: dict[str, Any] = {"add_watermarker": False} if "XL" in spec.pipeline else {}
    with _explained(f"The model {spec.name!r}", spec.repo):
        if spec.unet:
            parts["unet"] = _load_unet(spec, spec.unet, dtype)
        if spec.controlnet:
            parts["controlnet"] = _load_controlnet(spec.controlnet, dtype)
        if not Path(spec.repo).exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # diffusers gives the hub's client arguments that are deprecated
                pipeline_class.download(spec.repo, **where, **parts)  # gigabytes: its progress is shown
        with _quiet():
            pipeline = pipeline_class.from_pretrained(spec.repo, dtype=dtype, **where, **parts)
            if spec.timestep_spacing:
                spacing = {"timestep_spacing": spec.timestep_spacing}
                pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **spacing)
            for lora in spec.loras:
                _fuse_lora(pipeline, lora)
            pipeline.set_progress_bar_config(disable=True)
    if memory == "auto":
        memory = choose_memory(device, needed_memory(pipeline))
    return spare_memory(pipeline, device) if memory == "low" else pipeline.to(device)


def _load_unet(spec: ModelSpec, unet: str, dtype: torch.dtype) -> Any:
    """The UNet that takes the place of the one in `spec.repo`: a repository of its own, or only its weights."""
    if unet.endswith(".safetensors"):
        weights_file, config_file = find_file(unet), fetch_file(spec.repo, "unet/config.json", spec.revision)
    else:
        suffix = f".{spec.variant}.safetensors" if spec.variant else ".safetensors"
        weights_file = fetch_file(unet, f"diffusion_pytorch_model{suffix}")
        config_file = fetch_file(unet, "config.json")
    weights, _ = load_weights(weights_file)
    with torch.device("meta"):  # random first weights of gigabytes would take longer to draw than the file to read
        network = diffusers.UNet2DConditionModel.from_config(json.loads(config_file.read_text()))
    try:
        network.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, assign=True)
    except RuntimeError as error:
        raise BadWeights(f"{unet} does not hold the weights of a UNet like that of {spec.repo}.") from error
    return network.eval()


def _load_controlnet(controlnet: str, dtype: torch.dtype) -> Any:
    with _quiet(), _explained("The ControlNet", controlnet), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for the whole pipeline
        return diffusers.ControlNetModel.from_pretrained(controlnet, dtype=dtype, use_safetensors=True)


@contextmanager
def _explained(what: str, repo: str) -> Iterator[None]:
    """Raises: BadWeights or MissingWeights, each one sentence, where diffusers fails to load a repository or folder."""
    try:
        yield
    except SafetensorError as error:
        raise BadWeights(f"{what} has a damaged weight file in {repo}: {error}.") from error
    except GoldenError:  # some are ValueErrors, too
        raise
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise MissingWeights(
            f"{what} could not be loaded: fetch the repository {repo} from the Hugging Face hub and give its folder "
            f"with --model ({reason})."
        ) from error


def _fuse_lora(pipeline: Any, lora: str) -> None:
    """Add a LoRA to the weights of a pipeline for good."""
    if not diffusers.utils.USE_PEFT_BACKEND:
        raise MissingWeights("A LoRA needs the package peft: install it with pip install peft.")
    path = find_file(lora)
    try:
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, use_safetensors=True)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:  # it has no check of its own
        lines = str(error).splitlines() or [type(error).__name__]
        raise BadWeights(f"{path.name} is not a LoRA that fits this model: {lines[0][:160]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep bars and advice of diffusers and transformers off the terminal; errors are still shown."""
    libraries = [diffusers.utils.logging, transformers.utils.logging]
    before = [(library.is_progress_bar_enabled(), library.get_verbosity()) for library in libraries]
    try:
        for library in libraries:
            library.disable_progress_bar()
            library.set_verbosity_error()
        yield
    finally:
        for library, (bars, verbosity) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


# --- memory -----------------------------------------------------------------------------------------------------------


def needed_memory(pipeline: Any) -> int:
    """About how many bytes a pipeline takes with all its parts on the device and a pair of its own size in work."""
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    _, height, width = latent_shape(pipeline)
    return sum(value.nbytes for part in parts for value in part.parameters()) + _PAIR_BYTES_PER_CELL * height * width


def choose_memory(device: str, needed: int) -> str:
    """ "high" where `needed` bytes are free on a GPU, else "low", and logs which; "high" on any other device."""
    if torch.device(device).type != "cuda":
        return "high"
    free = torch.cuda.mem_get_info(device)[0]
    memory = "high" if needed <= free else "low"
    logger.warning("Memory mode %s: %.1f GB are free, %.1f would be used.", memory, free / 1e9, needed / 1e9)
    return memory


def spare_memory(pipeline: Any, device: str) -> Any:
    """Let a pipeline live in RAM and bring to the device only the part that works; `denoise` then takes rows in turn.

    The VAE decodes one picture at a time, in tiles. Where they meet they are blended; a tile's contrast is normalised
    by itself, so that a picture of more than one tile (above 512 x 512) differs a little from one decoded whole.
    """
    vae = pipeline.vae
    vae.enable_slicing()
    vae.enable_tiling()
    vae.tile_latent_min_size = _TILE
    vae.tile_sample_min_size = _TILE * pipeline.vae_scale_factor
    pipeline.enable_model_cpu_offload(device=device)
    return pipeline


def is_spared(pipeline: Any) -> bool:
    """Whether the parts of a pipeline come to the device one by one, by `spare_memory` or its owner's own call."""
    return bool(getattr(pipeline, "_all_hooks", None))


# --- sizes and prompts ------------------------------------------------------------------------------------------------


def is_hunyuan(pipeline: Any) -> bool:
    """Whether a pipeline is of Hunyuan-DiT's family, with two text encoders of different lengths; else it is SDXL's."""
    return any(parent.__name__.startswith("HunyuanDiT") for parent in type(pipeline).__mro__)


def network_of(pipeline: Any) -> Any:
    """The network that denoises: SDXL's UNet or Hunyuan-DiT's transformer."""
    return pipeline.transformer if is_hunyuan(pipeline) else pipeline.unet


def latent_shape(pipeline: Any, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of a picture of height x width pixels; the model's own size by default.

    Raises: InvalidInput for a size that is no multiple of what the model paints in one piece (8 pixels; 16 for DiT).
    """
    network = network_of(pipeline)
    size = network.config.sample_size
    scale = pipeline.vae_scale_factor
    step = scale * getattr(network.config, "patch_size", 1)
    for name, pixels in (("height", height), ("width", width)):
        if pixels is not None and (pixels < step or pixels % step):
            raise InvalidInput(f"The {name} must be a multiple of {step} pixels, got {pixels}.")
    # Not the network's number of channels: an inpainting UNet is shown a mask and the masked picture, too.
    channels = pipeline.vae.config.latent_channels
    return channels, (height // scale if height else size), (width // scale if width else size)


def find_cut(pipeline: Any, prompt: str) -> str:
    """The end of a prompt that is beyond what the text encoders (and NPNet) read, "" where they read all of it.

    SDXL reads 77 tokens, two of which mark start and end. Of Hunyuan-DiT's two encoders the first, which NPNet sees,
    reads as many, and the second 256.
    """
    tokenizer = pipeline.tokenizer or pipeline.tokenizer_2
    tokens = tokenizer(prompt, truncation=False, verbose=False).input_ids
    kept = min(tokenizer.model_max_length, _NUM_TOKENS) - 1  # the end mark takes one
    return tokenizer.decode(tokens[kept:-1]).strip() if len(tokens) > kept + 1 else ""


def say_what_is_cut(pipeline: Any, prompts: Sequence[str]) -> None:
    """Log a sentence for each prompt that is longer than the model reads."""
    for prompt in prompts:
        if cut := find_cut(pipeline, prompt):
            logger.warning("The prompt is longer than the %d tokens that the model reads: %r is cut.", _NUM_TOKENS, cut)


def encode_prompts(pipeline: Any, prompts: Sequence[str]) -> Embeddings:
    """The embeddings of prompts (at least one), the last 64 of which are kept with the pipeline; one row per prompt.

    The keys are the keyword arguments that the pipeline's call takes. What of a prompt is beyond the 77 tokens that
    the model reads is cut, and a logged sentence names it.
    """
    cache: OrderedDict[str, Embeddings] = pipeline.__dict__.setdefault("_golden_embeddings", OrderedDict())
    missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in cache))
    if missing:
        for start in range(0, len(missing), _ENCODED_AT_ONCE):
            batch = missing[start : start + _ENCODED_AT_ONCE]
            encoded = encode_anew(pipeline, batch)
            for index, prompt in enumerate(batch):
                # Copies, since a view would keep the whole batch in memory for as long as one of its rows is kept.
                cache[prompt] = {name: value[index].clone() for name, value in encoded.items()}
    rows = [cache[prompt] for prompt in prompts]
    while len(cache) > _CACHED_PROMPTS:
        cache.popitem(last=False)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def encode_anew(pipeline: Any, prompts: Sequence[str]) -> Embeddings:
    """`encode_prompts` in one batch and without its memory, for a pipeline whose text encoders may have changed."""
    say_what_is_cut(pipeline, prompts)
    with _quiet():  # diffusers would say the same, at greater length
        encoded = (_encode_hunyuan if is_hunyuan(pipeline) else _encode_sdxl)(pipeline, list(prompts))
    pipeline.maybe_free_model_hooks()
    return encoded


@torch.inference_mode()
def _encode_sdxl(pipeline: Any, prompts: list[str]) -> Embeddings:
    encoded = pipeline.encode_prompt(prompts, device=pipeline._execution_device, do_classifier_free_guidance=True)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, encoded, strict=True))


@torch.inference_mode()
def _encode_hunyuan(pipeline: Any, prompts: list[str]) -> Embeddings:
    """Two encoders of different lengths, CLIP's and T5's, and both are told which tokens count."""
    embeddings: Embeddings = {}
    for index, (suffix, num_tokens) in enumerate((("", _NUM_TOKENS), ("_2", 256))):
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


# --- from noise to pictures -------------------------------------------------------------------------------------------


def add_control(pipeline: Any, embeddings: Embeddings, picture: Image.Image, shape: tuple[int, int, int]) -> Embeddings:
    """The embeddings with a control picture in every row, of the size of pictures whose latents have `shape`."""
    height, width = (side * pipeline.vae_scale_factor for side in shape[1:])
    pixels = images_to_pixels([picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)]) / 2 + 0.5
    return embeddings | {"image": pixels.repeat(len(embeddings["prompt_embeds"]), 1, 1, 1)}


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
) -> Tensor:
    """Run the pipeline from noise (B, C, h, w) to finished latents (B, C, h, w).

    `seeds` (one per row) seed the step noise of ancestral samplers, so that rows with the same seed get the same.
    `sampler` is a name of SAMPLERS or a scheduler. Where memory is low (`is_spared`) the rows go through one after the
    other, and `on_step` counts the steps of all and sees the estimate of the row at work. Not safe to call twice at a
    time on one pipeline.
    """
    rows_a_turn = 1 if is_spared(pipeline) else len(noise)
    num_turns = len(noise) // rows_a_turn
    own_scheduler = pipeline.scheduler
    scheduler = make_sampler(sampler, own_scheduler.config) if isinstance(sampler, str) else sampler
    if on_step:
        remember_clean_estimate(scheduler)

    # Or Hunyuan-DiT's pipeline would change the size to one of its list, and the noise would not fit.
    own_arguments = {"use_resolution_binning": False} if is_hunyuan(pipeline) else {}
    _, _, height, width = noise.shape

    def take_turn(turn: int) -> Tensor:
        rows = slice(turn * rows_a_turn, (turn + 1) * rows_a_turn)

        def after_step(pipe: Any, index: int, timestep: Any, tensors: dict) -> dict:
            if on_step:
                steps = pipe.num_timesteps
                on_step(turn * steps + index + 1, num_turns * steps, scheduler.clean_estimate)
            return {}

        return pipeline(
            **{name: value[rows] for name, value in embeddings.items()},
            latents=noise[rows].to(pipeline._execution_device, pipeline.dtype),
            height=height * pipeline.vae_scale_factor,
            width=width * pipeline.vae_scale_factor,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds[rows]],
            callback_on_step_end=after_step,
            output_type="latent",
            **own_arguments,
        ).images

    try:
        pipeline.scheduler = scheduler
        return torch.cat([take_turn(turn) for turn in range(num_turns)])
    finally:
        pipeline.scheduler = own_scheduler
        pipeline.maybe_free_model_hooks()


@torch.inference_mode()
def decode(pipeline: Any, latents: Tensor) -> list[Image.Image]:
    """Finished latents (B, C, h, w) to RGB pictures.

    Where the VAE's configuration says that it overflows in half precision (SDXL's own does), it decodes in fp32.
    """
    vae = pipeline.vae
    overflows = vae.dtype == torch.float16 and vae.config.force_upcast
    try:
        if overflows:
            vae.float()
        scaled = latents.to(vae.dtype) / vae.config.scaling_factor
        return [
            image
            for part in scaled.split(_DECODED_AT_ONCE)
            for image in pixels_to_images(vae.decode(part, return_dict=False)[0])
        ]
    finally:
        if overflows:
            vae.half()
        pipeline.maybe_free_model_hooks()


def images_to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size to a tensor (B, 3, H, W) in [-1, 1]."""
    arrays = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1


def pixels_to_images(pixels: Tensor) -> list[Image.Image]:
    """A tensor (B, 3, H, W) in [-1, 1] to RGB pictures."""
    arrays = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
