"""Ways to make an image worse, each by a strength from 0, just visible, to 1."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter


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


def distort(pixels: np.ndarray, kind: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8 made worse in one of DISTORTIONS' ways, `strength` in [0, 1]."""
    return np.asarray(DISTORTIONS[kind](Image.fromarray(pixels), strength, rng))


def pick_distortion(rng: np.random.Generator) -> str:
    return str(rng.choice(list(DISTORTIONS)))
