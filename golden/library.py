"""GoldenNoise: golden noise for a diffusers pipeline that stays as it is.

from golden import GoldenNoise

golden = GoldenNoise.for_pipeline(pipe)
image = pipe(prompt, latents=golden(prompt, seed=7)).images[0]
"""

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict, Unpack

import torch
from torch import Tensor

from .arms import mix
from .checks import check_number, check_seed, check_whole
from .errors import InvalidInput, MissingWeights
from .families import find_family
from .hub import same_repo
from .models import MODELS
from .noise import source_noise
from .npnet import NPNETS, NPNet, load_npnet
from .pipelines import encode_anew, latent_shape, network_of
from .request import MAX_STRENGTH
from .sizes import predict_golden


class NoiseOptions(TypedDict, total=False):
    """What `start_image` passes on to the noise."""

    golden_strength: float
    prompt_embeds: Tensor | None


class GoldenNoise:
    """Makes latents for one pipeline: call it with what the pipeline is called with, and hand it the answer.

    `npnet` is the network; it follows the pipeline from device to device and computes in fp32 whatever the pipeline
    does.
    """

    def __init__(self, pipeline: Any, npnet: NPNet) -> None:
        """Raises: InvalidInput if the pipeline is of another family, or its prompts or latents do not fit the NPNet."""
        family = find_family(pipeline)
        channels, width = latent_shape(pipeline)[0], family.embedding_dim(pipeline)
        config = npnet.config
        if (config.channels, config.embedding_dim) != (channels, width):
            raise InvalidInput(
                f"This NPNet is for latents of {config.channels} channels and prompt embeddings of width "
                f"{config.embedding_dim}, the pipeline has {channels} and {width}: give npnet=, a file or one of "
                f"{', '.join(NPNETS)}."
            )
        self.pipeline = pipeline
        self.npnet = npnet

    @classmethod
    def for_pipeline(cls, pipeline: Any, npnet: str | Path | NPNet | None = None) -> "GoldenNoise":
        """Golden noise for a pipeline of one of FAMILIES: ControlNet, img2img and inpainting included.

        `npnet` is a weight file, a name of NPNETS, or a network. Without it the model's own is found: by what the
        pipeline was loaded from, then by the width of its prompt embeddings and the size of its latents.

        Raises: InvalidInput for other pipelines and networks that do not fit; MissingWeights, listing the names, if no
        NPNet is known for the pipeline, or where its weights cannot be had.
        """
        find_family(pipeline)
        network = npnet if isinstance(npnet, NPNet) else load_npnet(npnet or find_npnet_for(pipeline))
        return cls(pipeline, network)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        seed: SupportsIndex | Iterable[SupportsIndex] = 0,
        *,
        height: int | None = None,
        width: int | None = None,
        strength: float = 1.0,
        prompt_embeds: Tensor | None = None,
    ) -> Tensor:
        """Golden noise (B, C, h, w) on the pipeline's device and in its precision, for its argument `latents`.

        One row for each pair of prompt and seed: one prompt goes with every seed, and one seed with every prompt, so
        that `golden("a cat", seed=[1, 2])` fits `pipe("a cat", num_images_per_prompt=2)`. A row depends on its own
        prompt and seed alone. `height` and `width` in pixels must be those that the pipeline is called with; NPNet sees
        sizes other than its own through windows (golden/sizes.py). `strength` from 0 (the source noise) over 1
        (NPNet's) to 3. `prompt_embeds` (B, T, D) take the place of the prompt, as in the pipeline's call. NPNet reads
        the first 77 tokens; a logged sentence names what of a prompt is beyond.

        The noise has unit variance: pipelines multiply it by their scheduler's `init_noise_sigma` themselves.

        Raises: InvalidInput in one sentence for what is not allowed.
        """
        strength = check_number("strength", strength, 0.0, MAX_STRENGTH)
        embeds, seeds = self._pair(prompt, seed, prompt_embeds)
        shape = latent_shape(self.pipeline, height, width)
        return self._predict(source_noise(seeds, shape), embeds, strength)

    @torch.no_grad()
    def start_image(
        self,
        image: Any,
        prompt: str | Sequence[str] | None = None,
        seed: SupportsIndex | Iterable[SupportsIndex] = 0,
        *,
        strength: float,
        num_inference_steps: int,
        **noise_options: Unpack[NoiseOptions],
    ) -> Tensor:
        """Where an SDXL img2img pipeline starts (B, C, h, w), for its argument `latents`: the image in golden noise.

        `image` (an image, several, or latents), `strength` and `num_inference_steps` must be those that the pipeline
        is called with. Img2img pipelines take `latents` as they are, so that the image is encoded here, and the noise
        added as much of it as the first of their steps expects. NPNet learned from pure noise: expect of it the more,
        the nearer `strength` is to 1. `golden_strength` (0 to 3) and `prompt_embeds` are what a call of this object
        takes as `strength` and `prompt_embeds`.

        Raises: InvalidInput for a pipeline that does not start from an image, or what is not allowed.
        """
        if unknown := set(noise_options) - set(NoiseOptions.__annotations__):
            raise TypeError(f"start_image() got an unexpected keyword argument {min(unknown)!r}")
        pipeline = self.pipeline
        supported = find_family(pipeline).takes_start_image and hasattr(pipeline, "get_timesteps")
        if not supported or "Img2Img" not in type(pipeline).__name__:
            raise InvalidInput(
                f"A start image is for SDXL's img2img pipelines, this is a {type(pipeline).__name__}: "
                "call golden(prompt) for its latents."
            )
        strength = check_number("strength", strength, 0.0, 1.0)
        steps = check_whole("number of steps", num_inference_steps, 1, 1000)
        golden_strength = check_number("golden strength", noise_options.get("golden_strength", 1.0), 0.0, MAX_STRENGTH)
        if int(steps * strength) < 1:
            raise InvalidInput(f"With {steps} steps a strength of {strength:g} leaves none to take: raise either.")
        embeds, seeds = self._pair(prompt, seed, noise_options.get("prompt_embeds"))
        device = pipeline._execution_device
        with _own_scheduler(pipeline) as scheduler:
            scheduler.set_timesteps(steps, device=device)
            timesteps, _ = pipeline.get_timesteps(steps, strength, device)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            try:
                pixels = pipeline.image_processor.preprocess(image)
            except ValueError as error:
                raise InvalidInput(str(error).splitlines()[0]) from error
            if len(pixels) not in (1, len(seeds)):
                raise InvalidInput(f"Images go with prompts and seeds in pairs, got {len(pixels)} and {len(seeds)}.")
            dtype = network_of(pipeline).dtype
            clean = pipeline.prepare_latents(pixels, None, len(seeds), 1, dtype, device, generators, add_noise=False)
            noise = self._predict(source_noise(seeds, clean.shape[1:]), embeds, golden_strength)
            return scheduler.add_noise(clean, noise, timesteps[:1].repeat(len(seeds)))

    def _pair(
        self, prompt: str | Sequence[str] | None, seed: Any, prompt_embeds: Tensor | None
    ) -> tuple[Tensor, list[int]]:
        """Prompt embeddings (B, T, D) and B seeds."""
        if (prompt is None) == (prompt_embeds is None):
            raise InvalidInput("Give either a prompt or prompt_embeds.")
        if prompt_embeds is None:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
            if not prompts or not all(isinstance(text, str) for text in prompts):
                raise InvalidInput("The prompt is a text or a list of texts, one at least.")
            prompt_embeds = find_family(self.pipeline).npnet_embeds(encode_anew(self.pipeline, prompts)).clone()
        elif prompt_embeds.ndim != 3 or prompt_embeds.shape[1] < self.npnet.config.num_tokens:
            raise InvalidInput(
                f"prompt_embeds are of shape (batch, {self.npnet.config.num_tokens} or more tokens, "
                f"{self.npnet.config.embedding_dim}), got {tuple(prompt_embeds.shape)}."
            )
        # Numbers of NumPy and torch look as if they could be iterated over.
        several = isinstance(seed, Iterable) and getattr(seed, "ndim", 1) > 0
        given = list(seed) if several else [seed]
        seeds = [check_seed(value) for value in given]
        rows = max(len(prompt_embeds), len(seeds))
        if not seeds or {len(prompt_embeds), len(seeds)} - {1, rows}:
            raise InvalidInput(
                f"Prompts and seeds go in pairs, or one with all: got {len(prompt_embeds)} and {len(seeds)}."
            )
        return prompt_embeds.expand(rows, -1, -1), seeds * (rows // len(seeds))

    def _predict(self, source: Tensor, prompt_embeds: Tensor, strength: float) -> Tensor:
        device = self.pipeline._execution_device
        self.npnet.to(device)
        source = source.to(device)
        golden = predict_golden(self.npnet, source, prompt_embeds.to(device))
        mixed = golden if strength == 1 else mix(source, golden, strength)  # mixing would round NPNet's own answer
        return mixed.to(network_of(self.pipeline).dtype)


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
