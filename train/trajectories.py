"""What a verifier learns from: latents on their way to images whose verdict or score is recorded.

The noises of a pair folder are denoised again and their latents kept at a few steps, with the label of the image that
they led to. Scenes with a known verdict, if the model's checker can draw them, add latents of finished images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from golden.checkers import Checker
from golden.errors import InvalidInput
from golden.model import Model
from golden.models import Sampling
from golden.pipelines import denoise, encode_anew, encode_images
from golden.samplers import make_sampler
from train.pairs import finished_shards, hash_json, hash_shards, read_manifest, read_shard
from train.stream import is_held_out
from train.workers import make_files

KEPT_SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0)
"""After which shares of all steps latents are kept; 0 is the noise itself."""
FINISHED_TIMESTEP = 1
"""The timestep that stands for finished latents."""
ENCODED_AT_ONCE = 64  # scenes


@dataclass(frozen=True)
class Trajectories:
    """N images: latents (N, S, C, h, w) in half precision at S timesteps (S,), prompts, and labels (N,) in [0, 1]."""

    latents: Tensor
    timesteps: tuple[int, ...]
    prompts: tuple[str, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: np.ndarray) -> "Trajectories":
        chosen = torch.from_numpy(rows)
        prompts = tuple(self.prompts[row] for row in rows)
        return Trajectories(self.latents[chosen], self.timesteps, prompts, self.labels[chosen])


def split_held_out(data: Trajectories) -> tuple[Trajectories, Trajectories]:
    """(to train on, to validate on): prompts that the training of an NPNet holds out are held out here, too."""
    held_out = np.array([is_held_out(prompt) for prompt in data.prompts])
    return data.select(np.flatnonzero(~held_out)), data.select(np.flatnonzero(held_out))


def read_trajectories(folder: Path, model: Model, label: str, cache: Path, bf16: bool = False) -> Trajectories:
    """The trajectories of all noises of a pair folder, from `cache` if they were made before.

    They are kept in a folder of `cache` named after what they follow from, beside the model's weights: another set of
    pairs in the same place must not be answered with these. A shard is made at once; under torchrun each worker makes
    its share of them.

    Raises: InvalidInput if the folder is of another model or its rows have no such label.
    """
    settings = read_manifest(folder)["settings"]
    if settings["model"] != model.spec.name:
        raise InvalidInput(f"{folder} was collected with the model {settings['model']!r}, not {model.spec.name!r}.")
    shards, num_steps = finished_shards(folder), settings["num_inference_steps"]
    if not shards:
        raise InvalidInput(f"{folder} has no finished shard: collect pairs first.")
    sampling = [model.spec.sampling.sampler, num_steps, model.spec.sampling.guidance_scale, bf16]
    kept = cache / f"{label}-{hash_json([hash_shards(folder, shards), label, sampling])}"
    paths = {index: kept / f"{index:05d}.pt" for index in shards}
    data = read_parts(paths, lambda index: _trace_shard(folder, index, model, label, num_steps, bf16), "trajectories")
    return replace(data, labels=_scale_labels(data.labels))


def read_parts(paths: Mapping[int, Path], make: Callable[[int], Trajectories], title: str) -> Trajectories:
    """The trajectories of all parts, by index -> file; those that have no file yet are made, and kept there.

    Under torchrun each worker makes its share.
    """
    make_files(paths, lambda index: vars(make(index)), title)
    parts = [Trajectories(**torch.load(path, weights_only=True)) for path in paths.values()]
    latents, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "labels"))
    return Trajectories(latents, parts[0].timesteps, tuple(prompt for part in parts for prompt in part.prompts), labels)


def _scale_labels(labels: Tensor) -> Tensor:
    """Verdicts as they are; scores as the probability that a standardised score is above the mean."""
    if labels.unique().numel() <= 2:
        return labels
    return torch.sigmoid(1.7 * (labels - labels.mean()) / labels.std())


def _trace_shard(folder: Path, index: int, model: Model, label: str, num_steps: int, bf16: bool) -> Trajectories:
    shard = read_shard(folder, index)
    rows: pd.DataFrame = shard.rows
    for side in ("source", "target"):
        if f"{side}_{label}" not in rows:
            raise InvalidInput(f"{folder} has no {label!r} of its images: collect it with --judges, or choose another.")
    # A source noise stands in the folder once for each of its targets.
    first = ~rows.duplicated(["index"]).to_numpy()
    noise = torch.cat([shard.source_noise[torch.from_numpy(first)], shard.target_noise])
    prompts = [*rows["prompt"][first], *rows["prompt"]]
    seeds = [*rows["seed"][first], *rows["seed"]]
    labels = [*rows[f"source_{label}"][first], *rows[f"target_{label}"]]
    latents, timesteps = trace(model, noise, prompts, seeds, num_steps, bf16)
    return Trajectories(latents, timesteps, tuple(prompts), torch.tensor(labels, dtype=torch.float32))


def trace(
    model: Model, noise: Tensor, prompts: Sequence[str], seeds: Sequence[int], num_steps: int, bf16: bool = False
) -> tuple[Tensor, tuple[int, ...]]:
    """Latents (B, S, C, h, w) in half precision along the way from noise (B, C, h, w), and their timesteps."""
    sampling = model.spec.sampling
    scheduler = make_sampler(sampling.sampler, model.pipeline.scheduler.config)
    kept_steps = sorted({round(share * num_steps) for share in KEPT_SHARES})
    kept = [noise]

    def keep(step: int, num_steps: int, clean: Tensor) -> None:
        if step in kept_steps:
            latents = model.family.unpack(model.pipeline, scheduler.latents, *noise.shape[2:])
            kept.append(_to_unit_variance(scheduler, latents, step))

    with torch.autocast(model.pipeline._execution_device.type, torch.bfloat16, enabled=bf16):
        embeddings = encode_anew(model.pipeline, prompts)
        denoise(
            model.pipeline,
            noise,
            embeddings,
            seeds,
            Sampling(scheduler, num_steps, sampling.guidance_scale),
            on_step=keep,
        )
    path = [int(timestep) for timestep in scheduler.timesteps]
    timesteps = tuple(path[step] if step < num_steps else FINISHED_TIMESTEP for step in kept_steps)
    return torch.stack([latents.half().cpu() for latents in kept], 1), timesteps


def _to_unit_variance(scheduler: Any, latents: Tensor, step: int) -> Tensor:
    """Latents after some steps as a verifier is later given them, which are DDIM's; a flow's stay as they are.

    Some samplers (Euler's) leave the image as it is and add noise to it, which pipelines undo before the network.
    """
    if float(getattr(scheduler, "init_noise_sigma", 1.0)) == 1.0:
        return latents
    return latents / float(1 + scheduler.sigmas[step] ** 2) ** 0.5


def draw_examples(model: Model, num: int, seed: Sequence[int]) -> Trajectories:
    """Finished latents of scenes from the model's checker; there are none of a checker that draws none."""
    checker: Checker | None = model.checker
    assert checker is not None
    examples = [*islice(checker.sample_examples(np.random.default_rng(seed)), num)]
    images = [image for _, image, _ in examples]
    starts = range(0, len(images), ENCODED_AT_ONCE)
    latents = [encode_images(model.pipeline, images[start : start + ENCODED_AT_ONCE]).half().cpu() for start in starts]
    return Trajectories(
        torch.cat(latents)[:, None] if latents else torch.empty(0),
        (FINISHED_TIMESTEP,),
        tuple(prompt for prompt, _, _ in examples),
        torch.tensor([label for _, _, label in examples], dtype=torch.float32),
    )
