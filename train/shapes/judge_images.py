"""Generate the images that the embedded judges learn from and are tested on.

    python train/shapes/judge_images.py

The embedded model generates several images of every caption, well and badly, and the checker says what is right about
each. The shards in runs/judge_images appear whole or not at all: killed and started again, the command continues with
the first that is missing or damaged. A shard is a function of (--seed, split, index). What the captions of the split
`held_out` ask for is in no caption of the split `train`, in whatever words.

Rendered scenes and distorted images cost little: they are made while judges train.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from golden.checks import MAX_SEED
from golden.errors import ArgumentParser, BadWeights, InvalidInput, MissingWeights, run_command
from golden.files import load_weights, save_weights
from golden.flags import add_flags, flag, read_flags
from golden.model import Model, load_model
from golden.models import Sampling
from golden.noise import source_noise
from golden.pipelines import encode_prompts, latent_shape, sample_images
from golden.provenance import describe_run
from golden.shapes import RELATIONS, check_image, find_objects
from train.pairs import write_manifest
from train.shapes.judges.captions import DIMENSIONS, IMAGE_SIZE, SPLITS, draw_captions
from train.shapes.training import RUNS

FOLDER = RUNS / "judge_images"
STANDARD = (20, 5.5)
VARIANTS = (STANDARD, STANDARD, (10, 5.5), (5, 5.5), (3, 5.5), (10, 1.5))
"""(steps, guidance scale) of the images of one caption. The standard twice: there content alone differs."""
MANY_STEPS, FEW_STEPS = 10, 5


@dataclass(frozen=True)
class JudgeImageSettings:
    """What decides the bytes of a data set."""

    seed: int = 0
    captions_per_shard: int = 32


# --- one shard --------------------------------------------------------------------------------------------------------


def dimension_of(attribute: str) -> str:
    """The dimension of an attribute's name in a verdict."""
    return "position" if attribute in RELATIONS else attribute.split()[-1]


def judge_image(caption: str, image: Image.Image) -> dict:
    """The checker's verdict as a row: `right`, `score` in [0, 1], and each dimension: 1, 0, or None if not asked for.

    `malformed` is the share of objects, asked for or not, that are no clean shape of one colour: a flaw that can be
    seen without the prompt. An image without any object counts as 1.
    """
    verdict = check_image(caption, image)
    _, found = find_objects(image)
    malformed = np.mean([item.shape is None or item.colour is None for item in found]) if found else 1.0
    row: dict = {"right": int(verdict.correct), "score": verdict.score, "malformed": float(malformed)}
    for dimension in DIMENSIONS:
        outcomes = [ok for name, ok in verdict.attributes if dimension_of(name) == dimension]
        row[dimension] = int(all(outcomes)) if outcomes else None
    return row


def make_shard(model: Model, settings: JudgeImageSettings, split: str, index: int) -> tuple[np.ndarray, list[dict]]:
    """Pixels (n, S, S, 3) uint8 of one shard's images and a row of figures for each: a function of the arguments."""
    rng = np.random.default_rng((settings.seed, SPLITS.index(split), index))
    captions = [caption for caption, _ in islice(draw_captions(rng, split), settings.captions_per_shard)]
    pixels, rows = [], []
    for num_steps, guidance_scale in VARIANTS:
        seeds = [int(seed) for seed in rng.integers(2**16, MAX_SEED, len(captions))]
        images = generate(model, captions, seeds, Sampling(model.spec.sampling.sampler, num_steps, guidance_scale))
        for caption, seed, image in zip(captions, seeds, images, strict=True):
            pixels.append(np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)))
            row = {"caption": caption, "seed": seed, "num_inference_steps": num_steps, "guidance_scale": guidance_scale}
            rows.append(row | judge_image(caption, image))
    return np.stack(pixels), rows


def generate(model: Model, captions: list[str], seeds: Sequence[int], sampling: Sampling) -> list[Image.Image]:
    """Images of captions by a diffusion model, in one batch."""
    pipeline = model.pipeline
    noise = source_noise(seeds, latent_shape(pipeline))
    # A CPU with bf16 instructions is twice as fast with them, and the verdicts are of the images that come out.
    with torch.autocast(pipeline._execution_device.type, torch.bfloat16):
        return sample_images(model, noise, encode_prompts(pipeline, captions), seeds, sampling)


# --- the data set -----------------------------------------------------------------------------------------------------


def shard_path(folder: Path, split: str, index: int) -> Path:
    return folder / f"{split}-{index:05d}.safetensors"


def write_shard(path: Path, pixels: np.ndarray, rows: list[dict]) -> None:
    """One file with its SHA-256 beside it."""
    save_weights(path, {"pixels": torch.from_numpy(pixels)}, {"rows": json.dumps(rows)})


def read_shard(path: Path) -> tuple[np.ndarray, list[dict]]:
    """Raises: MissingWeights if there is none; BadWeights if it is damaged."""
    tensors, metadata = load_weights(path)
    return tensors["pixels"].numpy(), json.loads(metadata["rows"])


def is_intact(path: Path) -> bool:
    """Whether a shard is complete and its bytes are those that were written."""
    try:
        read_shard(path)
    except (MissingWeights, BadWeights):
        return False
    return True


def make_images(folder: Path, model: Model, settings: JudgeImageSettings, num_shards: dict[str, int]) -> None:
    """Make the shards of each split that are missing or damaged."""
    decisive = asdict(settings) | {"variants": [list(variant) for variant in VARIANTS]}
    write_manifest(folder, {"settings": decisive, **describe_run(model.pipeline._execution_device)})
    wanted = [(split, index) for split in SPLITS for index in range(num_shards[split])]
    for split, index in tqdm(wanted, "shards", mininterval=5):
        path = shard_path(folder, split, index)
        if not is_intact(path):
            write_shard(path, *make_shard(model, settings, split, index))


@dataclass(frozen=True)
class JudgeImages:
    """One split in memory: pixels (N, S, S, 3) uint8 and their N rows."""

    pixels: np.ndarray
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def by_caption(self) -> list[np.ndarray]:
        """The indices of each caption's images."""
        return [np.asarray(rows) for rows in self.rows.groupby("caption", sort=True).indices.values()]

    @cached_property
    def contrasts(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """By "right", by dimension and by "quality": for captions that have both, indices of good and of bad images.

        For "quality" these are images of the same verdict, of many steps and of few.
        """
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for name in ("right", *DIMENSIONS):
            outcome = self.rows[name].to_numpy(float)
            found[name] = [(group[outcome[group] == 1], group[outcome[group] == 0]) for group in self.by_caption]
        right, steps = self.rows["right"].to_numpy(), self.rows["num_inference_steps"].to_numpy()
        full = self.rows["guidance_scale"].to_numpy() == STANDARD[1]
        found["quality"] = []
        for group in self.by_caption:
            for verdict in (0, 1):
                same = group[full[group] & (right[group] == verdict)]
                found["quality"].append((same[steps[same] >= MANY_STEPS], same[steps[same] <= FEW_STEPS]))
        return {name: [(good, bad) for good, bad in groups if len(good) and len(bad)] for name, groups in found.items()}

    def standard(self) -> np.ndarray:
        """(N,) whether an image was made with the model's standard settings."""
        steps, guidance = STANDARD
        return ((self.rows["num_inference_steps"] == steps) & (self.rows["guidance_scale"] == guidance)).to_numpy()


def read_images(folder: Path, split: str) -> JudgeImages:
    """Raises: InvalidInput if there are no shards; BadWeights if one is damaged."""
    shards = [read_shard(path) for path in sorted(folder.glob(f"{split}-*.safetensors"))]
    if not shards:
        raise InvalidInput(f"There are no images in {folder}: generate them with train/shapes/judge_images.py.")
    rows = pd.DataFrame([row for _, part in shards for row in part])
    return JudgeImages(np.concatenate([pixels for pixels, _ in shards]), rows)


# --- command line -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeImageOptions:
    """What to generate, and where to."""

    folder: Path = flag(FOLDER, "folder for the shards")
    num_shards: int = flag(25, "shards to train on")
    num_held_out_shards: int = flag(8, "shards to test on")
    captions_per_shard: int = flag(JudgeImageSettings.captions_per_shard, "captions in a shard")
    seed: int = flag(JudgeImageSettings.seed, "seed of the captions and of the noises")
    device: str = flag("auto", "device of the diffusion model")

    def __post_init__(self) -> None:
        if min(self.num_shards, self.num_held_out_shards, self.captions_per_shard) < 1:
            raise InvalidInput("Each split needs at least one shard, and each shard at least one caption.")


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Generate the images that the embedded judges learn from and are tested on.")
    add_flags(parser, JudgeImageOptions)
    options = read_flags(JudgeImageOptions, parser.parse_args(argv))
    num_shards = {"train": options.num_shards, "held_out": options.num_held_out_shards}
    settings = JudgeImageSettings(options.seed, options.captions_per_shard)
    make_images(options.folder, load_model("shapes", device=options.device), settings, num_shards)
    for split in SPLITS:
        images = read_images(options.folder, split)
        print(f"{split}: {len(images)} images of {len(images.by_caption)} captions")
        print(images.rows.groupby(["num_inference_steps", "guidance_scale"])[["right", "score", "malformed"]].mean())


if __name__ == "__main__":
    run_command(main)
