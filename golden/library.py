"""GoldenNoise: golden noise for a diffusers pipeline that stays as it is.

from golden import GoldenNoise

golden = GoldenNoise.for_pipeline(pipe)
image = pipe(prompt, latents=golden(prompt, seed=7)).images[0]
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict, Unpack, get_type_hints

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .arms import mix
from .checks import check_number, check_seed, check_whole, shown
from .errors import InvalidInput, MissingWeights
from .families import find_family
from .hub import same_repo
from .models import MODELS
from .noise import source_noise
from .npnet import NPNETS, NPNet, NPNetConfig, PublishedNPNet, load_npnet
from .pipelines import encode_anew, latent_shape, network_of
from .request import MAX_STRENGTH
from .sizes import predict_golden

MAX_ROWS = 1024  # images per prompt

Generators = torch.Generator | list[torch.Generator]
Seeds = SupportsIndex | Iterable[SupportsIndex]


class RowOptions(TypedDict, total=False):
    """Rarer arguments of `__call__` and `start_image`, as in the pipeline's own call."""

    prompt_embeds: Tensor | None
    """(B, T, D), in the place of the prompt."""
    num_images_per_prompt: int
    """Rows for each prompt, one after the other."""


class NoiseOptions(RowOptions, total=False):
    """Rarer arguments of `__call__`."""

    height: int | None
    width: int | None
    """Of the images, in pixels; None for the native size, or that of `latents`."""


class StartOptions(RowOptions, total=False):
    """Rarer arguments of `start_image`."""

    generator: Generators | None
    golden_strength: float
    """From 0 (the source noise) over 1 (NPNet's) to 3."""


class GoldenNoise:
    """Makes latents for one pipeline: call it with what the pipeline is called with, and hand it the answer.

    `npnet` is the network; it follows the pipeline from device to device and computes in fp32 whatever the pipeline
    does.
    """

    def __init__(self, pipeline: Any, npnet: NPNet) -> None:
        """Raises: InvalidInput if the pipeline is of another family, or its prompts or latents do not fit the NPNet."""
        _check_fit(pipeline, npnet.config)
        self.pipeline = pipeline
        self.npnet = npnet

    @classmethod
    def for_pipeline(cls, pipeline: Any, npnet: str | Path | NPNet | None = None) -> "GoldenNoise":
        """Golden noise for a pipeline of one of FAMILIES: ControlNet, img2img and inpainting included.

        `npnet` is a weight file, a name of NPNETS, or a network. Without it the model's own is found: by what the
        pipeline was loaded from, then by the width of its prompt embeddings and the size of its latents.

        Raises: InvalidInput for other pipelines and networks that do not fit, before anything is downloaded;
        MissingWeights, listing the names, if no NPNet is known for the pipeline, or where its weights cannot be had.
        """
        find_family(pipeline)
        if isinstance(npnet, NPNet):
            return cls(pipeline, npnet)
        if str(npnet) in NPNETS and not Path(str(npnet)).is_file():
            _check_fit(pipeline, NPNETS[str(npnet)])
        return cls(pipeline, load_npnet(npnet or find_npnet_for(pipeline)))

    def to(self, *arguments: Any, **options: Any) -> "GoldenNoise":
        """Move the pipeline, with the arguments of its own `to`, and NPNet to its device. Returns itself."""
        self.pipeline.to(*arguments, **options)
        self.npnet.to(self.pipeline._execution_device)
        return self

    def __repr__(self) -> str:
        config = self.npnet.config
        weights = list(self.npnet.parameters())
        return (
            f"GoldenNoise({type(self.pipeline).__name__} on {self.pipeline._execution_device}; NPNet for latents of "
            f"{config.channels} x {config.height} x {config.width} and prompt embeddings of {config.num_tokens} x "
            f"{config.embedding_dim}, {' + '.join(self.npnet.branch_modules)}, "
            f"{sum(weight.numel() for weight in weights) / 1e6:.1f} M parameters)"
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        seed: Seeds | None = None,
        *,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        strength: float = 1.0,
        **options: Unpack[NoiseOptions],
    ) -> Tensor:
        """Golden noise (B, C, h, w) on the pipeline's device and in its precision, for its argument `latents`.

        Pipelines of FLUX.1 and Qwen-Image take packed latents, (B, h w / 4, 4 C), and get them.

        The source noise comes from one of three:
        - `seed` (0 if none of the three is given). One row for each pair of prompt and seed: one prompt goes with every
          seed, and one seed with every prompt, so that `golden("a cat", seed=[1, 2])` fits
          `pipe("a cat", num_images_per_prompt=2)`. A row depends on its own prompt and seed alone.
        - `generator`, or a list of one per row: the noise that the pipeline would draw with it, to the bit.
        - `latents` (B, C, h, w) of unit variance, never packed.

        `strength` from 0 (the source noise) over 1 (NPNet's) to 3. `height` and `width` in pixels must be those that
        the pipeline is called with; NPNet sees sizes other than its own through windows (golden/sizes.py).
        `prompt_embeds` (B, T, D) take the place of the prompt, as in the pipeline's call. With `num_images_per_prompt`
        n, each prompt has n rows; of a single seed, the rows of each prompt count on from it. NPNet reads the first 77
        tokens; a logged sentence names what of a prompt is beyond.

        The noise has unit variance: pipelines multiply it by their scheduler's `init_noise_sigma` themselves.

        Raises: InvalidInput in one sentence for what is not allowed.
        """
        _refuse_unknown("GoldenNoise", options, NoiseOptions)
        if _starts_from_image(self.pipeline):
            raise InvalidInput(
                f"A {type(self.pipeline).__name__} starts from an image, which latents of noise alone would replace: "
                "call start_image(image, prompt, strength=..., num_inference_steps=...) for its latents."
            )
        strength = check_number("strength", strength, 0.0, MAX_STRENGTH)
        if sum(source is not None for source in (seed, generator, latents)) > 1:
            raise InvalidInput("Give one of seed, generator and latents: each defines the source noise.")
        shape = latent_shape(self.pipeline, options.get("height"), options.get("width"))
        if latents is not None:
            _check_latents(latents, shape, sized=bool(options.get("height") or options.get("width")))
            source, (embeds, _) = latents, self._pair(prompt, None, options, len(latents))
        else:
            embeds, seeds = self._pair(prompt, seed, options)
            if generator is None:
                source = source_noise(seeds, shape)
            else:
                source = self._draw((len(embeds), *shape), generator, embeds.dtype)
        return find_family(self.pipeline).pack(self.pipeline, self._predict(source, embeds, strength))

    @torch.no_grad()
    def start_image(
        self,
        image: Any,
        prompt: str | Sequence[str] | None = None,
        seed: Seeds | None = None,
        *,
        strength: float,
        num_inference_steps: int,
        **options: Unpack[StartOptions],
    ) -> Tensor:
        """Where an SDXL img2img pipeline starts (B, C, h, w), for its argument `latents`: the image in golden noise.

        `image` (an image, several, or latents), `strength` and `num_inference_steps` must be those that the pipeline
        is called with. Img2img pipelines take `latents` as they are, so that the image is encoded here, and the noise
        added as much of it as the first of their steps expects. NPNet learned from pure noise: expect of it the more,
        the nearer `strength` is to 1. `golden_strength` (0 to 3), `generator`, `prompt_embeds` and
        `num_images_per_prompt` are what a call of this object takes as `strength`, `generator` and so on. With a
        `golden_strength` of 0 this is where the pipeline itself starts with that generator, or with
        `torch.Generator().manual_seed(seed)`, to the bit; hand the same generator to the pipeline if its sampler draws
        noise.

        Raises: InvalidInput for a pipeline that does not start from an image, or what is not allowed.
        """
        _refuse_unknown("start_image", options, StartOptions)
        pipeline = self.pipeline
        if not (find_family(pipeline).takes_start_image and _starts_from_image(pipeline)):
            raise InvalidInput(
                f"A start image is for SDXL's img2img pipelines, this is a {type(pipeline).__name__}: "
                "call golden(prompt) for its latents."
            )
        strength = check_number("strength", strength, 0.0, 1.0)
        steps = check_whole("number of steps", num_inference_steps, 1, 1000)
        golden_strength = check_number("golden strength", options.get("golden_strength", 1.0), 0.0, MAX_STRENGTH)
        if int(steps * strength) < 1:
            raise InvalidInput(f"With {steps} steps a strength of {strength:g} leaves none to take: raise either.")
        generator = options.get("generator")
        if generator is not None and seed is not None:
            raise InvalidInput("Give either seed or generator: each defines the source noise.")
        embeds, seeds = self._pair(prompt, seed, options)
        generator = [torch.Generator().manual_seed(seed) for seed in seeds] if generator is None else generator
        device = pipeline._execution_device
        with _own_scheduler(pipeline) as scheduler:
            scheduler.set_timesteps(steps, device=device)
            timesteps, _ = pipeline.get_timesteps(steps, strength, device)
            try:
                pixels = pipeline.image_processor.preprocess(image)
            except ValueError as error:
                raise InvalidInput(str(error).splitlines()[0]) from error
            if len(pixels) not in (1, len(embeds)):
                raise InvalidInput(f"Images go with prompts and seeds in pairs, got {len(pixels)} and {len(embeds)}.")
            _check_generators(generator, len(embeds))
            # The encoder draws first and the noise after it, as in the pipeline.
            clean = pipeline.prepare_latents(
                pixels, None, len(embeds), 1, embeds.dtype, device, generator, add_noise=False
            )
            noise = self._predict(self._draw(clean.shape, generator, embeds.dtype), embeds, golden_strength)
            return scheduler.add_noise(clean, noise, timesteps[:1].repeat(len(embeds)))

    def _pair(
        self, prompt: str | Sequence[str] | None, seed: Any, options: RowOptions, num_latents: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """Prompt embeddings (B, T, D) and B seeds. `num_latents` rows of source noise take the place of seeds."""
        if (prompt is None) == ((prompt_embeds := options.get("prompt_embeds")) is None):
            raise InvalidInput("Give either a prompt or prompt_embeds.")
        if prompt_embeds is None:
            prompt_embeds = self._encode(prompt)
        elif prompt_embeds.ndim != 3 or prompt_embeds.shape[1] < self.npnet.config.num_tokens:
            raise InvalidInput(
                f"prompt_embeds are of shape (batch, {self.npnet.config.num_tokens} or more tokens, "
                f"{self.npnet.config.embedding_dim}), got {tuple(prompt_embeds.shape)}."
            )
        each = check_whole("number of images per prompt", options.get("num_images_per_prompt", 1), 1, MAX_ROWS)
        num_prompts = len(prompt_embeds)
        prompt_embeds = prompt_embeds.repeat_interleave(each, 0)  # as the pipelines order their rows
        if num_latents is not None:
            if len(prompt_embeds) not in (1, num_latents):
                raise InvalidInput(f"Prompts and latents go in pairs, got {len(prompt_embeds)} and {num_latents}.")
            return prompt_embeds.expand(num_latents, -1, -1), []
        seeds = _check_seeds(seed)
        if each > 1 and len(seeds) == 1:
            seeds = [check_seed(seeds[0] + image) for image in range(each)]
        if each > 1 and len(seeds) == each:
            seeds = seeds * num_prompts
        rows = max(len(prompt_embeds), len(seeds))
        if not seeds or {len(prompt_embeds), len(seeds)} - {1, rows}:
            got = f"{num_prompts} x {each} images and {len(seeds)} seeds"
            raise InvalidInput(f"Prompts and seeds go in pairs, or one with all: got {got}.")
        return prompt_embeds.expand(rows, -1, -1), seeds * (rows // len(seeds))

    def _encode(self, prompt: Any) -> Tensor:
        """The prompt embeddings (B, T, D) that NPNet reads. Raises: InvalidInput for no text, or no text encoder."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        if not prompts or not all(isinstance(text, str) for text in prompts):
            raise InvalidInput("The prompt is a text or a list of texts, one at least.")
        family = find_family(self.pipeline)
        for name in family.text_encoders:
            if getattr(self.pipeline, name, None) is None:
                raise InvalidInput(f"The pipeline was loaded without its {name}: give prompt_embeds for the prompt.")
        return family.npnet_embeds(encode_anew(self.pipeline, prompts)).clone()

    def _draw(self, shape: Sequence[int], generator: Any, dtype: torch.dtype) -> Tensor:
        """The noise that the pipeline would draw. Raises: InvalidInput for generators that do not fit."""
        _check_generators(generator, shape[0])
        dtype = torch.float32 if find_family(self.pipeline).latents_in_fp32 else dtype
        try:
            return randn_tensor(tuple(shape), generator, self.pipeline._execution_device, dtype)
        except ValueError as error:  # a generator of another device
            raise InvalidInput(str(error).splitlines()[0]) from error

    def _predict(self, source: Tensor, prompt_embeds: Tensor, strength: float) -> Tensor:
        device = self.pipeline._execution_device
        dtype = torch.float32 if find_family(self.pipeline).latents_in_fp32 else network_of(self.pipeline).dtype
        self.npnet.to(device)
        source = source.to(device)
        if strength == 0:
            return source.to(dtype, copy=True)
        golden = predict_golden(self.npnet, source, prompt_embeds.to(device))
        mixed = golden if strength == 1 else mix(source, golden, strength)  # mixing would round NPNet's own answer
        return mixed.to(dtype)


def _check_fit(pipeline: Any, sizes: NPNetConfig | PublishedNPNet) -> None:
    """Raises: InvalidInput if an NPNet of these sizes does not fit the pipeline's latents and prompts."""
    channels, width = latent_shape(pipeline)[0], find_family(pipeline).embedding_dim(pipeline)
    if (sizes.channels, sizes.embedding_dim) != (channels, width):
        raise InvalidInput(
            f"This NPNet is for latents of {sizes.channels} channels and prompt embeddings of width "
            f"{sizes.embedding_dim}, the pipeline has {channels} and {width}: give npnet=, a file or one of "
            f"{', '.join(NPNETS)}."
        )


def _starts_from_image(pipeline: Any) -> bool:
    """Whether a pipeline takes `latents` as an image in noise: img2img, which has no use for noise alone."""
    return hasattr(pipeline, "get_timesteps") and "Img2Img" in type(pipeline).__name__


def _refuse_unknown(function: str, options: Mapping[str, Any], allowed: Any) -> None:
    if unknown := set(options) - set(get_type_hints(allowed)):
        raise TypeError(f"{function}() got an unexpected keyword argument {min(unknown)!r}")


def _check_seeds(seed: Any) -> list[int]:
    # Numbers of NumPy and torch look as if they could be iterated over.
    several = isinstance(seed, Iterable) and getattr(seed, "ndim", 1) > 0
    given = list(seed) if several else [0 if seed is None else seed]
    return [check_seed(value) for value in given]


def _check_generators(generator: Any, rows: int) -> None:
    several = isinstance(generator, list)
    if not all(isinstance(each, torch.Generator) for each in (generator if several else [generator])):
        raise InvalidInput(f"generator is a torch.Generator or a list of one per row, got {shown(generator)}.")
    if several and len(generator) != rows:
        raise InvalidInput(f"Give one generator, or one for each of {rows} rows: got {len(generator)}.")


def _check_latents(latents: Any, shape: tuple[int, int, int], sized: bool) -> None:
    """Raises: InvalidInput for what is no batch of noise of `shape`; only if `sized` height and width must agree."""
    noise = isinstance(latents, Tensor) and latents.ndim == 4 and latents.is_floating_point() and len(latents) > 0
    if not noise or latents.shape[1] != shape[0] or (sized and tuple(latents.shape[2:]) != shape[1:]):
        got = f"{latents.dtype} of shape {tuple(latents.shape)}" if isinstance(latents, Tensor) else shown(latents)
        sides = " x ".join(map(str, shape[1:])) if sized else "height x width"
        raise InvalidInput(f"latents are noise of shape batch x {shape[0]} x {sides}, got {got}.")


@contextmanager
def _own_scheduler(pipeline: Any) -> Iterator[Any]:
    """Give a pipeline a copy of its scheduler for the time being, so that its own is left as it was."""
    own = pipeline.scheduler
    try:
        pipeline.scheduler = copy.deepcopy(own)
        yield pipeline.scheduler
    finally:
        pipeline.scheduler = own


# --- which NPNet belongs to a pipeline --------------------------------------------------------------------------------


def find_npnet_for(pipeline: Any) -> str | Path:
    """A weight file or a name of NPNETS for a pipeline: by where it was loaded from, then by its sizes.

    A folder may hold its own, as `npnet.safetensors`.

    Raises: MissingWeights listing the names if none is known.
    """
    for source in _sources_of(pipeline):
        own = Path(source) / "npnet.safetensors"
        if own.is_file():
            return own
        for spec in MODELS.values():
            if spec.npnet and not spec.parts.unet and not spec.parts.loras and _same_place(spec.repo, source):
                return spec.npnet
    family = find_family(pipeline)
    channels, height, width = latent_shape(pipeline)
    for name in family.npnets:
        published = NPNETS[name]
        sizes = (published.channels, published.embedding_dim, published.latent_size)
        if sizes == (channels, family.embedding_dim(pipeline), height) and height == width:
            return name
    raise MissingWeights(
        f"No NPNet is known for this pipeline (latents {channels} x {height} x {width}, prompt embeddings of width "
        f"{family.embedding_dim(pipeline)}): give npnet=, a file or one of {', '.join(NPNETS)}."
    )


def _sources_of(pipeline: Any) -> list[str]:
    """Where a pipeline and its network were loaded from: folders or hub ids, as far as diffusers remembers."""
    remembered = [part.config.get("_name_or_path") for part in (pipeline, network_of(pipeline))]
    sources = []
    for place in filter(None, remembered):
        place = re.sub(r"[\\/](unet|transformer)$", "", str(place))
        sources.append(place)
        # The hub's cache names the folders of a repository models--OWNER--NAME/snapshots/COMMIT.
        if cached := re.search(r"models--([^\\/]+?)--([^\\/]+)[\\/]snapshots", place):
            sources.append(f"{cached[1]}/{cached[2]}")
    return sources


def _same_place(repo: str, source: str) -> bool:
    return same_repo(repo, source) or (Path(repo).is_dir() and Path(source).is_dir() and Path(repo).samefile(source))
