"""From prompts and seeds to rows: every variant of a batch starts from the same source noises and is measured alike."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from eval.prompt_sets import Prompt
from golden.arms import Conditions, find_arm, mix
from golden.compare import CompareRequest, Model, validate
from golden.errors import GoldenError
from golden.judges import JudgeSet
from golden.judges.base import ClipJudge
from golden.models import ModelSpec
from golden.noise import noise_health, source_noise
from golden.npnet import NPNet
from golden.pipelines import Embeddings, add_control, decode, denoise, encode_prompts, latent_shape
from golden.samplers import make_sampler
from golden.shapes import check_image

THUMBNAIL = 128
_SEEN_AT_ONCE = 64


@dataclass(frozen=True)
class Variant:
    """One column of a table: an arm and the settings under which it is rendered.

    `baseline` names the variant that it is compared with; `npnet` a network of the run other than the model's own;
    `unet` is another UNet for the model (see `ModelSpec`).
    """

    name: str
    arm: str
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    strength: float = 1.0
    baseline: str = "standard"
    npnet: str | None = None
    unet: str | None = None

    @property
    def sampling(self) -> "Sampling":
        """What rows must share to be denoised in one batch."""
        return Sampling(self.sampler, self.num_inference_steps, self.guidance_scale, self.unet)


class Sampling(NamedTuple):
    """How noise becomes a picture."""

    sampler: str
    num_inference_steps: int
    guidance_scale: float
    unet: str | None

    def __str__(self) -> str:
        parts = (self.sampler, self.num_inference_steps, f"{self.guidance_scale:g}", self.unet)
        return " ".join(str(part) for part in parts if part)


def check_variant(variant: Variant, spec: ModelSpec, prompt: str) -> Variant:
    """The variant with exact types, by the validator that the app uses. Raises: InvalidInput in one sentence."""
    request = validate(
        CompareRequest(
            prompt,
            0,
            variant.num_inference_steps,
            variant.guidance_scale,
            variant.sampler,
            variant.strength,
            (variant.arm,),
        ),
        spec,
    )
    return replace(
        variant,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        strength=request.strength,
    )


@dataclass(frozen=True)
class Unit:
    """One source noise: a prompt and a seed."""

    prompt_index: int
    prompt: Prompt
    seed: int


def plan_batches(
    prompts: Sequence[Prompt], seeds: Sequence[int], variants: Sequence[Variant], batch_size: int
) -> list[list[Unit]]:
    """The units of each batch, so that a denoise call has about `batch_size` rows.

    Seed by seed, not prompt by prompt: neighbours in a batch have different prompts, which the control that swaps
    prompts relies on, and a run that is stopped early has seen every prompt.
    """
    units = [Unit(index, prompt, seed) for seed in seeds for index, prompt in enumerate(prompts)]
    rows_per_unit = max(len(group) for group in group_by_sampling(variants).values())
    size = max(1, batch_size // rows_per_unit)
    return [units[start : start + size] for start in range(0, len(units), size)]


def group_by_sampling(variants: Sequence[Variant]) -> dict[Sampling, list[Variant]]:
    """Variants that can be denoised together, in order of first appearance."""
    groups: dict[Sampling, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(variant.sampling, []).append(variant)
    return groups


@dataclass
class Timings:
    """Seconds of one batch: of each arm's noise, of each group's denoising, of decoding and of measuring."""

    noise: dict[str, float] = field(default_factory=dict)
    denoise: dict[str, float] = field(default_factory=dict)
    decode: float = 0.0
    measure: float = 0.0


class Renderer:
    """A loaded model and what variants and rows may ask for beside it.

    `npnets` and `unets` are those that variants name; `judges` score; `eyes` is a CLIP model whose embeddings of the
    pictures are kept (`features`), to tell how far pictures are from each other; `bf16` renders in half precision;
    `control` is the picture that a ControlNet is shown with every prompt.
    """

    def __init__(
        self,
        model: Model,
        npnets: Mapping[str, NPNet] | None = None,
        judges: JudgeSet | None = None,
        bf16: bool = False,
        eyes: ClipJudge | None = None,
        unets: Mapping[str, Any] | None = None,
        control: Image.Image | None = None,
    ) -> None:
        self.model = model
        self.npnets = dict(npnets or {})
        self.unets = dict(unets or {})
        self.judges = judges
        self.eyes = eyes
        self.bf16 = bf16
        self.control = control

    def encode(self, prompts: Sequence[str]) -> Embeddings:
        """What the pipeline is told to paint, one row per prompt."""
        pipeline = self.model.pipeline
        embeddings = encode_prompts(pipeline, prompts)
        if self.control is None:
            return embeddings
        return add_control(pipeline, embeddings, self.control, latent_shape(pipeline))

    def check(self, variants: Sequence[Variant], prompt: Prompt) -> None:
        """Make every sampler and one noise of every arm: what is missing is said before the first picture."""
        for variant in variants:
            sampler = make_sampler(variant.sampler, self.model.pipeline.scheduler.config)
            sampler.set_timesteps(variant.num_inference_steps)
        ready = [variant for variant in variants if variant.npnet is None or variant.npnet in self.npnets]
        self.make_noises(ready, [Unit(0, prompt, 0)], Timings())

    def make_noises(self, variants: Sequence[Variant], units: Sequence[Unit], timings: Timings) -> dict[str, Tensor]:
        """By variant, its noises (len(units), C, h, w). Variants of one arm and network share the work."""
        model, seeds = self.model, [unit.seed for unit in units]
        embeddings = self.encode([unit.prompt.text for unit in units])
        source = source_noise(seeds, latent_shape(model.pipeline))
        made: dict[tuple[str, str | None], Tensor] = {}
        noises = {}
        for variant in variants:
            key = (variant.arm, variant.npnet)
            if key not in made:
                npnet = self.npnets[variant.npnet] if variant.npnet else model.npnet
                conditions = Conditions(model.spec, model.pipeline, npnet, embeddings, seeds)
                started = time.perf_counter()
                made[key] = find_arm(variant.arm)(source, conditions)
                timings.noise["/".join(filter(None, key))] = time.perf_counter() - started
            noises[variant.name] = mix(source, made[key], variant.strength)
        return noises

    def render(
        self, variants: Sequence[Variant], noises: Mapping[str, Tensor], units: Sequence[Unit], timings: Timings
    ) -> dict[str, list[Image.Image]]:
        """By variant, its pictures, one per unit; variants with the same sampling go through the model together."""
        with torch.autocast(self.model.pipeline._execution_device.type, torch.bfloat16, enabled=self.bf16):
            return self._render(variants, noises, units, timings)

    def _render(
        self, variants: Sequence[Variant], noises: Mapping[str, Tensor], units: Sequence[Unit], timings: Timings
    ) -> dict[str, list[Image.Image]]:
        pictures = {}
        prompts, seeds = [unit.prompt.text for unit in units], [unit.seed for unit in units]
        for sampling, group in group_by_sampling(variants).items():
            started = time.perf_counter()
            with self._unet(sampling.unet):
                latents = denoise(
                    self.model.pipeline,
                    torch.cat([noises[variant.name] for variant in group]),
                    self.encode(prompts * len(group)),
                    seeds * len(group),
                    sampler=sampling.sampler,
                    num_inference_steps=sampling.num_inference_steps,
                    guidance_scale=sampling.guidance_scale,
                )
            timings.denoise[str(sampling)] = time.perf_counter() - started
            started = time.perf_counter()
            images = decode(self.model.pipeline, latents)
            timings.decode += time.perf_counter() - started
            for index, variant in enumerate(group):
                pictures[variant.name] = images[index * len(units) : (index + 1) * len(units)]
        return pictures

    @contextmanager
    def _unet(self, name: str | None) -> Iterator[None]:
        """Another UNet in the pipeline, for as long as the block lasts."""
        own = getattr(self.model.pipeline, "unet", None)
        try:
            if name:
                self.model.pipeline.unet = self.unets[name]
            yield
        finally:
            if name:
                self.model.pipeline.unet = own

    def measure_batch(
        self, variants: Sequence[Variant], units: Sequence[Unit]
    ) -> tuple[pd.DataFrame, dict[str, list[Image.Image]], Timings]:
        """Rows, pictures and seconds of one batch. The rows depend on the arguments and the weights alone."""
        timings = Timings()
        noises = self.make_noises(variants, units, timings)
        pictures = self.render(variants, noises, units, timings)
        started = time.perf_counter()
        source = source_noise([unit.seed for unit in units], latent_shape(self.model.pipeline))
        rows = pd.DataFrame(
            row
            for variant in variants
            for row in self._rows(variant, units, noises[variant.name], source, pictures[variant.name])
        )
        images = [image for variant in variants for image in pictures[variant.name]]
        if self.judges:
            for name, scores in score_all(self.judges, images, rows["prompt"].tolist()).items():
                rows[name] = scores
        if self.eyes:
            rows["features"] = list(see(self.eyes, images))
        rows["thumbnail"] = [make_thumbnail(image) for image in images]
        timings.measure = time.perf_counter() - started
        return rows, pictures, timings

    def _rows(
        self,
        variant: Variant,
        units: Sequence[Unit],
        noises: Tensor,
        source: Tensor,
        images: Sequence[Image.Image],
    ) -> Iterator[dict[str, Any]]:
        distances = noise_health(noises, source)["distance"].tolist()
        for unit, distance, image in zip(units, distances, images, strict=True):
            row: dict[str, Any] = {
                "prompt_index": unit.prompt_index,
                "category": unit.prompt.category,
                "prompt": unit.prompt.text,
                "seed": unit.seed,
                "variant": variant.name,
                "arm": variant.arm,
                "distance": distance,
            }
            if self.model.spec.is_shapes:
                verdict = check_image(unit.prompt.text, image)
                row |= {"right": verdict.correct, "score": verdict.score, "reason": "; ".join(verdict.reasons)}
            yield row


def score_all(judges: JudgeSet, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, list[float]]:
    """By judge, one score per picture. Raises: GoldenError with the sentence of a judge that fails."""
    scores = {}
    for name, result in judges.stream(images, prompts):
        if isinstance(result, str):
            raise GoldenError(f"{name} failed: {result}")
        scores[name] = result.tolist()
    return scores


@torch.inference_mode()
def see(eyes: ClipJudge, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """(B, D) unit embeddings of pictures."""
    parts = [images[start : start + _SEEN_AT_ONCE] for start in range(0, len(images), _SEEN_AT_ONCE)]
    pixels = (eyes.preprocess(part).to(eyes.device, eyes.dtype) for part in parts)
    return np.concatenate([eyes.encode_images(part).float().cpu().numpy() for part in pixels])


def make_thumbnail(image: Image.Image) -> bytes:
    """The picture as WebP, at most THUMBNAIL pixels high and wide: what the report shows."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=80)
    return buffer.getvalue()
