"""One shard of pairs: prompts and seeds -> source and target noises -> pictures -> figures -> rows.

A shard is a function of the settings, the prompts and its index, to the last bit: nothing that was computed for
another shard is used again, since the prompts beside which one is encoded change how it is rounded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from eval.rendering import score_all
from golden.arms import ARMS, Conditions, mix
from golden.compare import Model, load_model
from golden.errors import InvalidInput
from golden.judges import JudgeSet, load_judges
from golden.models import ModelSpec, find_model
from golden.noise import MAX_SEED, redenoise, source_noise
from golden.pipelines import Embeddings, decode, denoise, encode_anew, latent_shape, repeat_embeddings
from golden.shapes import check_image, training_captions
from train.filters import default_filter, explain_rejections
from train.pairs import Shard


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a data set. `num_threads` does so on a CPU, where it changes the order of sums."""

    model: str = "shapes"
    npnet: str | None = None
    seed: int = 0
    shard_size: int = 64
    num_inference_steps: int = 20
    targets: tuple[str, ...] = ()
    redenoise_guidance_scale: float | None = None
    inversion_guidance_scale: float = 1.0
    redenoise_solver: str | None = None
    evaluate_at: str = "t"
    judged: bool = True
    judges: tuple[str, ...] = ()
    judge_weights: str = "embedded"
    filter: str | None = None
    margin: float = 0.0
    bf16: bool = False
    num_threads: int = 1


def load_painter(settings: Settings, device: str) -> Model:
    """The model that paints; a CPU is told how many threads to use."""
    if torch.device(device).type == "cpu":
        torch.set_num_threads(settings.num_threads)
    return load_model(settings.model, npnet=settings.npnet, device=device)


def load_critics(settings: Settings, device: str) -> JudgeSet | None:
    """The judges, or None where there are none. Raises: InvalidInput if nothing could judge the model's pictures."""
    if torch.device(device).type == "cpu":
        torch.set_num_threads(settings.num_threads)
    if settings.judged and not (settings.judges or find_model(settings.model).is_shapes):
        raise InvalidInput(f"Nothing can judge pictures of {settings.model!r}: choose --judges, or --unjudged.")
    return load_judges(settings.judges, settings.judge_weights, device=device) if settings.judges else None


# --- noises -----------------------------------------------------------------------------------------------------------


def shard_inputs(settings: Settings, index: int, prompts: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """Prompts and seeds of one shard: a function of the settings and the index alone."""
    rng = np.random.default_rng((settings.seed, index))
    if prompts is None:
        chosen = list(islice(training_captions(rng), settings.shard_size))
    else:
        first = index * settings.shard_size
        chosen = [prompts[i % len(prompts)] for i in range(first, first + settings.shard_size)]
    # Far from 0, 1, 2, ... that people and benchmarks use, so that no evaluation meets a seed of training.
    return chosen, [int(seed) for seed in rng.integers(2**16, MAX_SEED, settings.shard_size)]


def default_target(spec: ModelSpec) -> str:
    """The target that a model's `redenoise_*` settings ask for, by its name."""
    steps, steps_down = spec.redenoise_schedule
    return f"{steps}x{steps_down}" + (f":{spec.redenoise_length:g}" if spec.redenoise_length != 1 else "")


_NUMBER = r"\d{1,3}(?:\.\d+)?"
_TARGET = re.compile(
    rf"(?P<noise>source|npnet(?:\*(?P<strength>{_NUMBER}))?"
    rf"|(?P<steps>\d{{1,4}})x(?P<down>\d{{1,4}})(?:@(?P<guidance>{_NUMBER}))?)"
    rf"(?::(?P<length>{_NUMBER}))?"
)


def parse_target(name: str) -> re.Match[str]:
    """A target's name in its parts: noise, strength, steps, down, guidance, length; None where it says nothing of one.

    Raises: InvalidInput for what is no target's name.
    """
    parts = _TARGET.fullmatch(name)
    if not parts:
        raise InvalidInput(
            "A target is 'source', 'npnet', 'npnet*STRENGTH' or STEPSxDOWN[@GUIDANCE] such as 10x1 or 20x3@7.5, "
            f"each with or without a :LENGTH such as :0.7, got {name[:40]!r}."
        )
    return parts


def make_target(name: str, model: Model, settings: Settings, source: Tensor, embeddings: Embeddings) -> Tensor:
    """Target noise (B, C, h, w) by its name in --targets. Raises: as `parse_target`."""
    parts = parse_target(name)
    source = float(parts["length"] or 1) * source
    if parts["noise"] == "source":
        return source
    if parts["noise"].startswith("npnet"):
        golden = ARMS["npnet"](source, Conditions(model.spec, model.pipeline, model.npnet, embeddings, []))
        return mix(source, golden, float(parts["strength"] or 1))
    spec = model.spec
    return redenoise(
        model.pipeline,
        source,
        embeddings,
        guidance_scale=float(parts["guidance"] or settings.redenoise_guidance_scale or spec.redenoise_guidance_scale),
        inversion_guidance_scale=settings.inversion_guidance_scale,
        num_inference_steps=int(parts["steps"]),
        num_steps_down=int(parts["down"]),
        solver=settings.redenoise_solver or spec.redenoise_solver,
        evaluate_at=settings.evaluate_at,
    )


# --- pictures and figures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Painted:
    """A shard that was not judged yet: B source rows (index, prompt, seed), and noises (B, C, h, w) by name.

    The source's own noise is the first, under the name `source`. `images` has a picture for each row of each noise, one
    noise after the other, or none at all.
    """

    rows: pd.DataFrame
    noises: dict[str, Tensor]
    images: list[Image.Image]


def collect_shard(
    model: Model, settings: Settings, index: int, prompts: Sequence[str] | None = None, judges: JudgeSet | None = None
) -> Shard:
    """Make one shard's pairs, every target of a source beside the others; paint and judge them if it is asked for."""
    return judge_shard(paint_shard(model, settings, index, prompts), settings, model.spec, judges)


def paint_shard(model: Model, settings: Settings, index: int, prompts: Sequence[str] | None = None) -> Painted:
    """Noises of one shard and, if they shall be judged, their pictures: sources and targets in one batch."""
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
        images = paint(model, settings.num_inference_steps, rows, noises, embeddings) if settings.judged else []
    return Painted(rows, noises, images)


def paint(
    model: Model, num_inference_steps: int, rows: pd.DataFrame, noises: Mapping[str, Tensor], embeddings: Embeddings
) -> list[Image.Image]:
    """The pictures of all noises (B, C, h, w), one noise after the other, in one batch under the model's settings."""
    latents = denoise(
        model.pipeline,
        torch.cat([*noises.values()]),
        repeat_embeddings(embeddings, len(noises)),
        rows["seed"].tolist() * len(noises),
        sampler=model.spec.sampler,
        num_inference_steps=num_inference_steps,
        guidance_scale=model.spec.guidance_scale,
    )
    return decode(model.pipeline, latents)


def judge_shard(painted: Painted, settings: Settings, spec: ModelSpec, judges: JudgeSet | None) -> Shard:
    """The finished shard: a row for each target of each source, with the figures of both pictures.

    `kept` says whether the filter of the settings keeps the pair, and `reason` what speaks against it.
    Raises: as `measure`.
    """
    targets = [painted.noises[name] for name in settings.targets]
    parts = [painted.rows.assign(target=name) for name in settings.targets]
    if painted.images:
        figures = measure(painted, spec, judges)
        parts = [
            part.join(figures["source"].add_prefix("source_")).join(figures[name].add_prefix("target_"))
            for part, name in zip(parts, settings.targets, strict=True)
        ]
    rows = pd.concat(parts, ignore_index=True)
    filter_name = settings.filter or default_filter([*rows.columns])
    if filter_name and painted.images:
        reasons = explain_rejections(filter_name, rows, settings.margin)
        rows = rows.assign(kept=[not reason for reason in reasons], reason=reasons)
    return Shard(painted.noises["source"].repeat(len(targets), 1, 1, 1), torch.cat(targets), rows)


def measure(painted: Painted, spec: ModelSpec, judges: JudgeSet | None) -> dict[str, pd.DataFrame]:
    """By noise, B rows of the checker's verdicts and of every judge's scores of its pictures.

    Raises: GoldenError with the sentence of a judge that fails.
    """
    prompts = painted.rows["prompt"].tolist() * len(painted.noises)
    figures: dict[str, Any] = {}
    if spec.is_shapes:
        verdicts = [check_image(prompt, image) for prompt, image in zip(prompts, painted.images, strict=True)]
        figures["right"] = [verdict.correct for verdict in verdicts]
        figures["score"] = [verdict.score for verdict in verdicts]
    if judges:
        judges.forget_prompts()  # what they remember was rounded beside prompts of another shard
        figures |= score_all(judges, painted.images, prompts)
    table = pd.DataFrame(figures)
    starts = range(0, len(table), len(painted.rows))
    parts = [table[start : start + len(painted.rows)].reset_index(drop=True) for start in starts]
    return dict(zip(painted.noises, parts, strict=True))
