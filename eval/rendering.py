"""From prompts and seeds to rows: every variant of a batch starts from the same source noise and is measured alike."""

import copy
import json
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

from eval.prompt_sets import Prompt, spread_evenly
from golden.arms import Conditions, make_noises
from golden.drawing import shrink, to_webp
from golden.judges import JudgeSet
from golden.judges.base import ClipJudge
from golden.model import Model
from golden.models import ModelSpec, Sampling
from golden.noise import noise_health, source_noise
from golden.npnet import NPNet
from golden.pipelines import (
    Embeddings,
    add_control,
    encode_prompts,
    latent_shape,
    repeat_embeddings,
    sample_images,
)
from golden.request import CompareRequest, validate
from golden.samplers import make_sampler

THUMBNAIL_SIZE = 128  # pixels
_ENCODED_AT_ONCE = 64


@dataclass(frozen=True)
class Variant:
    """One column of a table: an arm and the settings under which its images are made.

    `baseline` names the variant that it is compared with. `npnet` names a network of the run that replaces the model's
    own, and `unet` another UNet for the model (see golden.models.Parts). `best_norm` replaces the model's own.
    `num_prompts` limits an arm that takes long to some of the prompts, spread evenly over the set.
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
    best_norm: float | None = None
    num_prompts: int | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.sampler, self.num_inference_steps, self.guidance_scale)

    @property
    def group(self) -> "DenoisingGroup":
        """What variants must share to be denoised in one batch."""
        return DenoisingGroup(self.sampling, self.unet)

    @property
    def noise_name(self) -> str:
        """What noise this is, whatever its strength: the arm, and the network or norm if it is not the model's own."""
        norm = f"{self.best_norm:g}" if self.best_norm else None
        return "/".join(filter(None, (self.arm, self.npnet, norm)))


class DenoisingGroup(NamedTuple):
    """How noise becomes images, and by which UNet (None for the model's own)."""

    sampling: Sampling
    unet: str | None

    def __str__(self) -> str:
        sampling = self.sampling
        parts = (sampling.sampler, sampling.num_inference_steps, f"{sampling.guidance_scale:g}", self.unet)
        return " ".join(str(part) for part in parts if part)


def check_variant(variant: Variant, spec: ModelSpec, prompt: str) -> Variant:
    """The variant with exact types, by the validator that the app uses. Raises: InvalidInput in one sentence."""
    request = validate(
        CompareRequest(
            prompt=prompt,
            num_inference_steps=variant.num_inference_steps,
            guidance_scale=variant.guidance_scale,
            sampler=variant.sampler,
            strength=variant.strength,
            arms=(variant.arm,),
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
    """One source noise: a prompt, which of the run's seeds it is for, and the seed that it is drawn from."""

    prompt_index: int
    prompt: Prompt
    seed: int
    noise_seed: int


SEEDS_APART = 100_000
"""What lies between the seeds of neighbouring prompts' noises. With one noise for all prompts intervals over prompts
would hold for that noise alone, and one noise can be good or bad for a whole kind of prompt."""


@dataclass(frozen=True)
class Start:
    """What all variants of a batch start from: for each unit a row of embeddings and of source noise (B, C, h, w)."""

    units: Sequence[Unit]
    embeddings: Embeddings
    source: Tensor

    @property
    def seeds(self) -> list[int]:
        return [unit.noise_seed for unit in self.units]


@dataclass(frozen=True)
class BatchPlan:
    """Units that start together, and the variants that are rendered of each."""

    units: list[Unit]
    variants: list[Variant]


def list_units(
    prompts: Sequence[Prompt], seeds: Sequence[int], num_prompts: int | None = None, seeds_apart: int = SEEDS_APART
) -> list[Unit]:
    """The noises of prompts, spread evenly if only `num_prompts` are wanted, seed by seed.

    They are drawn from the seeds plus `seeds_apart` times the prompt's place, so that no two prompts share one.
    """
    chosen = spread_evenly(len(prompts), num_prompts or len(prompts))
    return [
        Unit(index, prompts[index], seed, (seed + seeds_apart * index) % 2**32) for seed in seeds for index in chosen
    ]


def plan_run(
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    variants: Sequence[Variant],
    batch_size: int,
    seeds_apart: int = SEEDS_APART,
) -> list[BatchPlan]:
    """The batches of a run: first those of the variants for all prompts, then those of others for fewer."""
    by_number: dict[int, list[Variant]] = {len(prompts): []}
    for variant in variants:
        by_number.setdefault(min(variant.num_prompts or len(prompts), len(prompts)), []).append(variant)
    return [
        BatchPlan(units, members)
        for number, members in by_number.items()
        if members
        for units in plan_batches(prompts, seeds, members, batch_size, number, seeds_apart)
    ]


def plan_batches(
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    variants: Sequence[Variant],
    batch_size: int,
    num_prompts: int | None = None,
    seeds_apart: int = SEEDS_APART,
) -> list[list[Unit]]:
    """The units of each batch, so that a call of the denoiser has about `batch_size` rows.

    Seed by seed, not prompt by prompt: neighbours in a batch then have different prompts, which the arm with mismatched
    prompts relies on, and a run that is stopped early has covered every prompt.
    """
    units = list_units(prompts, seeds, num_prompts, seeds_apart)
    rows_per_unit = max(len(group) for group in group_variants(variants).values())
    size = max(1, batch_size // rows_per_unit)
    return [units[start : start + size] for start in range(0, len(units), size)]


def group_variants(variants: Sequence[Variant]) -> dict[DenoisingGroup, list[Variant]]:
    """Variants that can be denoised together, in order of first appearance."""
    groups: dict[DenoisingGroup, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(variant.group, []).append(variant)
    return groups


def first_sampling(variants: Sequence[Variant]) -> list[Variant]:
    """The variants that are sampled as the first one is."""
    return [variant for variant in variants if variant.sampling == variants[0].sampling]


@dataclass
class Timings:
    """Seconds of one batch: of each arm's noise, of sampling each group of variants (denoise, decode), of measuring."""

    noise: dict[str, float] = field(default_factory=dict)
    sampling: dict[str, float] = field(default_factory=dict)
    measuring: float = 0.0


@dataclass
class Renderer:
    """A loaded model with everything else that variants and rows need.

    `npnets` and `unets` are those that variants name; `judges` score. The embeddings of an `image_encoder` are kept
    with each row (`features`), to measure how far images are from each other. `bf16` renders in half precision;
    `control` is the control image of a ControlNet, used with every prompt.
    """

    model: Model
    npnets: dict[str, NPNet] = field(default_factory=dict)
    unets: Mapping[str, Any] = field(default_factory=dict)
    judges: JudgeSet | None = None
    image_encoder: ClipJudge | None = None
    control: Image.Image | None = None
    bf16: bool = False

    def start(self, units: Sequence[Unit]) -> Start:
        """Encode the prompts and draw the source noise of a batch, once for all variants."""
        pipeline = self.model.pipeline
        shape = latent_shape(pipeline)
        embeddings = encode_prompts(pipeline, [unit.prompt.text for unit in units])
        if self.control is not None:
            embeddings = add_control(pipeline, embeddings, self.control, shape)
        return Start(units, embeddings, source_noise([unit.noise_seed for unit in units], shape))

    def check(self, variants: Sequence[Variant], prompt: Prompt) -> None:
        """Make every sampler and one noise of every arm, so that whatever is missing is reported before the run."""
        for variant in variants:
            sampler = make_sampler(variant.sampler, self.model.pipeline.scheduler.config)
            # Pipelines such as FLUX's find the shift by the size of the image; here the number of steps alone counts.
            shift = {"mu": 1.0} if sampler.config.get("use_dynamic_shifting") else {}
            sampler.set_timesteps(variant.num_inference_steps, **shift)
        ready = [variant for variant in variants if variant.npnet is None or variant.npnet in self.npnets]
        self.make_noises(ready, self.start([Unit(0, prompt, 0, 0)]), Timings())

    def make_noises(self, variants: Sequence[Variant], start: Start, timings: Timings) -> dict[str, Tensor]:
        """By variant, its noise (B, C, h, w); variants that differ in their sampling alone share the work."""
        alike: dict[tuple[str | None, float, float | None], list[Variant]] = {}
        for variant in variants:
            alike.setdefault((variant.npnet, variant.strength, variant.best_norm), []).append(variant)
        found: dict[str, Tensor] = {}
        for (npnet, strength, best_norm), members in alike.items():
            network = self.npnets[npnet] if npnet else self.model.npnet
            conditions = Conditions(self._model_at(best_norm), network, start.embeddings, start.seeds)
            arms = dict.fromkeys(variant.arm for variant in members)
            noises, seconds = make_noises(arms, start.source, conditions, strength)
            for variant in members:
                found[variant.name] = noises[variant.arm]
                timings.noise[variant.noise_name] = seconds[variant.arm]
        return {variant.name: found[variant.name] for variant in variants}

    def _model_at(self, best_norm: float | None) -> Model:
        """The model, as if another norm were its best."""
        if best_norm is None:
            return self.model
        model = copy.copy(self.model)
        model.spec = replace(model.spec, best_norm=best_norm)
        return model

    def render(
        self, variants: Sequence[Variant], noises: Mapping[str, Tensor], start: Start, timings: Timings
    ) -> dict[str, list[Image.Image]]:
        """By variant, its images, one for each unit; variants of one group go through the model together."""
        images: dict[str, list[Image.Image]] = {}
        num_units, device = len(start.units), self.model.pipeline._execution_device
        for group, members in group_variants(variants).items():
            started = time.perf_counter()
            with self._unet(group.unet), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                made = sample_images(
                    self.model,
                    torch.cat([noises[variant.name] for variant in members]),
                    repeat_embeddings(start.embeddings, len(members)),
                    start.seeds * len(members),
                    group.sampling,
                )
            timings.sampling[str(group)] = time.perf_counter() - started
            for index, variant in enumerate(members):
                images[variant.name] = made[index * num_units : (index + 1) * num_units]
        return images

    @contextmanager
    def _unet(self, name: str | None) -> Iterator[None]:
        """Put another UNet into the pipeline for the duration of the block."""
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
        """Rows, images and seconds of one batch. The rows depend on the arguments and the weights alone."""
        timings, start = Timings(), self.start(units)
        noises = self.make_noises(variants, start, timings)
        images = self.render(variants, noises, start, timings)
        started = time.perf_counter()
        rows = pd.DataFrame(
            row
            for variant in variants
            for row in self._rows(variant, start, noises[variant.name], images[variant.name])
        )
        flat = [image for variant in variants for image in images[variant.name]]
        if self.judges:
            for name, scores in self.judges.score_all(flat, rows["prompt"].tolist()).items():
                rows[name] = scores
        if self.image_encoder:
            rows["features"] = list(encode_images(self.image_encoder, flat))
        rows["thumbnail"] = [make_thumbnail(image) for image in flat]
        timings.measuring = time.perf_counter() - started
        return rows, images, timings

    def _rows(
        self, variant: Variant, start: Start, noise: Tensor, images: Sequence[Image.Image]
    ) -> Iterator[dict[str, Any]]:
        distances = noise_health(noise, start.source)["distance"].tolist()
        checker = self.model.checker
        for unit, distance, image in zip(start.units, distances, images, strict=True):
            row: dict[str, Any] = {
                "prompt_index": unit.prompt_index,
                "category": unit.prompt.category,
                "prompt": unit.prompt.text,
                "seed": unit.seed,
                "noise_seed": unit.noise_seed,
                "variant": variant.name,
                "arm": variant.arm,
                "distance": distance,
            }
            if checker:
                verdict = checker.check(unit.prompt.text, image)
                row |= {"right": verdict.correct, "score": verdict.score, "fault": verdict.fault or ""}
                row["reason"] = "; ".join(verdict.reasons)
                row["layout"] = json.dumps([[kind, round(x, 4), round(y, 4)] for kind, x, y in verdict.layout])
            yield row


@torch.inference_mode()
def encode_images(image_encoder: ClipJudge, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """(B, D) unit embeddings of images."""
    parts = [images[start : start + _ENCODED_AT_ONCE] for start in range(0, len(images), _ENCODED_AT_ONCE)]
    pixels = (image_encoder.preprocess(part).to(image_encoder.device, image_encoder.dtype) for part in parts)
    return np.concatenate([image_encoder.encode_images(part).float().cpu().numpy() for part in pixels])


def make_thumbnail(image: Image.Image) -> bytes:
    """The image as WebP, at most THUMBNAIL_SIZE pixels high and wide: what the report shows."""
    return to_webp(shrink(image, THUMBNAIL_SIZE), quality=80)
