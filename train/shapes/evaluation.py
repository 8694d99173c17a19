"""What a version of the embedded model is worth while it trains: images of held-out captions, and their verdicts."""

from collections import Counter
from typing import Any

import numpy as np
import torch

from golden.checkers import FAULTS, Verdict
from golden.model import Model
from golden.models import Sampling, find_model
from golden.noise import source_noise
from golden.pipelines import encode_anew, latent_shape, sample_images
from golden.shapes import CATEGORIES, check_image, parse_caption, sample_caption

SAMPLING = Sampling("ddim", num_inference_steps=20, guidance_scale=5.5)
SEED = 10**6
BATCH_SIZE = 50


def sample_held_out(num_per_category: int, seed: int = SEED) -> list[str]:
    """Held-out captions of every category, the same at every call.

    They may be test prompts, since few simple requests are held out; the seeds of their noises are not the tests'.
    """
    rng = np.random.default_rng(seed)
    return [sample_caption(rng, category, held_out=True) for category in CATEGORIES for _ in range(num_per_category)]


@torch.inference_mode()
def count_right(pipeline: Any, captions: list[str], seed: int = SEED, sampling: Sampling | None = None) -> dict:
    """Generate one image of each caption, with SAMPLING unless another is given, and check it.

    Returns: the figures of `summarise`.
    """
    model = Model(find_model("shapes"), pipeline, None)
    verdicts = []
    for start in range(0, len(captions), BATCH_SIZE):
        batch = captions[start : start + BATCH_SIZE]
        seeds = [seed + start + index for index in range(len(batch))]
        noise = source_noise(seeds, latent_shape(pipeline))
        with torch.autocast(pipeline._execution_device.type, torch.bfloat16):
            images = sample_images(model, noise, encode_anew(pipeline, batch), seeds, sampling or SAMPLING)
        verdicts += [check_image(caption, image) for caption, image in zip(batch, images, strict=True)]
    return summarise(captions, verdicts)


def summarise(captions: list[str], verdicts: list[Verdict]) -> dict[str, Any]:
    """Shares of images in [0, 1]: `right` of all, `right_by_category`, and `wrong_by_fault`, each by its main fault."""
    categories = [parse_caption(caption).category for caption in captions]
    total, right = Counter(categories), Counter[str]()
    right.update(category for category, verdict in zip(categories, verdicts, strict=True) if verdict.correct)
    faults = Counter(verdict.fault for verdict in verdicts)
    return {
        "right": round(right.total() / len(verdicts), 4),
        "right_by_category": {name: round(right[name] / total[name], 4) for name in CATEGORIES if total[name]},
        "wrong_by_fault": {name: round(faults[name] / len(verdicts), 4) for name in FAULTS if faults[name]},
    }
