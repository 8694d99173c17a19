"""How it works, shown on a comparison's own noise and steps."""

import base64
from typing import Any

from PIL import Image
from torch import Tensor

from ..compare import Comparison
from ..drawing import shrink, to_webp
from ..noise import noise_health, source_noise
from .arms import describe_arm, find_changed
from .drawing import draw_change, draw_noise
from .html import render

THUMBNAIL = 96  # pixels


def find_source(comparison: Comparison) -> Tensor:
    """The source noise (C, h, w) of a comparison, whether or not one of its images is made from it."""
    if "standard" in comparison.noises:
        return comparison.noises["standard"]
    shape = next(iter(comparison.noises.values())).shape
    return source_noise([comparison.request.seed], tuple(shape))[0]


def show_flow(comparison: Comparison | None) -> str:
    """From source noise to images, with every stage as it was in this comparison; words alone before there is one."""
    if comparison is None or not comparison.noises:
        return render("how", flow=None)
    return render("how", flow=_describe(comparison))


def _describe(comparison: Comparison) -> dict[str, Any]:
    arms, request = list(comparison.images), comparison.request
    source, arm = find_source(comparison), find_changed(arms)
    described: dict[str, Any] = {
        "prompt": request.prompt,
        "seed": request.seed,
        "num_steps": request.num_inference_steps,
        "source": embed(draw_noise(source), lossless=True),
        "changed": None,
        "rows": [_describe_row(comparison, index) for index in range(len(arms))],
        "steps": list(comparison.steps),
    }
    if arm is not None:
        noise = comparison.noises[arm]
        words = describe_arm(arm)
        described["changed"] = {
            "title": words.title,
            "help": words.help,
            "is_npnet": arm == "npnet",
            "strength": request.strength,
            "distance": float(noise_health(noise[None], source[None])["distance"]),
            "change": embed(draw_change(source, noise), lossless=True),
            "noise": embed(draw_noise(noise), lossless=True),
        }
    return described


def _describe_row(comparison: Comparison, index: int) -> dict[str, Any]:
    """The images of an arm on their way, and the finished one."""
    arm = list(comparison.images)[index]
    verdict = comparison.verdicts.get(arm)
    return {
        "title": describe_arm(arm).title,
        "images": [embed(images[index]) for images in comparison.steps.values()],
        "final": embed(comparison.images[arm]),
        "correct": verdict.correct if verdict else None,
    }


def embed(image: Image.Image, lossless: bool = False) -> str:
    """An image as a data URL, at most THUMBNAIL pixels high and wide."""
    small = to_webp(shrink(image.convert("RGB"), THUMBNAIL), lossless=lossless, quality=80)
    return "data:image/webp;base64," + base64.b64encode(small).decode()
