"""Rewards that reach the noise: a few guided steps from a noise, what a verifier or judges think of it, and gradients.

Source: ReNO (arXiv 2406.04312) for gradient ascent on the noise, HyperNoise (arXiv 2508.09968) for training a network
on the same signal.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from .noise import Noise, at_norm_of, sample_first_steps
from .pipelines import decode_pixels, is_spared
from .verifier import missing_verifier

if TYPE_CHECKING:  # judges bring libraries that the verifier does without
    from .judges.base import Judge

VERIFIER = "verifier"


class Reward:
    """A differentiable reward: (noise (B, C, h, w), embeddings, prompts) -> (B,).

    The verifier's part is its log-probability that the image will be right, a judge's is its score. The verifier sees
    the latents that were reached, whose noise decides much of what follows; judges see the image that is expected.
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
        # Where memory is low rows are denoised one by one, and what is read on the way would be that of a single row.
        at_once = 1 if is_spared(self.model.pipeline) else len(noise)
        return torch.cat([self._rate(*part) for part in _split(noise, embeddings, prompts, at_once)])

    def _rate(self, noise: Noise, embeddings: Embeddings, prompts: Sequence[str]) -> Float[Tensor, " batch"]:
        """The rewards of rows that are denoised together."""
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
                    assert model.verifier is not None
                    part = F.logsigmoid(model.verifier(model.pipeline, latents, timestep, embeddings))
                else:
                    pixels = decode_pixels(model.pipeline, clean) if pixels is None else pixels
                    part = self.judges[name].score_pixels(pixels, list(prompts))
                total = total + weight * part
        return total


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
    return torch.cat([move(*part) for part in _split(source, embeddings, prompts, ASCENDED_AT_ONCE)])


def _split(
    noise: Noise, embeddings: Embeddings, prompts: Sequence[str], at_once: int
) -> Iterator[tuple[Noise, Embeddings, Sequence[str]]]:
    """Noise, embeddings and prompts of `at_once` rows at a time."""
    for first in range(0, len(noise), at_once):
        rows = slice(first, first + at_once)
        yield noise[rows], {name: value[rows] for name, value in embeddings.items()}, prompts[rows]


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
        rewards, gradient = reward_gradient(reward, noise, embeddings, prompts)
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

    For a network to learn from. The reward is a log-probability of success, and the step is as long as the doubt: the
    step size times one minus the probability, so that noises which do well already stay where they are.
    """

    def move(source: Noise, embeddings: Embeddings, prompts: Sequence[str]) -> Noise:
        rewards, gradient = reward_gradient(reward, source, embeddings, prompts)
        doubt = -torch.expm1(rewards.to(gradient).clamp_max(0)).view(-1, 1, 1, 1)
        return at_norm_of(source + (doubt * _step_along(gradient, step_size)).to(source), source)

    return _in_parts(move, source, embeddings, prompts)
