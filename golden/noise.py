"""Source noise from seeds, re-denoise sampling (inversion), repaint, and statistics of a noise.

Re-denoise sampling takes one denoising step with strong guidance and one inversion step back with weak guidance. What
the difference of the two guidances says about the prompt stays in the noise.
Source: arXiv 2411.09502, section 3.1 and Eq. 12.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import diffusers
import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_name, check_seed
from .errors import InvalidInput
from .families import Embeddings, find_family
from .flows import first_steps_of_flow, redenoise_flow, repaint_flow
from .models import Redenoise, Sampling
from .pipelines import denoise

Noise = Float[Tensor, "batch channels height width"]

REDENOISE_STEPS = 10
"""The schedule of which re-denoise sampling takes the first step. Source: the paper's section 5.1."""

# solver -> (scheduler of the step down, scheduler of the step back)
SOLVERS = {
    "ddim": ("DDIMScheduler", "DDIMInverseScheduler"),
    "dpm": ("DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler"),
}


def source_noise(seeds: Iterable[SupportsIndex], shape: Sequence[int]) -> Noise:
    """Standard Gaussian noise, one row of `shape` per seed, fp32 on the CPU: a row depends on its seed alone.

    Seeds are integers of Python, NumPy or torch. Raises: InvalidInput for one outside [0, 2**32 - 1].
    """
    checked = [check_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in checked])


def redenoise(pipeline: Any, source: Noise, embeddings: Embeddings, settings: Redenoise | None = None) -> Noise:
    """Target noise from source noise: one step down from T to T-k, one inversion step back. Source: Eq. 12.

    At ten steps of 1000, T is 901 and T-k is 801 by DDIM's schedule, 811 by DPM-Solver's; the first step of either is
    the same function of T and T-k.

    Differs from the paper: `settings.num_steps_down` steps may be taken before as many are taken back. Several small
    steps follow the path that an image takes, and one large step leaves it.

    Flows step between sigmas: see `flows.redenoise_flow`.

    Raises: InvalidInput for an unknown solver or `evaluate_at`, for fewer than 2 steps, or for more steps down than the
    schedule has before its last.
    """
    settings = settings or Redenoise()
    if find_family(pipeline).is_flow:
        return redenoise_flow(pipeline, source, embeddings, settings)
    down, back = (getattr(diffusers, name) for name in SOLVERS[check_name("solver", settings.solver, SOLVERS)])
    if settings.evaluate_at not in ("t", "t-k"):
        raise InvalidInput(f"The inversion step is evaluated at 't' or 't-k', got {settings.evaluate_at!r}.")
    num_steps = settings.num_inference_steps
    _check_num_steps(num_steps, settings.num_steps_down)
    config = pipeline.scheduler.config
    first = _first_steps_of(down, config, settings.num_steps_down)
    seeds, noise = [0] * len(source), source if settings.norm == 1 else settings.norm * source
    latents = denoise(pipeline, noise, embeddings, seeds, Sampling(first, num_steps, settings.guidance_scale))
    inversion = _steps_back_of(back, config, first.path, settings.evaluate_at)
    back_up = Sampling(inversion, num_steps, settings.inversion_guidance_scale)
    return denoise(pipeline, latents, embeddings, seeds, back_up).float().cpu()


def repaint(
    pipeline: Any,
    source: Noise,
    embeddings: Embeddings,
    seeds: Sequence[int],
    *,
    guidance_scale: float = 5.5,
    num_inference_steps: int = REDENOISE_STEPS,
    sigma_down: float = Redenoise.sigma_down,
) -> Noise:
    """Noise after one step down from T to T-k and random noise back up to T: the paper's Repaint baseline.

    Flows step down to `sigma_down` instead, see `flows.repaint_flow`.

    Source: Table 2 of the paper; the way up is the forward process q(x_T | x_{T-k}).

    Raises: InvalidInput for fewer than 2 steps.
    """
    # Other numbers than the source's own, or the fresh noise would be the source noise again.
    fresh = source_noise([(seed + 2**31) % 2**32 for seed in seeds], source.shape[1:])
    if find_family(pipeline).is_flow:
        return repaint_flow(pipeline, source, embeddings, fresh, guidance_scale, sigma_down)
    _check_num_steps(num_inference_steps)
    scheduler = _first_steps_of(diffusers.DDIMScheduler, pipeline.scheduler.config)
    latents = denoise(pipeline, source, embeddings, seeds, Sampling(scheduler, num_inference_steps, guidance_scale))
    noisy, cleaner = scheduler.path
    kept = scheduler.alphas_cumprod[noisy] / scheduler.alphas_cumprod[cleaner]
    return kept.sqrt() * latents.float().cpu() + (1 - kept).sqrt() * fresh


def sample_first_steps(
    pipeline: Any, noise: Noise, embeddings: Embeddings, sampling: Sampling, num_steps: int, *, grad: bool = False
) -> tuple[Noise, int | float, Noise]:
    """The first `num_steps` of a DDIM schedule: latents, the timestep where they are, and the estimate x0 of the image.

    Those of a flow are the first of its own schedule.
    With `grad`, gradients flow from both to the noise.
    """
    _check_num_steps(sampling.num_inference_steps, num_steps)
    config = pipeline.scheduler.config
    if find_family(pipeline).is_flow:
        scheduler = first_steps_of_flow(config, num_steps)
    else:
        scheduler = _first_steps_of(diffusers.DDIMScheduler, config, num_steps)
    estimates: list[Tensor] = []
    latents = denoise(
        pipeline,
        noise,
        embeddings,
        [0] * len(noise),
        Sampling(scheduler, sampling.num_inference_steps, sampling.guidance_scale),
        on_step=lambda step, num_steps, clean: estimates.append(clean),
        grad=grad,
    )
    return latents, scheduler.path[-1], estimates[-1]


def first_timestep(pipeline: Any, num_inference_steps: int = REDENOISE_STEPS) -> int | float:
    """The timestep at which a DDIM schedule begins, where latents are noise; for flows that of sigma 1."""
    if find_family(pipeline).is_flow:
        return float(pipeline.scheduler.config.num_train_timesteps)
    scheduler = _first_steps_of(diffusers.DDIMScheduler, pipeline.scheduler.config)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler.path[0]


def add_noise(pipeline: Any, clean: Noise, noise: Noise, timestep: int | float) -> Noise:
    """Finished latents with as much noise as there is at a timestep: the forward process of the model."""
    of_image, of_noise = mixture_at(pipeline, timestep)
    return of_image * clean + of_noise * noise


def mixture_at(pipeline: Any, timestep: int | float) -> tuple[float, float]:
    """What the finished latents, and what the noise, are multiplied by in the latents at a timestep."""
    if find_family(pipeline).is_flow:
        sigma = timestep / pipeline.scheduler.config.num_train_timesteps
        return 1 - sigma, sigma
    signal = float(_signals_of(pipeline)[int(timestep)])
    return signal**0.5, (1 - signal) ** 0.5


def _signals_of(pipeline: Any) -> Tensor:
    """The squared weight of the finished latents at each timestep of a model that predicts noise."""
    return diffusers.DDIMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod


def as_latents_of(other: Any, pipeline: Any, latents: Noise, timestep: int | float) -> tuple[Noise, int | float]:
    """Latents of `pipeline` at a timestep as `other`, with the same autoencoder, would have them, and its timestep.

    The timestep is where `other` has the same ratio of noise to image, or the nearest; the latents are scaled to the
    variance that its own have there. Either may be a flow or a model that predicts noise.
    """
    of_image, of_noise = mixture_at(pipeline, timestep)
    if find_family(other).is_flow:
        there: int | float = of_noise / (of_image + of_noise) * other.scheduler.config.num_train_timesteps
    else:
        share = of_image**2 / (of_image**2 + of_noise**2)
        there = int((_signals_of(other).logit() - torch.tensor(share).logit(eps=1e-6)).abs().argmin())
    return latents * (math.hypot(*mixture_at(other, there)) / math.hypot(of_image, of_noise)), there


def at_norm_of(source: Noise, other: Noise) -> Noise:
    """The source noise times one number per row, so that its norm is that of `other`."""
    return source * other.flatten(1).norm(dim=1).div(source.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)


def random_change(source: Noise, other: Noise, seeds: Sequence[int]) -> Noise:
    """Noise as far from the source noise as `other` is, row by row, in a random direction."""
    direction = source_noise([(seed + 2**30) % 2**32 for seed in seeds], source.shape[1:])
    distance = (other - source).flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)
    return source + direction * distance[:, None, None, None]


def _model_config(config: Any) -> dict:
    """The parts of a scheduler's configuration that belong to the model."""
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    return {name: config[name] for name in names if name in config}


def _check_num_steps(num_inference_steps: int, num_steps_down: int = 1) -> None:
    if num_inference_steps < 2:
        raise InvalidInput(f"A step down and back needs a schedule of at least 2 steps, got {num_inference_steps}.")
    if not 1 <= num_steps_down < num_inference_steps:
        allowed = num_inference_steps - 1
        raise InvalidInput(f"Of {num_inference_steps} steps 1 to {allowed} can be taken back, got {num_steps_down}.")


def _first_steps_of(scheduler_class: Any, config: Any, num_steps: int = 1) -> Any:
    """A scheduler that takes only the first steps of its schedule; its `path` is their timesteps (T, T-k, ...)."""

    class FirstSteps(scheduler_class):
        timesteps: Tensor

        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            self.path = tuple(self.timesteps[: num_steps + 1].tolist())
            self.timesteps = self.timesteps[:num_steps]

    return FirstSteps(**_model_config(config), **_spacing(scheduler_class))


def _steps_back_of(scheduler_class: Any, config: Any, path: tuple[int, ...], evaluate_at: str) -> Any:
    """An inverse scheduler that goes back along `path` = (T, T-k, ...), from its last timestep to its first."""
    upwards = path[::-1]
    asked = upwards[1:] if evaluate_at == "t" else upwards[:-1]
    leads_to = dict(zip(asked, upwards[1:], strict=True))

    class StepsBack(scheduler_class):
        timesteps: Tensor

        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            self.timesteps = self.timesteps.new_tensor(asked)  # where the pipeline asks the model
            if isinstance(self, diffusers.DPMSolverMultistepInverseScheduler):
                # This class steps between sigmas. Its own schedule ends at the last training timestep and not at the T
                # where the way down began, so that its last step would not be the inverse of the step down.
                signal = self.alphas_cumprod[list(upwards)]
                self.sigmas = ((1 - signal) / signal).sqrt()

        def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> Any:
            if isinstance(self, diffusers.DDIMInverseScheduler):
                timestep = leads_to[int(timestep)]  # this class names a step by where it ends
            return super().step(model_output, timestep, sample, **kwargs)

    return StepsBack(**_model_config(config), **_spacing(scheduler_class))


def _spacing(scheduler_class: Any) -> dict:
    """SDXL's spacing of the schedule, whatever the model samples with; no clipping of latents."""
    wanted = {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
    accepted = scheduler_class._get_init_keys(scheduler_class)
    return {name: value for name, value in wanted.items() if name in accepted}


def noise_health(noise: Noise, source: Noise | None = None) -> dict[str, Float[Tensor, " batch"]]:
    """Statistics of each row that are near 0, 1 and 1 for white noise of unit variance: mean, std, flatness.

    Flatness is the geometric over the arithmetic mean of the power spectrum, averaged over rings of equal frequency so
    that white noise is near 1 whatever its sample. With `source`: rms distance to it and cosine with it.
    """
    flat = noise.flatten(1).float()
    figures = {"mean": flat.mean(1), "std": flat.std(1), "flatness": spectrum_flatness(noise)}
    if source is not None:
        base = source.flatten(1).float()
        figures["distance"] = (flat - base).square().mean(1).sqrt()
        figures["cosine"] = torch.nn.functional.cosine_similarity(flat, base)
    return figures


def spectrum_flatness(noise: Noise, num_rings: int = 8) -> Float[Tensor, " batch"]:
    """Geometric over arithmetic mean of the power in rings of spatial frequency, from 0 to 1 (white)."""
    power = torch.fft.fft2(noise.float(), norm="ortho").abs().square().mean(1)
    _, height, width = power.shape
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    # Rings of equal numbers of frequencies, so that each is known equally well.
    ring = (radius.flatten().argsort().argsort() * num_rings // radius.numel()).to(power.device)
    means = torch.stack([power.flatten(1)[:, ring == index].mean(1) for index in range(num_rings)], 1)
    return means.log().mean(1).exp() / means.mean(1)
