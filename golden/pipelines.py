"""Load a diffusers pipeline for a model; encode prompts, denoise a batch, decode.

The pipeline itself stays unchanged: golden noise enters as the `latents` argument that every diffusers pipeline has.
"""

import inspect
import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import diffusers
import numpy as np
import torch
import transformers
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from .errors import BadWeights, GoldenError, InvalidInput, MissingWeights
from .families import Embeddings, find_family
from .files import load_weights
from .hub import fetch_file, find_file
from .models import ModelSpec, Sampling
from .samplers import make_sampler, remember_clean_estimate

logger = logging.getLogger("golden")


class HasPipeline(Protocol):
    """A loaded model, as far as sampling needs one: see golden.model.Model."""

    pipeline: Any


OnStep = Callable[[int, int, Tensor], None]
"""(steps done, steps in all, x0 estimate) after every step; may raise to stop the run."""

_CACHED_PROMPTS = 64  # of SDXL 40 MB in half precision
_ENCODED_AT_ONCE = 64
_DECODED_AT_ONCE = 8  # more are slower on a CPU, whose cache they leave, and no faster on a GPU

MEMORY_MODES = ("auto", "high", "low")
_PAIR_BYTES_PER_CELL = 2**19  # what a pair takes beside the weights, for each cell of its latents: 8 GiB at 128 x 128
_TILE = 64  # cells of latents, along a side, that the VAE decodes at once where memory is low

# --- loading ----------------------------------------------------------------------------------------------------------


def load_pipeline(spec: ModelSpec, device: str = "cpu", dtype: torch.dtype | None = None, memory: str = "high") -> Any:
    """Load a model's diffusers pipeline; half precision on a GPU and fp32 on the CPU by default.

    `memory` is one of MEMORY_MODES: "high" puts everything on the device at once; "low" is for cards of 8 to 12 GB
    (`spare_memory`); "auto" is high if everything fits into free memory, and logs its choice.

    Raises: MissingWeights if it is neither on this machine nor can be fetched; BadWeights if it is damaged;
    InvalidInput for an unknown memory mode.
    """
    if memory not in MEMORY_MODES:
        raise InvalidInput(f"Unknown memory mode {memory!r}: choose one of {', '.join(MEMORY_MODES)}.")
    half = getattr(torch, spec.family.half_precision)
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else half)
    pipeline_class = getattr(diffusers, spec.pipeline)
    where = {"revision": spec.revision, "variant": spec.variant, "use_safetensors": True}
    parts = spec.family.load_arguments() | _parts_left_out(spec)
    with _explain(f"The model {spec.name!r}", spec.repo):
        if spec.parts.unet:
            parts["unet"] = _load_unet(spec, spec.parts.unet, dtype)
        if spec.parts.controlnet:
            parts["controlnet"] = _load_controlnet(spec.parts.controlnet, dtype)
        if not Path(spec.repo).exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # diffusers passes deprecated arguments to the hub's client
                pipeline_class.download(spec.repo, **where, **parts)  # gigabytes: its progress is shown
        with _quiet():
            pipeline = pipeline_class.from_pretrained(spec.repo, dtype=dtype, **where, **parts)
            if spec.parts.timestep_spacing:
                spacing = {"timestep_spacing": spec.parts.timestep_spacing}
                pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **spacing)
            for lora in spec.parts.loras:
                _fuse_lora(pipeline, lora)
            pipeline.set_progress_bar_config(disable=True)
    if memory == "auto":
        memory = choose_memory(device, needed_memory(pipeline))
    return spare_memory(pipeline, device) if memory == "low" else pipeline.to(device)


def _parts_left_out(spec: ModelSpec) -> dict[str, None]:
    """None for each optional part that a local folder does without."""
    index = Path(spec.repo) / "model_index.json"
    if not spec.family.optional_parts or not index.is_file():
        return {}
    listed = json.loads(index.read_text())
    return {name: None for name in spec.family.optional_parts if not (listed.get(name) or [None])[0]}


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
    with _quiet(), _explain("The ControlNet", controlnet), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for the whole pipeline
        return diffusers.ControlNetModel.from_pretrained(controlnet, dtype=dtype, use_safetensors=True)


@contextmanager
def _explain(what: str, repo: str) -> Iterator[None]:
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

    The VAE decodes one image at a time, in tiles. Where they meet they are blended; a tile's contrast is normalised
    by itself, so that an image of more than one tile (above 512 x 512) differs slightly from one decoded whole.
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


def network_of(pipeline: Any) -> Any:
    """The network that denoises: SDXL's UNet or Hunyuan-DiT's transformer."""
    return find_family(pipeline).network(pipeline)


def latent_shape(pipeline: Any, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of an image of height x width pixels; by default the native size.

    Raises: InvalidInput for a size that is not a multiple of the model's smallest step (8 pixels; 16 for DiT).
    """
    return find_family(pipeline).latent_shape(pipeline, height, width)


def find_cut(pipeline: Any, prompt: str) -> str:
    """The end of a prompt that is beyond what the text encoders (and NPNet) read, "" if they read all of it.

    SDXL reads 77 tokens, two of which mark start and end. Of Hunyuan-DiT's two encoders the first, which NPNet reads,
    takes as many, and the second 256.
    """
    return find_family(pipeline).find_cut(pipeline, prompt)


def warn_of_cut(pipeline: Any, prompts: Sequence[str]) -> None:
    """Log a sentence for each prompt that is longer than the model reads."""
    family = find_family(pipeline)
    for prompt in prompts:
        if cut := family.find_cut(pipeline, prompt):
            logger.warning(
                "The prompt is longer than the %d tokens that the model reads: %r is cut.",
                family.num_read(pipeline),
                cut,
            )


def encode_prompts(pipeline: Any, prompts: Sequence[str]) -> Embeddings:
    """The embeddings of prompts (at least one), the last 64 of which are kept with the pipeline; one row per prompt.

    The keys are keyword arguments of the pipeline's call. A prompt is cut after the tokens that the model reads, and a
    logged sentence names what is cut.
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
    """`encode_prompts` in one batch and without its cache, for a pipeline whose text encoders may have changed."""
    warn_of_cut(pipeline, prompts)
    # Not inference_mode: what it makes cannot take part in a loss, and NPNet is trained through the sampler, too.
    with _quiet(), torch.no_grad():  # quiet, since diffusers would repeat the warning at greater length
        encoded = find_family(pipeline).encode(pipeline, list(prompts))
    pipeline.maybe_free_model_hooks()
    return encoded


# --- from noise to images ---------------------------------------------------------------------------------------------


def add_control(pipeline: Any, embeddings: Embeddings, image: Image.Image, shape: tuple[int, int, int]) -> Embeddings:
    """The embeddings with a control image in every row, at the size of images whose latents have `shape`."""
    height, width = (side * find_family(pipeline).cell_size(pipeline) for side in shape[1:])
    pixels = images_to_pixels([image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)]) / 2 + 0.5
    return embeddings | {"image": pixels.repeat(len(embeddings["prompt_embeds"]), 1, 1, 1)}


def repeat_embeddings(embeddings: Embeddings, times: int) -> Embeddings:
    """The rows of `embeddings`, `times` times one after the other."""
    return {name: torch.cat([value] * times) for name, value in embeddings.items()}


def sample_images(
    model: HasPipeline,
    noise: Float[Tensor, "batch channels height width"],
    embeddings: Embeddings,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """Images from noise, one per row: the tail that app, benchmark, pair collection and library share.

    Arguments as for `denoise`.
    """
    return decode(model.pipeline, denoise(model.pipeline, noise, embeddings, seeds, sampling, on_step=on_step))


def denoise(
    pipeline: Any,
    noise: Float[Tensor, "batch channels height width"],
    embeddings: Embeddings,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    on_step: OnStep | None = None,
    grad: bool = False,
) -> Float[Tensor, "batch channels height width"]:
    """Run the pipeline from noise to finished latents.

    `seeds` (one per row) seed the step noise of ancestral samplers, so that rows with equal seeds get equal step noise.
    If memory is low (`is_spared`) the rows are denoised one after the other, and `on_step` counts the steps of all and
    receives the estimate of the current row. With `grad`, gradients flow from the latents to the noise. Not safe to
    call twice at a time on one pipeline.
    """
    rows_per_turn = 1 if is_spared(pipeline) else len(noise)
    num_turns = len(noise) // rows_per_turn
    own_scheduler, family = pipeline.scheduler, find_family(pipeline)
    scheduler = _find_scheduler(pipeline, sampling.sampler)
    if on_step:
        remember_clean_estimate(scheduler)
    # Pipelines switch gradients off in a decorator of their call.
    call = inspect.unwrap(type(pipeline).__call__) if grad else type(pipeline).__call__
    _, _, height, width = noise.shape
    dtype, scale = torch.float32 if family.latents_in_fp32 else pipeline.dtype, sampling.guidance_scale

    def take_turn(turn: int) -> Tensor:
        rows = slice(turn * rows_per_turn, (turn + 1) * rows_per_turn)
        steps_taken = count(1)

        def after_step() -> None:
            if on_step:
                steps = len(scheduler.timesteps)
                clean = family.unpack(pipeline, scheduler.clean_estimate, height, width)
                on_step(turn * steps + next(steps_taken), num_turns * steps, clean)

        scheduler.after_step = after_step
        latents = call(
            pipeline,
            **family.embedding_arguments({name: value[rows] for name, value in embeddings.items()}, scale),
            latents=family.pack(pipeline, noise[rows].to(pipeline._execution_device, dtype)),
            height=height * family.cell_size(pipeline),
            width=width * family.cell_size(pipeline),
            num_inference_steps=sampling.num_inference_steps,
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds[rows]],
            output_type="latent",
            **family.guidance_arguments(scale) | family.call_arguments(),
        ).images
        return family.read_output(pipeline, latents, height, width)

    try:
        pipeline.scheduler = scheduler
        with torch.set_grad_enabled(grad), torch.inference_mode(not grad):
            return torch.cat([take_turn(turn) for turn in range(num_turns)])
    finally:
        scheduler.after_step = None
        pipeline.scheduler = own_scheduler
        pipeline.maybe_free_model_hooks()


def _find_scheduler(pipeline: Any, sampler: Any) -> Any:
    """A fresh scheduler by its name in SAMPLERS, or the one that is given."""
    if not isinstance(sampler, str):
        return sampler
    return make_sampler(sampler, pipeline.scheduler.config, find_family(pipeline).samplers)


@torch.no_grad()
def encode_images(pipeline: Any, images: Sequence[Image.Image]) -> Float[Tensor, "batch channels height width"]:
    """RGB images of one size to finished latents, as `decode` reads them."""
    pixels = images_to_pixels(images).to(pipeline._execution_device, pipeline.vae.dtype)
    return find_family(pipeline).encode_pixels(pipeline, pixels)


@torch.inference_mode()
def decode(pipeline: Any, latents: Float[Tensor, "batch channels height width"]) -> list[Image.Image]:
    """Finished latents to RGB images."""
    with _decoder(pipeline):
        parts = [_decode(pipeline, part) for part in latents.split(_DECODED_AT_ONCE)]
    return [image for part in parts for image in pixels_to_images(part)]


def decode_pixels(
    pipeline: Any, latents: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch 3 image_height image_width"]:
    """Finished latents to pixels, in [-1, 1] but for small overshoots; gradients flow if they are enabled."""
    with _decoder(pipeline):
        return _decode(pipeline, latents)


def _decode(pipeline: Any, latents: Tensor) -> Tensor:
    return find_family(pipeline).decode(pipeline, latents.to(pipeline.vae.dtype))


@contextmanager
def _decoder(pipeline: Any) -> Iterator[None]:
    """A VAE whose configuration says that it overflows in half precision (SDXL's own does) decodes in fp32."""
    vae = pipeline.vae
    overflows = vae.dtype == torch.float16 and vae.config.get("force_upcast", False)
    try:
        if overflows:
            vae.float()
        yield
    finally:
        if overflows and not torch.is_grad_enabled():  # a backward pass still needs the fp32 weights
            vae.half()
        pipeline.maybe_free_model_hooks()


def images_to_pixels(images: Sequence[Image.Image]) -> Float[Tensor, "batch 3 height width"]:
    """RGB images of one size to pixels in [-1, 1]."""
    arrays = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1


def pixels_to_images(pixels: Float[Tensor, "batch 3 height width"]) -> list[Image.Image]:
    """Pixels in [-1, 1] to RGB images."""
    arrays = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
