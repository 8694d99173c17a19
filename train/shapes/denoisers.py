"""What the trainings of the embedded UNet and of the embedded flow share: options, the cached training set, folders."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golden.errors import MissingWeights
from golden.flags import flag
from train.shapes.training import RUNS, SCHEDULES, TrainingPlan

MAX_FILE_SIZE = "9MB"
UNCONDITIONAL_SHARE = 0.1
CACHE = RUNS / "latents"


@dataclass(frozen=True)
class DenoiserOptions:
    """How long to train a network that denoises, and when to look at its images."""

    states: bool = flag(False, "encode the captions of the cached training set and stop")
    assemble: bool = flag(False, "write the pipeline from the last checkpoint and stop")
    start: Path | None = flag(None, "a network's folder to continue from, with a new optimizer", spelling="--from")
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, mps, ...")
    compile: bool = flag(False, "torch.compile the network (needs a C++ compiler)")
    num_steps: int = flag(60000, "training steps in all, those of earlier runs included")
    schedule: str = flag("constant", "learning rate after the warm-up", choices=tuple(SCHEDULES))
    decay_steps: int = flag(0, "of a constant schedule, the last steps, over which it decays to 0")
    batch_size: int = flag(64, "latents per step")
    learning_rate: float = flag(1e-3, "highest learning rate")
    muon: bool = flag(False, "train the matrices of transformer blocks with Muon")
    ema_decay: float = flag(0.999, "decay of the moving average, per step")
    seed: int = flag(3, "seed of the weights, of the training set and of every batch")
    evaluate_every: int = flag(
        2500, "generate and check images of held-out captions after so many steps (0: at the end)"
    )
    num_evaluated: int = flag(20, "captions of each category in such an evaluation")

    def plan(self) -> TrainingPlan:
        return TrainingPlan(
            self.num_steps,
            self.learning_rate,
            num_warmup=300,
            schedule=self.schedule,
            decay_steps=self.decay_steps,
            weight_decay=0.01,
            muon=self.muon,
            ema_decay=self.ema_decay,
            evaluate_every=self.evaluate_every,
        )


def find_cached(name: str, option: str) -> Path:
    """A file of the cached training set. Raises: MissingWeights naming the option that makes it."""
    path = CACHE / name
    if not path.exists():
        raise MissingWeights(f"There is no {path}: make it with {option}.")
    return path


def load_captions() -> list[str]:
    """The captions of the cached training set. Raises: MissingWeights if there is none."""
    return json.loads(find_cached("captions.json", "train_unet.py --cache").read_text())


def load_cache(states: str, option: str) -> dict[str, Tensor]:
    """ "latents" (N, images per caption, 4, 16, 16) and what the file `states`, made by `option`, holds of N captions.

    Raises: MissingWeights if either was not made.
    """
    parts = find_cached("latents.pt", "train_unet.py --cache"), find_cached(states, option)
    return {name: value for path in parts for name, value in torch.load(path, weights_only=True, mmap=True).items()}


def draw_latents(
    data: dict[str, Tensor], rng: np.random.Generator, batch_size: int, share: slice
) -> tuple[Tensor, Tensor]:
    """A worker's `share` of a batch: rows of captions (B,), and latents (B, 4, 16, 16) of one image of each."""
    rows = torch.from_numpy(rng.integers(0, len(data["latents"]), batch_size))[share]
    images = torch.from_numpy(rng.integers(0, data["latents"].shape[1], batch_size))[share]
    return rows, data["latents"][rows, images].float()


def tidy_folder(folder: Path) -> None:
    """Make a saved pipeline say what it is and not how it was made."""
    for name in ("text_encoder", "text_encoder_2"):
        # Or a plain from_pretrained would load these alone in half precision, and fail beside a network in full.
        config = folder / name / "config.json"
        config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    config = folder / "vae" / "config.json"  # diffusers notes where it was loaded from
    kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2) + "\n")
