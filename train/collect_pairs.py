"""Collect noise pairs: random source noise and the target noise that re-denoise sampling makes of it, both judged.

    python train/collect_pairs.py runs/pairs --num-pairs 2000
    python train/collect_pairs.py runs/pairs --num-pairs 2000 --targets source 10x1 20x3
    torchrun --standalone --nproc-per-node 2 train/collect_pairs.py runs/pairs --num-pairs 2000

Source i is a function of (--seed, i), whoever makes it, so that any number of workers make the same data set. Killed
and started again, it goes on with the first shard that is missing or damaged.

One source may get several targets, of which training takes the best (--filter best). A target is named after its
schedule: 10x1 goes 1 of 10 steps down and back, as the paper does; 20x3@7.5 goes 3 of 20 at guidance 7.5. `source` is
the source noise itself, for where nothing is better, and npnet*2 twice the change that the NPNet in --npnet makes, to
train that network on by what became of it. A length may follow: 20x1@9:0.92 and source:0.9 are those noises times that.
"""

import json
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pandas as pd
import torch
import transformers
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.rendering import score_all
from golden.arms import ARMS, Conditions, mix
from golden.compare import Model, load_model
from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.judges import JUDGES, WEIGHT_SETS, JudgeSet, load_judges
from golden.models import find_model
from golden.noise import MAX_SEED, SOLVERS, redenoise, source_noise
from golden.pipelines import Embeddings, decode, denoise, encode_prompts, latent_shape, repeat_embeddings
from golden.shapes import check_image, training_captions
from train.pairs import Shard, describe_gains, is_intact, quarantine, read_rows, write_manifest, write_shard


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a data set."""

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
    bf16: bool = False


def shard_inputs(settings: Settings, index: int, prompts: list[str] | None) -> tuple[list[str], list[int]]:
    """Prompts and seeds of one shard: a function of the settings and the index alone."""
    rng = np.random.default_rng((settings.seed, index))
    if prompts is None:
        chosen = list(islice(training_captions(rng), settings.shard_size))
    else:
        first = index * settings.shard_size
        chosen = [prompts[i % len(prompts)] for i in range(first, first + settings.shard_size)]
    # Far from 0, 1, 2, ... that people and benchmarks use, so that no evaluation meets a seed of training.
    return chosen, [int(seed) for seed in rng.integers(2**16, MAX_SEED, settings.shard_size)]


def make_target(name: str, model: Model, settings: Settings, source: Tensor, embeddings: Embeddings) -> Tensor:
    """Target noise (B, C, h, w) by its name in --targets. Raises: InvalidInput for a name that says nothing."""
    parts = _TARGET.fullmatch(name)
    if not parts:
        raise InvalidInput(
            "A target is 'source', 'npnet', 'npnet*STRENGTH' or STEPSxDOWN[@GUIDANCE] such as 10x1 or 20x3@7.5, "
            f"each with or without a :LENGTH such as :0.9, got {name[:40]!r}."
        )
    return float(parts["length"] or 1) * _full_length(parts, model, settings, source, embeddings)


_NUMBER = r"\d{1,3}(?:\.\d+)?"
_TARGET = re.compile(
    rf"(?:source|npnet(?:\*(?P<strength>{_NUMBER}))?|(?P<steps>\d{{1,4}})x(?P<down>\d{{1,4}})(?:@(?P<guidance>{_NUMBER}))?)"
    rf"(?::(?P<length>{_NUMBER}))?"
)


def _full_length(
    parts: re.Match[str], model: Model, settings: Settings, source: Tensor, embeddings: Embeddings
) -> Tensor:
    """The target noise that a name's parts ask for, before its length."""
    if parts[0].startswith("source"):
        return source
    if parts[0].startswith("npnet"):
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


def collect_shard(
    model: Model, settings: Settings, index: int, prompts: list[str] | None = None, judges: JudgeSet | None = None
) -> Shard:
    """Make one shard's pairs, every target of a source beside the others; render and judge them if it is asked for."""
    chosen, seeds = shard_inputs(settings, index, prompts)
    embeddings = encode_prompts(model.pipeline, chosen)
    source = source_noise(seeds, latent_shape(model.pipeline))
    targets = {name: make_target(name, model, settings, source, embeddings) for name in settings.targets}
    sources = pd.DataFrame(
        {"index": np.arange(len(seeds)) + index * settings.shard_size, "prompt": chosen, "seed": seeds}
    )
    parts = [sources.assign(target=name) for name in targets]
    if settings.judged:
        noises = {"source": source} | targets
        figures = dict(zip(noises, judge(model, judges, settings, list(noises.values()), chosen, seeds), strict=True))
        parts = [
            part.join(figures["source"].add_prefix("source_")).join(figures[name].add_prefix("target_"))
            for part, name in zip(parts, targets, strict=True)
        ]
    return Shard(source.repeat(len(targets), 1, 1, 1), torch.cat([*targets.values()]), pd.concat(parts))


def judge(
    model: Model,
    judges: JudgeSet | None,
    settings: Settings,
    noises: list[Tensor],
    prompts: list[str],
    seeds: list[int],
) -> list[pd.DataFrame]:
    """What becomes of each noise (B, C, h, w): B rows of the checker's verdicts and of every judge's scores.

    All noises go through the pipeline in one batch. Raises: GoldenError with the sentence of a judge that fails.
    """
    latents = denoise(
        model.pipeline,
        torch.cat(noises),
        repeat_embeddings(encode_prompts(model.pipeline, prompts), len(noises)),
        seeds * len(noises),
        sampler=model.spec.sampler,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=model.spec.guidance_scale,
    )
    images = decode(model.pipeline, latents)
    asked = prompts * len(noises)
    figures: dict[str, Any] = {}
    if model.spec.is_shapes:
        verdicts = [check_image(prompt, image) for prompt, image in zip(asked, images, strict=True)]
        figures["right"] = [verdict.correct for verdict in verdicts]
        figures["score"] = [verdict.score for verdict in verdicts]
    # Judges keep full precision: half of it ties scores of a pair.
    with torch.autocast(model.pipeline.device.type, enabled=False):
        figures |= score_all(judges, images, asked) if judges else {}
    table = pd.DataFrame(figures)
    return [table[start : start + len(prompts)].reset_index(drop=True) for start in range(0, len(table), len(prompts))]


def read_prompts(path: Path | None) -> list[str] | None:
    """One prompt a line; None stands for endless captions of the shapes world."""
    if path is None:
        return None
    prompts = [line.strip() for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
    if not prompts:
        raise InvalidInput(f"There are no prompts in {path}: give a text file with one prompt a line.")
    return prompts


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    defaults = Settings()
    parser.add_argument("folder", type=Path, help="where the shards go")
    parser.add_argument("--model", default=defaults.model)
    parser.add_argument("--npnet", help="NPNet weights for targets of that name (default: the model's)")
    parser.add_argument("--num-pairs", type=int, default=2000, help="source noises, rounded up to whole shards")
    parser.add_argument(
        "--prompts", type=Path, help="text file, one prompt a line (default: captions of the shapes world)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--shard-size", type=int, default=defaults.shard_size, help="pairs in a batch and in a shard")
    parser.add_argument(
        "--num-inference-steps", type=int, default=defaults.num_inference_steps, help="of the pictures that are judged"
    )
    parser.add_argument("--targets", nargs="+", help="how targets are made, as above (default: the model's)")
    parser.add_argument("--redenoise-guidance-scale", type=float, help="(default: the model's)")
    parser.add_argument("--inversion-guidance-scale", type=float, default=defaults.inversion_guidance_scale)
    parser.add_argument("--redenoise-solver", choices=[*SOLVERS], help="(default: the model's)")
    parser.add_argument("--evaluate-at", choices=["t", "t-k"], default=defaults.evaluate_at)
    parser.add_argument("--unjudged", dest="judged", action="store_false", help="make noises alone, and no pictures")
    parser.add_argument(
        "--judges", nargs="+", default=(), metavar="JUDGE", help=f"record their scores: all, or of {', '.join(JUDGES)}"
    )
    parser.add_argument("--judge-weights", choices=WEIGHT_SETS, default=defaults.judge_weights)
    parser.add_argument("--bf16", action="store_true", help="render in bfloat16 (autocast)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    arguments.targets = tuple(arguments.targets or ["{}x{}".format(*find_model(arguments.model).redenoise_schedule)])
    arguments.judges = tuple(JUDGES) if list(arguments.judges) == ["all"] else tuple(arguments.judges)
    settings = Settings(**{name: getattr(arguments, name) for name in asdict(defaults)})
    if arguments.num_pairs < 1 or settings.shard_size < 1:
        raise InvalidInput("--num-pairs and --shard-size must be 1 or more.")
    if len(set(settings.targets)) < len(settings.targets):
        raise InvalidInput(f"Each target goes once into a data set, got {' '.join(settings.targets)}.")
    prompts = read_prompts(arguments.prompts)
    rank, num_workers = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        versions = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
        write_manifest(
            arguments.folder,
            {
                "settings": json.loads(json.dumps(asdict(settings))),
                "versions": versions,
                "platform": platform.platform(),
            },
        )
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if arguments.device == "cuda" else arguments.device
    model = load_model(settings.model, npnet=settings.npnet, device=device)
    judges = load_judges(settings.judges, settings.judge_weights, device=device) if settings.judges else None
    if settings.judged and not (model.spec.is_shapes or judges):
        raise InvalidInput(f"Nothing can judge pictures of {settings.model!r}: choose --judges, or --unjudged.")
    num_shards = -(-arguments.num_pairs // settings.shard_size)
    bar = tqdm(range(rank, num_shards, num_workers), "shards", mininterval=2, disable=rank > 0)
    num_improved = num_done = 0
    for index in bar:
        if is_intact(arguments.folder, index):
            continue
        quarantine(arguments.folder, index)
        # Autocast leaves latents in fp32; a CPU with bf16 instructions collects twice as fast with it.
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.bf16):
            shard = collect_shard(model, settings, index, prompts, judges)
        write_shard(arguments.folder, index, shard)
        if "target_score" in shard.rows:
            num_done += len(shard.rows)
            num_improved += int((shard.rows["target_score"] > shard.rows["source_score"]).sum())
            bar.set_postfix(improved=f"{num_improved / num_done:.1%}")
    if rank == 0:
        rows = read_rows(arguments.folder)
        print("\n".join(describe_gains(rows)) or f"{len(rows)} pairs, not judged")


if __name__ == "__main__":
    run_command(main)
