"""Rewards that reach the noise: a few guided steps from a noise, what a verifier or judges think of it, and gradients.

Source: ReNO (arXiv 2406.04312) for gradient ascent on the noise, HyperNoise (arXiv 2508.09968) for training a network
on the same signal.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import InvalidInput
from .families import Embeddings
from .model import Model
from .models import RewardSettings, Sampling
from .noise import Noise, sample_first_steps
from .pipelines import decode_pixels
from .verifier import missing_verifier

if TYPE_CHECKING:  # judges bring libraries that the verifier does without
    from .judges.base import Judge

VERIFIER = "verifier"


class Reward:
    """A differentiable reward: (noise (B, C, h, w), embeddings, prompts) -> (B,).

    The verifier's part is its log-probability that the image will be right; a judge's is its score.
    """

    def __init__(
        self, model: Model, settings: RewardSettings | None = None, judges: "Mapping[str, Judge] | None" = None
    ) -> None:
        """Raises: MissingWeights if a reward is asked for that is not there."""
        self.model, self.settings, self.judges = model, settings or RewardSettings(), dict(judges or {})
        for name, _ in self.settings.weights:
            if name == VERIFIER and model.verifier is None:
                raise missing_verifier(model.spec.name)
            if name != VERIFIER and name not in self.judges:
                raise InvalidInput(f"The reward {name[:40]!r} is neither {VERIFIER!r} nor a judge that was loaded.")

    def __call__(self, noise: Noise, embeddings: Embeddings, prompts: Sequence[str] = ()) -> Float[Tensor, " batch"]:
        settings, model = self.settings, self.model
        sampling = Sampling("ddim", settings.num_inference_steps, settings.guidance_scale)
        with plain_attention(noise):
            latents, timestep, clean = sample_first_steps(
                model.pipeline, noise, embeddings, sampling, settings.num_steps, grad=torch.is_grad_enabled()
            )
            total = torch.zeros(len(noise), device=latents.device)
            pixels: Tensor | None = None
            for name, weight in settings.weights:
                if name == VERIFIER:
                    assert model.verifier is not None
                    part = F.logsigmoid(model.verifier(model.pipeline, latents, timestep, embeddings))
                else:
                    pixels = decode_pixels(model.pipeline, clean) if pixels is None else pixels
                    part = self.judges[name].score_pixels(pixels, list(prompts))
                total = total + weight * part
        return total


def plain_attention(noise: Tensor) -> AbstractContextManager:
    """On CPUs the fused attention kernel's backward pass is slow: plain attention is 1.5 x faster with gradients."""
    if noise.device.type == "cpu" and torch.is_grad_enabled():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def reward_gradient(
    reward: Any, noise: Noise, embeddings: Embeddings, prompts: Sequence[str] = ()
) -> tuple[Float[Tensor, " batch"], Noise]:
    """Rewards of each row, and the gradient of each row's reward at its noise."""
    leaf = noise.detach().requires_grad_(True)
    with torch.enable_grad():
        rewards = reward(leaf, embeddings, prompts)
        (gradient,) = torch.autograd.grad(rewards.sum(), leaf)
    return rewards.detach(), gradient


def clip_rows(gradient: Noise, limit: float | Tensor) -> Noise:
    """Rows whose norm exceeds `limit`, scaled down to it; rows with NaN become zero.

    Gradients of single rows are up to a hundred times the median: a limit on the whole batch would leave the others
    nothing.
    """
    norms = gradient.flatten(1).norm(dim=1)
    scale = (limit / norms.clamp_min(1e-12)).clamp_max(1.0)
    return torch.nan_to_num(gradient * scale.view(-1, 1, 1, 1), nan=0.0, posinf=0.0, neginf=0.0)


NUM_ITERATIONS = 6  # of ascent, after which the verifier is more pleased than the checker
ASCENDED_AT_ONCE = 16
"""Rows whose activations, for the gradient through several steps, are in memory at a time."""


def ascend(
    reward: Any,
    source: Noise,
    embeddings: Embeddings,
    prompts: Sequence[str] = (),
    *,
    num_iterations: int = NUM_ITERATIONS,
    step_size: float = 0.03,
    momentum: float = 0.7,
) -> Noise:
    """Noise after gradient ascent on the reward, with the norm of the source noise; the best iterate of each row.

    Each iteration moves a row by `step_size` (rms per value) along its own gradient, whatever the gradient's norm.
    Differs from ReNO: steps are normalised row by row in the place of clipping, and the norm is kept exactly.
    """
    parts = []
    for first in range(0, len(source), ASCENDED_AT_ONCE):
        rows = slice(first, first + ASCENDED_AT_ONCE)
        own = {name: value[rows] for name, value in embeddings.items()}
        parts.append(_ascend(reward, source[rows], own, prompts[rows], num_iterations, step_size, momentum))
    return torch.cat(parts)


def _ascend(
    reward: Any,
    source: Noise,
    embeddings: Embeddings,
    prompts: Sequence[str],
    num_iterations: int,
    step_size: float,
    momentum: float,
) -> Noise:
    """`ascend` for rows that are in memory together."""
    norm = source.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    noise, velocity = source.clone(), torch.zeros_like(source)
    best, best_reward = noise.clone(), torch.full((len(source),), -torch.inf)
    for iteration in range(num_iterations + 1):
        rewards, gradient = reward_gradient(reward, noise, embeddings, prompts)
        better = rewards.cpu() > best_reward
        best[better], best_reward = noise[better], torch.where(better, rewards.cpu(), best_reward)
        if iteration == num_iterations:
            break
        direction = F.normalize(torch.nan_to_num(gradient).flatten(1), dim=1).view_as(source)
        velocity = momentum * velocity + direction * source[0].numel() ** 0.5 * step_size
        noise = noise + velocity.to(noise)
        noise = noise * (norm / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    return best
