"""The samplers: name -> scheduler, made from the model's own scheduler configuration."""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_name
from .errors import InvalidInput

if TYPE_CHECKING:  # diffusers takes seconds to import, and a list of names needs none of it
    from torch import Tensor

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


_FLOW_DPM = ("num_train_timesteps", "algorithm_type", "solver_order")


def _factory(class_name: str, aligned: bool = False, **settings: Any) -> Callable[[Mapping], Any]:
    """A function from a model's scheduler configuration to a fresh scheduler of a class, with `align_steps` or not."""

    def make(config: Mapping) -> Any:
        import diffusers

        scheduler_class = getattr(diffusers, class_name)
        if aligned:
            scheduler_class = _align(scheduler_class)
        accepted = scheduler_class._get_init_keys(scheduler_class)
        trained = {key: config[key] for key in _TRAINED if key in config}
        chosen = trained | _COMMON | settings
        return scheduler_class(**{key: value for key, value in chosen.items() if key in accepted})

    return make


def _flow_factory(class_name: str, **settings: Any) -> Callable[[Mapping], Any]:
    """The same for flow matching, whose schedule is its shift."""

    def make(config: Mapping) -> Any:
        import diffusers

        scheduler_class = getattr(diffusers, class_name)
        accepted = scheduler_class._get_init_keys(scheduler_class)
        # DPM-Solver has another name for the shift, in whichever of the two a model's configuration is written.
        shift = config.get("shift", config.get("flow_shift", 1.0))
        names = _FLOW_DPM if "flow_shift" in accepted else accepted
        chosen = {key: config[key] for key in names if key in config} | {"shift": shift, "flow_shift": shift} | settings
        return scheduler_class(**{key: value for key, value in chosen.items() if key in accepted})

    return make


def _align(scheduler_class: Any) -> Any:
    """A scheduler that takes the steps of `align_steps` in place of its own."""

    class Aligned(scheduler_class):
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            levels = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().numpy()
            super().set_timesteps(timesteps=align_steps(num_inference_steps, levels), device=device)

    return Aligned


def align_steps(num_inference_steps: int, levels: np.ndarray) -> list[int]:
    """The timesteps, from high to low, of "Align Your Steps" for SDXL, whose authors optimised ten of them.

    For other numbers of steps the logarithm of the noise level is interpolated between those ten and the end, as the
    authors advise. `levels` (num_train_timesteps,) are the model's own noise levels sigma.
    Source: arXiv 2404.14507, the published schedule for SDXL.

    Raises: InvalidInput for a model with other noise levels than SDXL's.
    """
    from diffusers.schedulers import AysSchedules

    published = AysSchedules["StableDiffusionXLTimesteps"]
    expected = AysSchedules["StableDiffusionXLSigmas"][:-1]
    if len(levels) != 1000 or not np.allclose(levels[published], expected, rtol=0.02):
        raise InvalidInput(
            "Align Your Steps has a schedule for SDXL's noise levels, not for this model's: choose ddim."
        )
    knots = np.log(levels[[*published, 0]])
    places = np.linspace(0, len(published), num_inference_steps, endpoint=False)
    chosen = np.interp(places, np.arange(len(knots)), knots)
    return np.interp(chosen, np.log(levels), np.arange(len(levels))).round().astype(int).tolist()


# Source: Table 10 of the paper for the first seven, Table 5 for the aligned steps (AYS).
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
    "dpm_ays": _factory("DPMSolverMultistepScheduler", aligned=True),
    "euler_ays": _factory("EulerDiscreteScheduler", aligned=True),
    "flow_euler": _flow_factory("FlowMatchEulerDiscreteScheduler"),
    "flow_heun": _flow_factory("FlowMatchHeunDiscreteScheduler"),
    "flow_dpm": _flow_factory("DPMSolverMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True),
}

# The first two were distilled for a schedule of 50 steps, of which they take some; from 60 on two of the aligned steps
# would fall on one timestep.
MAX_STEPS_OF = {"lcm": 50, "tcd": 50, "dpm_ays": 50, "euler_ays": 50}


ALIGNED_SAMPLERS = ("dpm_ays", "euler_ays")
"""For models of SDXL's noise levels alone."""
FLOW_SAMPLERS = ("flow_euler", "flow_heun", "flow_dpm")
"""For flow matching."""
SIGMA_SAMPLERS = ("flow_euler",)
"""For pipelines of flow matching that choose the sigmas of their steps themselves: others do not take them."""
PLAIN_SAMPLERS = tuple(name for name in SAMPLERS if name not in (*ALIGNED_SAMPLERS, *FLOW_SAMPLERS))
"""For every diffusion model."""


def check_sampler(name: Any, allowed: Iterable[str] = SAMPLERS) -> str:
    """The name of one of the `allowed` samplers. Raises: InvalidInput that lists them."""
    names = tuple(allowed)
    if isinstance(name, str) and name in SAMPLERS and name not in names:
        raise InvalidInput(f"This model cannot use the sampler {name!r}: choose one of {', '.join(names)}.")
    return check_name("sampler", name, names)


def make_sampler(name: str, config: Mapping, allowed: Iterable[str] = SAMPLERS) -> Any:
    """A fresh scheduler by name. Raises: InvalidInput listing the valid names, those of `allowed`."""
    return SAMPLERS[check_sampler(name, allowed)](config)


def remember_clean_estimate(scheduler: Any) -> Any:
    """Let a scheduler keep, after every step, its `latents` and its estimate x0 of the finished ones, `clean_estimate`.

    Most schedulers return it; the multistep ones do not, and there it follows from the model's output. Its `after_step`
    is then called, if it has one: not every pipeline calls back after its steps.
    """
    import diffusers

    if getattr(scheduler.step, "remembers", False):
        return scheduler

    # TCD's second value is a noised sample.
    returns_estimate = not isinstance(scheduler, diffusers.TCDScheduler)
    step = scheduler.step

    @wraps(step)  # pipelines look at the signature for `eta` and `generator`
    def remembering_step(model_output: "Tensor", timestep, sample: "Tensor", *args: Any, **kwargs: Any):
        output = step(model_output, timestep, sample, *args, **kwargs)
        returned = output if isinstance(output, tuple) else output.to_tuple()
        scheduler.latents = returned[0]
        if returns_estimate and len(returned) > 1:
            scheduler.clean_estimate = returned[1]
        else:
            scheduler.clean_estimate = _clean(scheduler, model_output, timestep, sample)
        if (after_step := getattr(scheduler, "after_step", None)) is not None:
            after_step()
        return output

    remembering_step.remembers = True  # type: ignore[attr-defined]
    scheduler.step = remembering_step
    return scheduler


def _clean(scheduler: Any, model_output: "Tensor", timestep: Any, sample: "Tensor") -> "Tensor":
    """x0 from x_t and the model's output, for flows and for variance-preserving schedulers."""
    if scheduler.config.get("use_flow_sigmas"):  # whose timesteps are rounded
        return sample - scheduler.sigmas[scheduler.step_index - 1] * model_output
    if not hasattr(scheduler, "alphas_cumprod"):
        # x0 = x - sigma v
        return sample - float(timestep) / scheduler.config.num_train_timesteps * model_output
    signal = scheduler.alphas_cumprod.to(sample.device, sample.dtype)[int(timestep)]
    if scheduler.config.prediction_type == "v_prediction":
        return signal.sqrt() * sample - (1 - signal).sqrt() * model_output
    return (sample - (1 - signal).sqrt() * model_output) / signal.sqrt()
