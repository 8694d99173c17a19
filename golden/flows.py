"""Flow matching: re-denoise sampling, repaint and the first steps of a schedule, between sigmas that are named.

Latents of a flow are x = (1 - sigma) x0 + sigma noise, and the network predicts the velocity v = noise - x0. Steps are
named by their sigmas and not counted, since a schedule with a shift bends: with SD3's shift of 3 the first of ten steps
leads to 0.96, and not to 0.9.
"""

from collections.abc import Sequence
from functools import wraps
from itertools import pairwise
from typing import Any

import diffusers
import torch
from jaxtyping import Float
from torch import Tensor

from .errors import InvalidInput
from .families import Embeddings, find_family
from .models import Redenoise, Sampling
from .pipelines import denoise
from .samplers import make_sampler

Noise = Float[Tensor, "batch channels height width"]


def redenoise_flow(pipeline: Any, source: Noise, embeddings: Embeddings, settings: Redenoise) -> Noise:
    """Target noise from source noise: down from sigma 1 to `settings.sigma_down` with v_w, and back with v_1.

    Both velocities are those where a step begins, so that only the difference of the two guidances stays. With
    `settings.num_steps_down` the way down is cut into equal parts.

    Raises: InvalidInput for a `sigma_down` outside (0, 1), no step down, or another `evaluate_at` than "t".
    """
    if settings.evaluate_at != "t":
        raise InvalidInput(f"A flow's step back is evaluated at 't', where it leads, got {settings.evaluate_at!r}.")
    start = source if settings.norm == 1 else settings.norm * source
    latents, target = start.float().cpu(), start.float().cpu()
    for sigma, lower in pairwise(_way_down(settings.sigma_down, settings.num_steps_down)):
        guided, plain = (
            predict_velocity(pipeline, latents, embeddings, sigma, scale)
            for scale in (settings.guidance_scale, settings.inversion_guidance_scale)
        )
        # target = x - (sigma - sigma') (v_w - v_1)
        target = target - (sigma - lower) * (guided - plain)
        latents = latents - (sigma - lower) * guided
    return target


def repaint_flow(
    pipeline: Any, source: Noise, embeddings: Embeddings, fresh: Noise, guidance_scale: float, sigma_down: float
) -> Noise:
    """Noise after one step down from sigma 1 to sigma' and random noise half the way back up, with unit variance.

    Differs from the paper: all the way back to 1 the forward process would keep nothing of the source noise. Half of
    the way it keeps a half; the paper's DDIM steps keep 0.62.
    """
    _way_down(sigma_down, 1)
    lower, upper = sigma_down, (1 + sigma_down) / 2
    velocity = predict_velocity(pipeline, source, embeddings, 1.0, guidance_scale)
    latents = source.float().cpu() - (1 - lower) * velocity
    # x_up = kept x_down + sqrt(sigma_up^2 - kept^2 sigma_down^2) noise
    kept = (1 - upper) / (1 - lower)
    noise = kept * latents + (upper**2 - (kept * lower) ** 2) ** 0.5 * fresh
    return noise / (upper**2 + (1 - upper) ** 2) ** 0.5


def predict_velocity(
    pipeline: Any, latents: Noise, embeddings: Embeddings, sigma: float, guidance_scale: float
) -> Noise:
    """The guided velocity at latents of noise level sigma, in fp32 on the CPU.

    Taken from the network and not from a step's latents, whose half precision would drown it in rounding.
    """
    scheduler = step_between(pipeline.scheduler.config, (sigma, 0.0))
    denoise(pipeline, latents, embeddings, [0] * len(latents), Sampling(scheduler, 1, guidance_scale))
    velocities = torch.cat(scheduler.velocities)
    return find_family(pipeline).unpack(pipeline, velocities, *latents.shape[2:])


def step_between(config: Any, sigmas: Sequence[float]) -> Any:
    """A scheduler that steps between these sigmas, from high to low; it keeps the `velocities` of its steps."""

    class StepsBetween(diffusers.FlowMatchEulerDiscreteScheduler):
        def set_timesteps(
            self, num_inference_steps: Any = None, device: Any = None, sigmas: Any = None, mu: Any = None
        ) -> None:
            self.sigmas = torch.tensor(path)
            self.timesteps = (self.sigmas[:-1] * self.config.num_train_timesteps).to(device)
            self.num_inference_steps = len(self.timesteps)
            self._step_index = self._begin_index = None

        def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> Any:
            velocities.append(model_output.detach().float().cpu())
            return super().step(model_output, timestep, sample, **kwargs)

    path, velocities = [float(sigma) for sigma in sigmas], []  # type: ignore[var-annotated]
    scheduler = StepsBetween(num_train_timesteps=config.num_train_timesteps)
    scheduler.velocities = velocities
    return scheduler


def first_steps_of_flow(config: Any, num_steps: int) -> Any:
    """A scheduler that takes only the first steps of a model's own schedule; its `path` is their timesteps."""
    own = make_sampler("flow_euler", config)

    class FirstFlowSteps(diffusers.FlowMatchEulerDiscreteScheduler):
        timesteps: Tensor
        sigmas: Tensor

        @wraps(diffusers.FlowMatchEulerDiscreteScheduler.set_timesteps)  # pipelines ask whether it takes sigmas
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            self.path = tuple(self.timesteps[: num_steps + 1].tolist())
            self.timesteps, self.sigmas = self.timesteps[:num_steps], self.sigmas[: num_steps + 1]

    return FirstFlowSteps(**{name: value for name, value in own.config.items() if not name.startswith("_")})


def _way_down(sigma_down: float, num_steps: int) -> list[float]:
    """Sigmas from 1 to `sigma_down` in equal steps. Raises: InvalidInput."""
    if not 0 < sigma_down < 1:
        raise InvalidInput(f"A flow steps down to a sigma between 0 and 1, got {sigma_down:g}.")
    if num_steps < 1:
        raise InvalidInput(f"Re-denoise sampling takes 1 step down or more, got {num_steps}.")
    return [1 - (1 - sigma_down) * step / num_steps for step in range(num_steps + 1)]
