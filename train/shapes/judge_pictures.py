"""Make the pictures that the embedded judges learn from and are tested on.

    python train/shapes/judge_pictures.py

The embedded model draws every caption several times, well and badly, and the checker says what is right about each
picture. The shards under runs/judge_pictures appear whole or not at all: killed and started again, it goes on with the
first that is missing or damaged. A shard is a function of (--seed, split, index). Captions come from
`training_captions`; those of the split `held_out` are never trained on, in whatever words.

Rendered scenes and distorted pictures cost little: the functions below make them while judges train.
"""

import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageEnhance, ImageFilter
from tqdm import tqdm
from training import RUNS

from golden.compare import Model, load_model
from golden.errors import ArgumentParser, BadWeights, InvalidInput, MissingWeights, run_command
from golden.files import load_weights, save_weights
from golden.noise import MAX_SEED, source_noise
from golden.pipelines import decode, denoise, encode_prompts, latent_shape
from golden.shapes import (
    OPENINGS,
    RELATIONS,
    Group,
    Request,
    Scene,
    SceneObject,
    change_one_attribute,
    check_image,
    find_objects,
    load_test_prompts,
    parse_caption,
    render,
    training_captions,
    write_caption,
)
from train.pairs import write_manifest

FOLDER = RUNS / "judge_pictures"
PICTURE_SIZE = 64
"""Pixels on a side of every stored picture: what the embedded judges see."""
SPLITS = ("train", "held_out")
HELD_OUT_ONE_IN = 5
STANDARD = (20, 5.5)
VARIANTS = (STANDARD, STANDARD, (10, 5.5), (5, 5.5), (3, 5.5), (10, 1.5))
"""(steps, guidance scale) of the pictures of one caption. The standard twice: there content alone differs."""
DIMENSIONS = ("shape", "colour", "number", "position", "background")
"""What a caption may ask for, and the checker judges apart."""
MANY_STEPS, FEW_STEPS = 10, 5

Picture = np.ndarray
"""(PICTURE_SIZE, PICTURE_SIZE, 3) uint8."""


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a data set."""

    seed: int = 0
    captions_per_shard: int = 32


# --- captions and scenes ----------------------------------------------------------------------------------------------


def is_held_out(request: Request) -> bool:
    """Whether a request is kept from training: by what it asks for, whatever the caption's opening."""
    return zlib.crc32(write_caption(request).encode()) % HELD_OUT_ONE_IN == 0


def asks(request: Request, dimension: str) -> bool:
    """Whether a request says anything of a dimension; of shape and number every one does."""
    return {
        "colour": any(group.colour for group in request.groups),
        "position": request.relation is not None,
        "background": request.background is not None,
    }.get(dimension, True)


def draw_caption(rng: np.random.Generator, split: str = "train", dimension: str | None = None) -> tuple[str, Request]:
    """A random caption of a split, and what it asks for; with `dimension`, one that asks for something of it."""
    return next(draw_captions(rng, split, dimension))


def draw_captions(rng: np.random.Generator, split: str, dimension: str | None = None) -> Iterator[tuple[str, Request]]:
    """Endless random captions of a split."""
    for caption in training_captions(rng):
        request = parse_caption(caption)
        if is_held_out(request) == (split == "held_out") and (dimension is None or asks(request, dimension)):
            yield caption, request


def changed_dimension(before: Scene, after: Scene) -> str:
    """In which dimension `change_one_attribute` changed a scene."""
    if before.background != after.background:
        return "background"
    if len(before.objects) != len(after.objects):
        return "number"
    pairs = list(zip(before.objects, after.objects, strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        return "shape"
    return "colour" if any(one.colour != other.colour for one, other in pairs) else "position"


def change_scene(
    scene: Scene, request: Request, rng: np.random.Generator, dimension: str | None = None
) -> tuple[Scene, str]:
    """A scene for which the request is false by one attribute, and that attribute's dimension.

    With `dimension`, which the request must ask for something of, the change is in that one.
    """
    while True:
        changed = change_one_attribute(scene, request, rng)
        found = changed_dimension(scene, changed)
        if dimension in (None, found):
            return changed, found


def relation_of(one: SceneObject, other: SceneObject) -> str:
    """Where one object lies of another, as the checker sees it."""
    dx, dy = other.x - one.x, other.y - one.y
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def shows(scene: Scene, request: Request) -> bool:
    """What the checker says of a scene's picture, without a picture."""

    def fit(objects: tuple[SceneObject, ...], groups: tuple[Group, ...]) -> bool:
        pairs = zip(objects, groups, strict=True)
        return all(item.shape == group.shape and group.colour in (None, item.colour) for item, group in pairs)

    groups = tuple(group for group in request.groups for _ in range(group.count))
    if len(scene.objects) != len(groups) or request.background not in (None, scene.background):
        return False
    if len(request.groups) == 1:
        return fit(scene.objects, groups)
    orders = (scene.objects, scene.objects[::-1])
    return any(fit(order, groups) and request.relation in (None, relation_of(*order)) for order in orders)


def describe(scene: Scene, caption: str, split: str = "train") -> str | None:
    """A caption of a changed scene in the words of the one that it was made for.

    None where the grammar has none, or none in this split.
    """
    request = parse_caption(caption)
    coloured = any(group.colour for group in request.groups)
    kinds = [(item.shape, item.colour if coloured else None) for item in scene.objects]
    relation, counted = None, request.counted
    if len(set(kinds)) == 1:
        groups: tuple[Group, ...] = (Group(*kinds[0], len(kinds)),)
        counted = counted or len(kinds) > 1
    elif len(kinds) == 2:
        groups, counted = tuple(Group(*kind) for kind in kinds), False
        relation = relation_of(*scene.objects) if request.relation else None
    else:
        return None
    changed = Request(groups, relation, scene.background if request.background else None, counted)
    opening = next((words for words in OPENINGS if caption.startswith(words)), "")
    found = write_caption(changed, opening)
    known = is_held_out(changed) == (split == "held_out") and found not in test_prompts()
    return found if known else None


@cache
def test_prompts() -> frozenset[str]:
    return frozenset(row["prompt"] for row in load_test_prompts())


def draw(scene: Scene) -> Picture:
    """A rendered scene as judges see it."""
    return np.asarray(render(scene, PICTURE_SIZE))


# --- distortions: strength from 0, just visible, to 1 -----------------------------------------------------------------


def blur(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.5 + 2.5 * strength))


def add_noise(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    noisy = np.asarray(image, np.float32) + rng.normal(0, 8 + 52 * strength, (image.height, image.width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def compress(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=round(30 - 28 * strength))
    return Image.open(file).convert("RGB")


def fade(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(0.8 - 0.65 * strength)


def coarsen(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    side = round(image.width / (1.5 + 3.5 * strength))
    return image.resize((side, side), Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR)


DISTORTIONS: dict[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    "blur": blur,
    "noise": add_noise,
    "jpeg": compress,
    "contrast": fade,
    "downscale": coarsen,
}


def distort(picture: Picture, kind: str, strength: float, rng: np.random.Generator) -> Picture:
    """A picture made worse in one of DISTORTIONS' ways, `strength` in [0, 1]."""
    return np.asarray(DISTORTIONS[kind](Image.fromarray(picture), strength, rng))


# --- one shard --------------------------------------------------------------------------------------------------------


def dimension_of(attribute: str) -> str:
    """The dimension of an attribute's name in a verdict."""
    if attribute in RELATIONS:
        return "position"
    return {"count": "number"}.get(attribute, attribute.split()[-1])


def judge_picture(caption: str, image: Image.Image) -> dict:
    """The checker's verdict as a row: `right`, `score` in [0, 1], each dimension 1, 0 or None where it is not asked.

    `malformed` is the share of objects, asked for or not, that are no clean shape of one colour: a flaw that can be
    seen without the prompt. A picture without any object counts as 1.
    """
    verdict = check_image(caption, image)
    _, found = find_objects(image)
    malformed = np.mean([item.shape is None or item.colour is None for item in found]) if found else 1.0
    row: dict = {"right": int(verdict.correct), "score": verdict.score, "malformed": float(malformed)}
    for dimension in DIMENSIONS:
        outcomes = [ok for name, ok in verdict.attributes if dimension_of(name) == dimension]
        row[dimension] = int(all(outcomes)) if outcomes else None
    return row


def make_shard(model: Model, settings: Settings, split: str, index: int) -> tuple[np.ndarray, list[dict]]:
    """Pictures (n, S, S, 3) uint8 of one shard and a row of figures for each: a function of the arguments alone."""
    rng = np.random.default_rng((settings.seed, SPLITS.index(split), index))
    captions = [caption for caption, _ in islice(draw_captions(rng, split), settings.captions_per_shard)]
    pictures, rows = [], []
    for num_steps, guidance_scale in VARIANTS:
        seeds = [int(seed) for seed in rng.integers(2**16, MAX_SEED, len(captions))]
        for caption, seed, image in zip(
            captions, seeds, generate(model, captions, seeds, num_steps, guidance_scale), strict=True
        ):
            pictures.append(np.asarray(image.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC)))
            row = {"caption": caption, "seed": seed, "num_inference_steps": num_steps, "guidance_scale": guidance_scale}
            rows.append(row | judge_picture(caption, image))
    return np.stack(pictures), rows


def generate(
    model: Model, captions: list[str], seeds: list[int], num_inference_steps: int, guidance_scale: float
) -> list[Image.Image]:
    """Pictures of captions by a diffusion model, in one batch."""
    pipeline = model.pipeline
    # A CPU with bf16 instructions is twice as fast with them, and the verdicts are of the pictures that come out.
    with torch.autocast(pipeline._execution_device.type, torch.bfloat16):
        latents = denoise(
            pipeline,
            source_noise(seeds, latent_shape(pipeline)),
            encode_prompts(pipeline, captions),
            seeds,
            sampler=model.spec.sampler,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
        return decode(pipeline, latents)


# --- the data set -----------------------------------------------------------------------------------------------------


def shard_path(folder: Path, split: str, index: int) -> Path:
    return folder / f"{split}-{index:05d}.safetensors"


def write_shard(path: Path, pictures: np.ndarray, rows: list[dict]) -> None:
    """One file with its SHA-256 beside it."""
    save_weights(path, {"pictures": torch.from_numpy(pictures)}, {"rows": json.dumps(rows)})


def read_shard(path: Path) -> tuple[np.ndarray, list[dict]]:
    """Raises: MissingWeights if there is none; BadWeights if it is damaged."""
    tensors, metadata = load_weights(path)
    return tensors["pictures"].numpy(), json.loads(metadata["rows"])


def is_intact(path: Path) -> bool:
    """Whether a shard is complete and its bytes are those that were written."""
    try:
        read_shard(path)
    except (MissingWeights, BadWeights):
        return False
    return True


def make_pictures(folder: Path, model: Model, settings: Settings, num_shards: dict[str, int]) -> None:
    """Make the shards of each split that are missing or damaged."""
    write_manifest(folder, {"settings": asdict(settings) | {"variants": [list(variant) for variant in VARIANTS]}})
    wanted = [(split, index) for split in SPLITS for index in range(num_shards[split])]
    for split, index in tqdm(wanted, "shards", mininterval=5):
        path = shard_path(folder, split, index)
        if not is_intact(path):
            write_shard(path, *make_shard(model, settings, split, index))


@dataclass(frozen=True)
class Pictures:
    """One split in memory: pictures (N, S, S, 3) uint8 and their N rows."""

    pixels: np.ndarray
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def by_caption(self) -> list[np.ndarray]:
        """The indices of each caption's pictures."""
        return [np.asarray(rows) for rows in self.rows.groupby("caption", sort=True).indices.values()]

    @cached_property
    def contrasts(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """By "right", by dimension and by "quality": for captions that have both, indices of good and of bad pictures.

        For "quality" these are pictures of the same verdict, of many steps and of few.
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
        """(N,) whether a picture was made with the model's standard settings."""
        steps, guidance = STANDARD
        return ((self.rows["num_inference_steps"] == steps) & (self.rows["guidance_scale"] == guidance)).to_numpy()


def read_pictures(folder: Path, split: str) -> Pictures:
    """Raises: InvalidInput if there are no shards; BadWeights if one is damaged."""
    shards = [read_shard(path) for path in sorted(folder.glob(f"{split}-*.safetensors"))]
    if not shards:
        raise InvalidInput(f"There are no pictures in {folder}: make them with train/shapes/judge_pictures.py.")
    rows = pd.DataFrame([row for _, part in shards for row in part])
    return Pictures(np.concatenate([pixels for pixels, _ in shards]), rows)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    defaults = Settings()
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the shards go")
    parser.add_argument("--num-shards", type=int, default=25, help="shards to train on")
    parser.add_argument("--num-held-out-shards", type=int, default=8, help="shards to test on")
    parser.add_argument("--captions-per-shard", type=int, default=defaults.captions_per_shard)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    arguments = parser.parse_args()
    num_shards = {"train": arguments.num_shards, "held_out": arguments.num_held_out_shards}
    if min(*num_shards.values(), arguments.captions_per_shard) < 1:
        raise InvalidInput("There must be at least one caption in a shard, and one shard in each split.")
    settings = Settings(arguments.seed, arguments.captions_per_shard)
    make_pictures(arguments.folder, load_model("shapes"), settings, num_shards)
    for split in SPLITS:
        pictures = read_pictures(arguments.folder, split)
        print(f"{split}: {len(pictures)} pictures of {len(pictures.by_caption)} captions")
        print(pictures.rows.groupby(["num_inference_steps", "guidance_scale"])[["right", "score", "malformed"]].mean())


if __name__ == "__main__":
    run_command(main)
