"""Collect noise pairs: random source noise and the target noise that re-denoise sampling makes of it, both judged.

    python train/collect_pairs.py runs/pairs --num-pairs 2000
    torchrun --standalone --nproc-per-node 2 train/collect_pairs.py runs/pairs --num-pairs 2000

Pair i is a function of (--seed, i), whoever makes it, so that any number of workers make the same data set. Killed and
started again, it goes on with the first shard that is missing or damaged.
"""

import os
import platform
import sys
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import diffusers
import numpy as np
import pandas as pd
import torch
import transformers
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden.compare import Model, load_model
from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.noise import MAX_SEED, SOLVERS, redenoise, source_noise
from golden.pipelines import decode, denoise, encode_prompts, latent_shape, repeat_embeddings
from golden.shapes import check_image, training_captions
from train.pairs import Shard, is_intact, quarantine, write_manifest, write_shard


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a data set."""

    model: str = "shapes"
    seed: int = 0
    shard_size: int = 64
    num_inference_steps: int = 20
    redenoise_guidance_scale: float | None = None
    inversion_guidance_scale: float = 1.0
    redenoise_steps: int = 10
    redenoise_solver: str | None = None
    evaluate_at: str = "t"
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


def collect_shard(model: Model, settings: Settings, index: int, prompts: list[str] | None = None) -> Shard:
    """Render and judge one shard's pairs: source and target go through the pipeline in one batch."""
    spec, pipeline = model.spec, model.pipeline
    chosen, seeds = shard_inputs(settings, index, prompts)
    embeddings = encode_prompts(pipeline, chosen)
    source = source_noise(seeds, latent_shape(pipeline))
    target = redenoise(
        pipeline,
        source,
        embeddings,
        guidance_scale=settings.redenoise_guidance_scale or spec.redenoise_guidance_scale,
        inversion_guidance_scale=settings.inversion_guidance_scale,
        num_inference_steps=settings.redenoise_steps,
        solver=settings.redenoise_solver or spec.redenoise_solver,
        evaluate_at=settings.evaluate_at,
    )
    latents = denoise(
        pipeline,
        torch.cat([source, target]),
        repeat_embeddings(embeddings, 2),
        [*seeds, *seeds],
        sampler=spec.sampler,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=spec.guidance_scale,
    )
    images = decode(pipeline, latents)
    rows = pd.DataFrame({"index": np.arange(len(seeds)) + index * settings.shard_size, "prompt": chosen, "seed": seeds})
    if spec.is_shapes:
        for name, pictures in (("source", images[: len(seeds)]), ("target", images[len(seeds) :])):
            verdicts = [check_image(prompt, picture) for prompt, picture in zip(chosen, pictures, strict=True)]
            rows[f"{name}_right"] = [verdict.correct for verdict in verdicts]
            rows[f"{name}_score"] = [verdict.score for verdict in verdicts]
    return Shard(source, target, rows)


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
    parser.add_argument("--num-pairs", type=int, default=2000, help="rounded up to whole shards")
    parser.add_argument(
        "--prompts", type=Path, help="text file, one prompt a line (default: captions of the shapes world)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--shard-size", type=int, default=defaults.shard_size, help="pairs in a batch and in a shard")
    parser.add_argument("--num-inference-steps", type=int, default=defaults.num_inference_steps)
    parser.add_argument("--redenoise-guidance-scale", type=float, help="(default: the model's)")
    parser.add_argument("--inversion-guidance-scale", type=float, default=defaults.inversion_guidance_scale)
    parser.add_argument("--redenoise-steps", type=int, default=defaults.redenoise_steps)
    parser.add_argument("--redenoise-solver", choices=[*SOLVERS], help="(default: the model's)")
    parser.add_argument("--evaluate-at", choices=["t", "t-k"], default=defaults.evaluate_at)
    parser.add_argument("--bf16", action="store_true", help="render in bfloat16 (autocast)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    settings = Settings(**{name: getattr(arguments, name) for name in asdict(defaults)})
    if arguments.num_pairs < 1 or settings.shard_size < 1:
        raise InvalidInput("--num-pairs and --shard-size must be 1 or more.")
    prompts = read_prompts(arguments.prompts)
    rank, num_workers = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        versions = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
        write_manifest(
            arguments.folder, {"settings": asdict(settings), "versions": versions, "platform": platform.platform()}
        )
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if arguments.device == "cuda" else arguments.device
    model = load_model(settings.model, device=device)
    num_shards = -(-arguments.num_pairs // settings.shard_size)
    bar = tqdm(range(rank, num_shards, num_workers), "shards", mininterval=2, disable=rank > 0)
    num_improved = num_done = 0
    for index in bar:
        if is_intact(arguments.folder, index):
            continue
        quarantine(arguments.folder, index)
        # Autocast leaves latents in fp32; a CPU with bf16 instructions collects twice as fast with it.
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.bf16):
            shard = collect_shard(model, settings, index, prompts)
        write_shard(arguments.folder, index, shard)
        num_done += len(shard.rows)
        num_improved += (
            int((shard.rows["target_score"] > shard.rows["source_score"]).sum()) if "target_score" in shard.rows else 0
        )
        bar.set_postfix(improved=f"{num_improved / num_done:.1%}")


if __name__ == "__main__":
    run_command(main)
