"""One shard of pairs: prompts and seeds -> source and target noises -> images -> figures -> rows.

A shard is a function of the settings, the prompts and its index, to the last bit. Nothing computed for another shard is
reused, since the other prompts in a batch change how one is rounded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from golden.checkers import Checker, find_checker
from golden.checks import MAX_SEED
from golden.errors import InvalidInput
from golden.judges import JudgeSet, load_judges
from golden.model import Model, load_model
from golden.models import Sampling, find_model
from golden.noise import source_noise
from golden.pipelines import Embeddings, encode_anew, latent_shape, repeat_embeddings, sample_images
from train.filters import default_filter, explain_rejections
from train.pairs import Shard
from train.settings import CollectionSettings
from train.targets import make_target


@dataclass(frozen=True)
class Collection:
    """A data set to be made: `num_shards` shards in a folder. Prompts of None are drawn by the model's checker."""

    folder: Path
    settings: CollectionSettings
    prompts: Sequence[str] | None
    num_shards: int
    device: str


@dataclass(frozen=True)
class SampledShard:
    """A shard before it is judged: B source rows (index, prompt, seed) and noises (B, C, h, w) by name.

    The first noise is the source noise, under the name `source`. `images` has an image per row of each noise, one noise
    after the other, or is empty.
    """

    rows: pd.DataFrame
    noises: dict[str, Tensor]
    images: list[Image.Image]


def load_collection_model(settings: CollectionSettings, device: str) -> Model:
    """The model that samples. On a CPU this sets the number of threads, which decides how sums are rounded."""
    _set_threads(settings, device)
    return load_model(settings.model, npnet=settings.npnet, verifier=settings.verifier, device=device)


def load_collection_judges(settings: CollectionSettings, device: str) -> JudgeSet | None:
    """The judges, None if none are asked for. Raises: InvalidInput if nothing could judge the model's images."""
    _set_threads(settings, device)
    if settings.judged and not (settings.judges or find_model(settings.model).checker):
        raise InvalidInput(f"Nothing can judge images of {settings.model!r}: choose --judges, or --no-judged.")
    return load_judges(settings.judges, settings.judge_weights, device=device) if settings.judges else None


def _set_threads(settings: CollectionSettings, device: str) -> None:
    if torch.device(device).type == "cpu":
        torch.set_num_threads(settings.num_threads)


def collect_shard(
    model: Model,
    settings: CollectionSettings,
    index: int,
    prompts: Sequence[str] | None = None,
    judges: JudgeSet | None = None,
) -> Shard:
    """Make the pairs of one shard, each source with all its targets; sample and judge images unless --no-judged."""
    return judge_shard(sample_shard(model, settings, index, prompts), settings, model.checker, judges)


# --- noises and images ------------------------------------------------------------------------------------------------


def shard_inputs(
    settings: CollectionSettings, index: int, prompts: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Prompts and seeds of one shard, a function of the settings and the index alone.

    Raises: InvalidInput if there are no prompts and the model has no checker to draw some.
    """
    rng = np.random.default_rng((settings.seed, index))
    if prompts is None:
        checker = find_checker(find_model(settings.model).checker)
        if checker is None:
            raise InvalidInput(f"The model {settings.model!r} has no prompts of its own: give a file with --prompts.")
        chosen = list(islice(checker.sample_prompts(rng), settings.shard_size))
    else:
        first = index * settings.shard_size
        chosen = [prompts[i % len(prompts)] for i in range(first, first + settings.shard_size)]
    # Far from 0, 1, 2, ... that people and benchmarks use, so that no evaluation meets a seed of training.
    return chosen, [int(seed) for seed in rng.integers(2**16, MAX_SEED, settings.shard_size)]


def sample_shard(
    model: Model, settings: CollectionSettings, index: int, prompts: Sequence[str] | None = None
) -> SampledShard:
    """The noises of one shard and, if they will be judged, their images: sources and targets in one batch."""
    pipeline = model.pipeline
    chosen, seeds = shard_inputs(settings, index, prompts)
    rows = pd.DataFrame({"index": np.arange(len(seeds)) + index * settings.shard_size, "prompt": chosen, "seed": seeds})
    # Autocast leaves latents in fp32; a CPU with bf16 instructions collects twice as fast with it.
    with torch.autocast(pipeline._execution_device.type, torch.bfloat16, enabled=settings.bf16):
        embeddings = encode_anew(pipeline, chosen)
        source = source_noise(seeds, latent_shape(pipeline))
        noises = {"source": source} | {
            name: make_target(name, model, settings, source, embeddings) for name in settings.targets
        }
        steps = settings.num_inference_steps
        images = sample_noises(model, noises, embeddings, seeds, steps) if settings.judged else []
    return SampledShard(rows, noises, images)


def sample_noises(
    model: Model, noises: Mapping[str, Tensor], embeddings: Embeddings, seeds: Sequence[int], num_inference_steps: int
) -> list[Image.Image]:
    """Images of all noises (B, C, h, w), one noise after the other, in one batch with the model's own sampling."""
    own = model.spec.sampling
    return sample_images(
        model,
        torch.cat([*noises.values()]),
        repeat_embeddings(embeddings, len(noises)),
        [*seeds] * len(noises),
        Sampling(own.sampler, num_inference_steps, own.guidance_scale),
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def judge_shard(
    sampled: SampledShard, settings: CollectionSettings, checker: Checker | None, judges: JudgeSet | None
) -> Shard:
    """The finished shard: a row per target of each source, with the figures of both images.

    `kept` is whether the filter of the settings keeps the pair (by default that of training), `reason` why not.
    Raises: as `measure_images`.
    """
    targets = [sampled.noises[name] for name in settings.targets]
    parts = [sampled.rows.assign(target=name) for name in settings.targets]
    if sampled.images:
        figures = measure_images(sampled, checker, judges)
        parts = [
            part.join(figures["source"].add_prefix("source_")).join(figures[name].add_prefix("target_"))
            for part, name in zip(parts, settings.targets, strict=True)
        ]
    rows = pd.concat(parts, ignore_index=True)
    filter_name = settings.filter or default_filter([*rows.columns])
    if filter_name and sampled.images:
        reasons = explain_rejections(filter_name, rows, settings.margin)
        rows = rows.assign(kept=[not reason for reason in reasons], reason=reasons)
    return Shard(sampled.noises["source"].repeat(len(targets), 1, 1, 1), torch.cat(targets), rows)


def measure_images(sampled: SampledShard, checker: Checker | None, judges: JudgeSet | None) -> dict[str, pd.DataFrame]:
    """For each noise, B rows with the checker's verdicts (right, score, fault) and the judges' scores of its images.

    `fault` is a name of FAULTS, "" for an image that is right.
    Raises: GoldenError with the message of a judge that fails.
    """
    prompts = sampled.rows["prompt"].tolist() * len(sampled.noises)
    figures: dict[str, Any] = {}
    if checker:
        verdicts = [checker.check(prompt, image) for prompt, image in zip(prompts, sampled.images, strict=True)]
        figures["right"] = [verdict.correct for verdict in verdicts]
        figures["score"] = [verdict.score for verdict in verdicts]
        figures["fault"] = [verdict.fault or "" for verdict in verdicts]
    if judges:
        judges.forget_prompts()  # cached features were rounded in batches with prompts of another shard
        figures |= judges.score_all(sampled.images, prompts)
    table = pd.DataFrame(figures)
    starts = range(0, len(table), len(sampled.rows))
    parts = [table[start : start + len(sampled.rows)].reset_index(drop=True) for start in starts]
    return dict(zip(sampled.noises, parts, strict=True))
