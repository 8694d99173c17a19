"""Rewards that reach the noise: a few guided steps from a noise, what a verifier or judges think of it, and gradients.

Source: ReNO (arXiv 2406.04312) for gradient ascent on the noise, HyperNoise (arXiv 2508.09968) for training a network
on the same signal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .attention import plain_attention
from .errors import InvalidInput
from .families import Embeddings
from .model import Model
from .models import RewardSettings, Sampling
from .noise import Noise, add_noise, at_norm_of, sample_first_steps
from .pipelines import decode_pixels
from .verifier import missing_verifier

if TYPE_CHECKING:  # judges bring libraries that the verifier does without
    from .judges.base import Judge

VERIFIER = "verifier"
VIEWED_AT = (1.0, 0.6)  # shares of the timestep that was reached, under whose noise the verifier sees an image


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

    def __call__(
        self, noise: Noise, embeddings: Embeddings, prompts: Sequence[str] = (), seed: int = 0
    ) -> Float[Tensor, " batch"]:
        """Rewards; `seed` decides under which noise the verifier sees the images, the same for all rows."""
        settings, model = self.settings, self.model
        own, given = model.spec.sampling.guidance_scale, settings.guidance_scale
        sampling = Sampling("ddim", settings.num_inference_steps, own if given is None else given)
        with plain_attention(noise):
            latents, timestep, clean = sample_first_steps(
                model.pipeline, noise, embeddings, sampling, settings.num_steps, grad=torch.is_grad_enabled()
            )
            total = torch.zeros(len(noise), device=latents.device)
            pixels: Tensor | None = None
            for name, weight in settings.weights:
                if name == VERIFIER:
                    views = make_views(model.pipeline, clean, timestep, settings.num_views, seed)
                    part = self._verify(views or [(latents, timestep)], embeddings)
                else:
                    pixels = decode_pixels(model.pipeline, clean) if pixels is None else pixels
                    part = self.judges[name].score_pixels(pixels, list(prompts))
                total = total + weight * part
        return total

    def _verify(self, views: Sequence[tuple[Noise, int | float]], embeddings: Embeddings) -> Float[Tensor, " batch"]:
        """The verifier's mean log-probability over views of the same rows."""
        verifier, pipeline = self.model.verifier, self.model.pipeline
        assert verifier is not None
        return torch.stack([F.logsigmoid(verifier(pipeline, *view, embeddings)) for view in views]).mean(0)


def make_views(
    pipeline: Any, clean: Noise, timestep: int | float, num_views: int, seed: int
) -> list[tuple[Noise, int | float]]:
    """Images (B, C, h, w) under noise drawn anew, and the timesteps of it: `timestep` and a share of it in turns."""
    generator = torch.Generator().manual_seed(seed)
    views: list[tuple[Noise, int | float]] = []
    for index in range(num_views):
        at = round(timestep * VIEWED_AT[index % len(VIEWED_AT)])
        noise = torch.randn(clean.shape[1:], generator=generator).to(clean)
        views.append((add_noise(pipeline, clean, noise.expand_as(clean), at), at))
    return views


def reward_gradient(
    reward: Any, noise: Noise, embeddings: Embeddings, prompts: Sequence[str] = (), seed: int = 0
) -> tuple[Float[Tensor, " batch"], Noise]:
    """Rewards of each row, and the gradient of each row's reward at its noise."""
    leaf = noise.detach().requires_grad_(True)
    with torch.enable_grad():
        rewards = reward(leaf, embeddings, prompts, seed)
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


NUM_ITERATIONS, STEP_SIZE = 12, 0.015  # of ascent; sizes are root mean squares per value
"""After 0.03 a row's gradient has nothing in common with the one before, so that longer steps gain little."""
SINGLE_STEP_SIZE = 0.03
ASCENDED_AT_ONCE = 16
"""Rows whose activations, for the gradient through several steps, are in memory at a time."""


def _in_parts(
    move: Callable[[Noise, Embeddings, Sequence[str]], Noise],
    source: Noise,
    embeddings: Embeddings,
    prompts: Sequence[str],
) -> Noise:
    """What `move` makes of all rows, of which few are in memory at a time."""
    parts = []
    for first in range(0, len(source), ASCENDED_AT_ONCE):
        rows = slice(first, first + ASCENDED_AT_ONCE)
        own = {name: value[rows] for name, value in embeddings.items()}
        parts.append(move(source[rows], own, prompts[rows]))
    return torch.cat(parts)


def ascend(
    reward: Any,
    source: Noise,
    embeddings: Embeddings,
    prompts: Sequence[str] = (),
    *,
    num_iterations: int = NUM_ITERATIONS,
    step_size: float = STEP_SIZE,
    momentum: float = 0.7,
) -> Noise:
    """Noise after gradient ascent on the reward, with the norm of the source noise; the best iterate of each row.

    Each iteration moves a row by `step_size` (rms per value) along its own gradient, whatever the gradient's norm.
    Differs from ReNO: steps are normalised row by row in the place of clipping, and the norm is kept exactly.
    """

    def move(source: Noise, embeddings: Embeddings, prompts: Sequence[str]) -> Noise:
        return _ascend(reward, source, embeddings, prompts, num_iterations, step_size, momentum)

    return _in_parts(move, source, embeddings, prompts)


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
    noise, velocity = source.clone(), torch.zeros_like(source)
    best, best_reward = noise.clone(), torch.full((len(source),), -torch.inf)
    for iteration in range(num_iterations + 1):
        rewards, gradient = reward_gradient(reward, noise, embeddings, prompts, seed=iteration)
        better = rewards.cpu() > best_reward
        best[better], best_reward = noise[better], torch.where(better, rewards.cpu(), best_reward)
        if iteration == num_iterations:
            break
        velocity = momentum * velocity + _step_along(gradient, step_size)
        noise = at_norm_of(noise + velocity.to(noise), source)
    return best


def _step_along(gradient: Noise, size: float) -> Noise:
    """A step of one size (rms per value) along each row's gradient; what is not finite counts as zero."""
    direction = F.normalize(torch.nan_to_num(gradient).flatten(1), dim=1).view_as(gradient)
    return direction * gradient[0].numel() ** 0.5 * size


def step_up(
    reward: Any, source: Noise, embeddings: Embeddings, prompts: Sequence[str] = (), step_size: float = SINGLE_STEP_SIZE
) -> Noise:
    """Noise a single step of ascent away, whatever comes of it, with the norm of the source noise.

    For a network to learn from: along its own gradient a noise gains little, since the gradient is another one a step
    later, but what the gradients of many noises have in common lasts.
    """

    def move(source: Noise, embeddings: Embeddings, prompts: Sequence[str]) -> Noise:
        _, gradient = reward_gradient(reward, source, embeddings, prompts)
        return at_norm_of(source + _step_along(gradient, step_size).to(source), source)

    return _in_parts(move, source, embeddings, prompts)
