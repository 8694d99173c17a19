"""NPNet for noise of any size: overlapping windows where the noise is larger, a margin where it is smaller.

Noise is never resized: nearest resizing repeats its values and smooth resizing averages them, and either makes it
coloured, to which diffusion models respond with stains. Here the source noise stays as it is, and only the change that
NPNet makes to it is assembled from windows of NPNet's own size.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import InvalidInput
from .families import find_family
from .models import ModelSpec
from .npnet import NPNet
from .npnet.branches import Noise
from .pipelines import latent_shape

OVERLAP = 0.25
"""The least share of a window that it has in common with its neighbour."""
SMALLEST_SHARE = 0.5
"""The smallest height and width, as a share of NPNet's own. Below it NPNet would see more margin than image."""

_MARGIN_SEED = 2**32  # beyond every seed of a source noise, so that the margin never repeats one
_WINDOWS_AT_ONCE = 16


def predict_golden(npnet: NPNet, source_noise: Noise, prompt_embeds: Float[Tensor, "prompts tokens features"]) -> Noise:
    """Golden noise (B, C, h, w) for source noise (B, C, h, w) and prompt embeddings (B, T, D), on NPNet's device.

    At NPNet's own size this is NPNet. Along a larger side windows of its size overlap by a quarter or more, and the
    golden noise is the source noise plus the windows' changes, blended by weights that sum to one: the noise stays as
    white, and its variance stays between those of the windows. Along a smaller side NPNet sees the noise in the middle
    of more noise, as if the image were cut out of a larger one. Of embeddings with more tokens than NPNet takes it sees
    the first. Every window sees the whole prompt, so that NPNet's idea of where something is in the image holds within
    each window, not across them.
    Differs from the paper: it only has 1024 x 1024 pixels.

    Raises: InvalidInput for noise of less than half NPNet's height or width, or with other channels.
    """
    config = npnet.config
    embeds = prompt_embeds[:, : config.num_tokens]
    height, width = source_noise.shape[-2:]
    if (height, width) == (config.height, config.width):
        return npnet(source_noise, embeds)
    if height < SMALLEST_SHARE * config.height or width < SMALLEST_SHARE * config.width:
        raise InvalidInput(
            f"This NPNet was trained on latents of {config.height} x {config.width} and takes half of that and more "
            f"along each side, got {height} x {width} (a latent is 8 x 8 pixels)."
        )
    canvas, top, left = add_margin(source_noise, config.height, config.width)
    change = blend_changes(npnet, canvas, embeds)
    return source_noise + change[..., top : top + height, left : left + width].to(source_noise.dtype)


def add_margin(
    noise: Noise, height: int, width: int
) -> tuple[Float[Tensor, "batch channels full_height full_width"], int, int]:
    """Noise (B, C, h, w) in the middle of other white noise of at least height x width; its top and left there.

    The margin is the same for every row and every call.
    """
    batch, channels, own_height, own_width = noise.shape
    full_height, full_width = max(height, own_height), max(width, own_width)
    top, left = (full_height - own_height) // 2, (full_width - own_width) // 2
    generator = torch.Generator().manual_seed(_MARGIN_SEED)
    canvas = torch.randn(channels, full_height, full_width, generator=generator)
    canvas = canvas.to(noise.device).repeat(batch, 1, 1, 1)
    canvas[..., top : top + own_height, left : left + own_width] = noise.float()
    return canvas, top, left


def blend_changes(npnet: NPNet, source_noise: Noise, prompt_embeds: Float[Tensor, "prompts tokens features"]) -> Noise:
    """NPNet's change (B, C, H, W), in fp32, of source noise of its size or larger along each side."""
    config = npnet.config
    batch, _, height, width = source_noise.shape
    corners = [(y, x) for y in window_starts(height, config.height) for x in window_starts(width, config.width)]
    ramp_y, ramp_x = (_ramp(n).to(source_noise.device) for n in (config.height, config.width))
    weight = ramp_y[:, None] * ramp_x
    total = torch.zeros_like(source_noise, dtype=torch.float32)
    weights = torch.zeros(height, width, device=source_noise.device)
    at_once = max(1, _WINDOWS_AT_ONCE // batch)
    for start in range(0, len(corners), at_once):
        part = corners[start : start + at_once]
        places = [(..., slice(y, y + config.height), slice(x, x + config.width)) for y, x in part]
        windows = torch.cat([source_noise[place] for place in places]).float()
        changes = npnet(windows, prompt_embeds.repeat(len(part), 1, 1)) - windows
        for place, change in zip(places, changes.split(batch), strict=True):
            total[place] += weight * change
            weights[place] += weight
    return total / weights


def window_starts(length: int, window: int) -> list[int]:
    """Where windows begin that cover `length` >= `window` cells evenly, neighbours sharing at least OVERLAP of one."""
    longest_step = max(1, window - math.ceil(OVERLAP * window))
    num_gaps = math.ceil((length - window) / longest_step)
    return [round(index * (length - window) / max(1, num_gaps)) for index in range(num_gaps + 1)]


def _ramp(length: int) -> Float[Tensor, " length"]:
    """(length,) weights that rise from the ends of a window to its middle and are above zero everywhere."""
    cells = torch.arange(length)
    return torch.minimum(cells + 1, length - cells).float()


# --- what a model can draw --------------------------------------------------------------------------------------------


def native_size(pipeline: Any) -> tuple[int, int]:
    """A model's own height and width in pixels."""
    _, height, width = latent_shape(pipeline)
    cell = find_family(pipeline).cell_size(pipeline)
    return height * cell, width * cell


def side_limits(native: int, spec: ModelSpec, step: int) -> tuple[int, int]:
    """The smallest and the largest side in pixels, multiples of `step`, that a model can draw."""
    low, high = spec.size_limits
    return max(step, math.ceil(low * native / step) * step), math.floor(high * native / step) * step


def check_size(height: int, width: int, spec: ModelSpec, pipeline: Any) -> None:
    """Raises: InvalidInput for a size in pixels that the model cannot draw."""
    for name, side, native in zip(("height", "width"), (height, width), native_size(pipeline), strict=True):
        low, high = side_limits(native, spec, find_family(pipeline).cell_size(pipeline))
        if side > high and spec.size_limits[1] == 2:
            raise InvalidInput(f"The {name} must be at most {high} pixels, twice the native size, got {side}.")
        if not low <= side <= high:
            raise InvalidInput(
                f"The {name} must be from {low} to {high} pixels, got {side}: at other sizes "
                f"{spec.title or spec.name} draws more or fewer objects than the prompt asks for."
            )


def describe_sizes(spec: ModelSpec, pipeline: Any) -> str:
    """Which sizes a model takes, and what becomes of them."""
    limits = [side_limits(native, spec, find_family(pipeline).cell_size(pipeline)) for native in native_size(pipeline)]
    (low, high), (_, widest) = limits
    allowed = f"from {low} to {max(high, widest)}" if spec.size_limits[0] else "at most twice the native size"
    unchecked = " Images of another size are not checked." if spec.checker else ""
    return (
        f"In pixels, {allowed}; leave empty for the native size. NPNet works at the native size: it sees larger noise "
        f"in overlapping windows, smaller noise with a margin around it. Noise is never resized.{unchecked}"
    )


def say_unchecked(height: int | None, width: int | None, spec: ModelSpec, pipeline: Any) -> str:
    """A sentence on a size, None for the native side, at which a model's checker does not apply; else nothing."""
    native = native_size(pipeline)
    size = (height or native[0], width or native[1])
    if spec.checker is None or size == native:
        return ""
    return (
        f"At {size[1]} x {size[0]} nothing is checked: the checker and the embedded judges are made for "
        f"{native[1]} x {native[0]}, so scores mean little here."
    )
