"""The samplers: name -> scheduler, made from the model's own scheduler configuration."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import diffusers
from torch import Tensor

from .errors import InvalidInput

# What SDXL's configuration says and some schedulers' own defaults contradict (they would clip the latents).
_COMMON = {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
_TRAINED = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
    "original_inference_steps",
)


def _factory(class_name: str, **settings: Any) -> Callable[[Mapping], Any]:
    """A function from a model's scheduler configuration to a fresh scheduler of a class."""

    def make(config: Mapping) -> Any:
        scheduler_class = getattr(diffusers, class_name)
        accepted = scheduler_class._get_init_keys(scheduler_class)
        trained = {key: config[key] for key in _TRAINED if key in config}
        chosen = trained | _COMMON | settings
        return scheduler_class(**{key: value for key, value in chosen.items() if key in accepted})

    return make


# Source: Table 10 of the paper for the first seven.
SAMPLERS: dict[str, Callable[[Mapping], Any]] = {
    "ddim": _factory("DDIMScheduler"),
    "dpm": _factory("DPMSolverMultistepScheduler"),
    "ddpm": _factory("DDPMScheduler"),
    "euler_a": _factory("EulerAncestralDiscreteScheduler"),
    "pndm": _factory("PNDMScheduler"),
    "kdpm2_a": _factory("KDPM2AncestralDiscreteScheduler"),
    "heun": _factory("HeunDiscreteScheduler"),
    "euler": _factory("EulerDiscreteScheduler"),
    "unipc": _factory("UniPCMultistepScheduler"),
    "lcm": _factory("LCMScheduler"),
    "tcd": _factory("TCDScheduler"),
}


def make_sampler(name: str, config: Mapping) -> Any:
    """A fresh scheduler by name. Raises: InvalidInput listing the valid names."""
    if name not in SAMPLERS:
        raise InvalidInput(f"Unknown sampler {name!r}: choose one of {', '.join(SAMPLERS)}.")
    return SAMPLERS[name](config)


def remember_clean_estimate(scheduler: Any) -> Any:
    """Let a scheduler keep, as `clean_estimate`, its estimate x0 of the finished latents after every step.

    Most schedulers return it; the multistep ones do not, and there it follows from the model's output.
    """
    # TCD's second value is a noised sample.
    returns_estimate = not isinstance(scheduler, diffusers.TCDScheduler)
    step = scheduler.step

    @wraps(step)  # pipelines look at the signature for `eta` and `generator`
    def remembering_step(model_output: Tensor, timestep, sample: Tensor, *args: Any, **kwargs: Any):
        output = step(model_output, timestep, sample, *args, **kwargs)
        returned = output if isinstance(output, tuple) else output.to_tuple()
        if returns_estimate and len(returned) > 1:
            scheduler.clean_estimate = returned[1]
        else:
            scheduler.clean_estimate = _clean(scheduler, model_output, timestep, sample)
        return output

    scheduler.step = remembering_step
    return scheduler


def _clean(scheduler: Any, model_output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
    """x0 from x_t and the model's output, for variance-preserving schedulers."""
    signal = scheduler.alphas_cumprod.to(sample.device, sample.dtype)[int(timestep)]
    if scheduler.config.prediction_type == "v_prediction":
        return signal.sqrt() * sample - (1 - signal).sqrt() * model_output
    return (sample - (1 - signal).sqrt() * model_output) / signal.sqrt()
