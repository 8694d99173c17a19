"""Weights that anyone can rebuild from the names of their keys alone, so that two programs can hold the same model."""

import math
import zlib

import torch

CONSTANTS = ("logit_scale", "inv_freq", "position_ids", "attn_mask", "running_mean", "running_var")


def rebuilt(key: str, value: torch.Tensor) -> torch.Tensor:
    """The tensor that replaces `value` under `key`: random, seeded by the key, scaled to keep activations near 1."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    noise = torch.randn(value.shape, generator=generator)
    if value.ndim > 1:
        return noise / math.sqrt(math.prod(value.shape[1:]))
    return 0.1 * noise + (1 if key.endswith("weight") else 0)


def is_rebuilt(key: str, value: torch.Tensor) -> bool:
    """Which entries of a state dict are replaced: floating-point ones, except for constants and logit scales."""
    if not value.is_floating_point() or key.endswith(CONSTANTS):
        return False
    return not ("cross_model" in key and key.endswith("bias") and value.ndim == 1)


def rebuild(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict with rebuilt weights."""
    return {key: rebuilt(key, value) if is_rebuilt(key, value) else value for key, value in state.items()}
