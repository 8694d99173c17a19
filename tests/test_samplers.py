"""Every sampler: fair to both arms, and its estimate of the finished latents is what it says."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules

from golden.errors import InvalidInput
from golden.families import FAMILIES
from golden.models import Sampling
from golden.noise import source_noise
from golden.pipelines import add_control, denoise, encode_prompts, repeat_embeddings
from golden.samplers import (
    ALIGNED_SAMPLERS,
    MAX_STEPS_OF,
    align_steps,
    make_sampler,
    remember_clean_estimate,
)
from tests.conftest import HUNYUAN_SCHEDULE, SDXL_SCHEDULE, SIZE, make_embeddings

SHAPE = (4, SIZE, SIZE)
SDXL_SAMPLERS = FAMILIES["sdxl"].samplers
STOCHASTIC = {"ddpm", "euler_a", "kdpm2_a", "lcm"}
ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
LOG_SIGMAS = np.log(((1 - ALPHAS_CUMPROD) / ALPHAS_CUMPROD) ** 0.5)


@pytest.fixture
def any_pipeline(request, tiny_model, tiny_hunyuan, tiny_steered, edges):
    """A pipeline of each class, and what conditions it."""
    model = {"sdxl": tiny_model, "controlnet": tiny_steered, "hunyuan": tiny_hunyuan}[request.param]
    embeddings = encode_prompts(model.pipeline, ["a red star"])
    if request.param == "controlnet":
        embeddings = add_control(model.pipeline, embeddings, edges, SHAPE)
    return model.pipeline, embeddings


@pytest.mark.parametrize(
    ("any_pipeline", "name"),
    [
        (kind, name)
        for kind in ("sdxl", "controlnet", "hunyuan")
        for name in FAMILIES["hunyuan-dit" if kind == "hunyuan" else "sdxl"].samplers
    ],
    indirect=["any_pipeline"],
)
def test_equal_noise_in_both_arms_gives_equal_latents(any_pipeline, name):
    """Batched, and one after the other: only the noise may make a difference between arms."""
    pipeline, embeddings = any_pipeline
    noise = source_noise([3], SHAPE)
    sampling = Sampling(name, 4)
    batched = denoise(pipeline, torch.cat([noise, noise]), repeat_embeddings(embeddings, 2), [7, 7], sampling)
    alone = denoise(pipeline, noise, embeddings, [7], sampling)
    assert batched.isfinite().all()
    assert (batched[0] - batched[1]).abs().max() <= 1e-3
    assert (batched[:1] - alone).abs().max() <= 1e-3


@pytest.mark.parametrize("name", SDXL_SAMPLERS)
def test_step_noise_comes_from_the_seed(tiny_model, name):
    pipeline = tiny_model.pipeline
    noise, embeddings = source_noise([3, 3], SHAPE), repeat_embeddings(encode_prompts(pipeline, ["a red star"]), 2)
    latents = denoise(pipeline, noise, embeddings, [7, 8], Sampling(name, 4))
    assert torch.allclose(latents[0], latents[1], atol=1e-3) == (name not in STOCHASTIC)


@pytest.mark.parametrize("name", SDXL_SAMPLERS)
def test_clean_estimate_is_what_the_network_predicts(tiny_model, replace_unet, name):
    """A network that knows the finished latents makes them every sampler's estimate, after every step."""
    finished = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))

    def epsilon(x, t, level):
        # Some samplers ask between two timesteps, and interpolate as here.
        sigma = float(np.exp(np.interp(t, np.arange(1000), LOG_SIGMAS)))
        return (x * (1 + sigma**2) ** 0.5 - finished) / sigma

    replace_unet(epsilon)
    estimates, counts = [], []

    def on_step(step, num_steps, clean_estimate):
        counts.append((step, num_steps))
        estimates.append(clean_estimate.clone())

    latents = denoise(
        tiny_model.pipeline,
        source_noise([1, 2], SHAPE),
        make_embeddings([0.0, 0.0]),
        [1, 2],
        Sampling(name, 4, 1.0),
        on_step=on_step,
    )
    num_steps = len(counts)
    assert num_steps >= 4
    assert counts == [(step, num_steps) for step in range(1, num_steps + 1)]
    for estimate in estimates:
        assert torch.allclose(estimate, finished, atol=0.02)
    assert torch.allclose(latents, finished, atol=0.2)  # at the lowest timestep a little noise may be left


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_clean_estimate_of_a_sampler_that_returns_none(prediction_type):
    scheduler = remember_clean_estimate(make_sampler("dpm", SDXL_SCHEDULE | {"prediction_type": prediction_type}))
    scheduler.set_timesteps(4)
    finished, noise = source_noise([1], SHAPE), source_noise([2], SHAPE)
    timestep = scheduler.timesteps[0]
    signal = scheduler.alphas_cumprod[int(timestep)]
    sample = signal.sqrt() * finished + (1 - signal).sqrt() * noise
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * finished
    scheduler.step(noise if prediction_type == "epsilon" else velocity, timestep, sample)
    assert torch.allclose(scheduler.clean_estimate, finished, atol=1e-4)


@pytest.mark.parametrize("name", SDXL_SAMPLERS)
def test_a_sampler_takes_over_the_schedule_that_the_model_was_trained_with(name):
    scheduler = make_sampler(name, SDXL_SCHEDULE | {"prediction_type": "v_prediction", "a_strangers_setting": 1})
    assert scheduler.config.prediction_type == "v_prediction"
    assert torch.allclose(scheduler.alphas_cumprod, torch.from_numpy(ALPHAS_CUMPROD).float(), atol=1e-5)
    assert not scheduler.config.get("clip_sample", False)
    scheduler.set_timesteps(10)
    assert 890 <= float(scheduler.timesteps[0]) < 1000
    assert make_sampler(name, SDXL_SCHEDULE) is not make_sampler(name, SDXL_SCHEDULE)


@pytest.mark.parametrize("name", ["", "DDIM", "dpm++", "../ddim"])
def test_an_unknown_sampler_lists_the_known_ones(name):
    with pytest.raises(InvalidInput, match="choose one of ddim, dpm, ddpm, euler_a, pndm, kdpm2_a, heun"):
        make_sampler(name, SDXL_SCHEDULE)


# --- Align Your Steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALIGNED_SAMPLERS)
def test_ten_aligned_steps_are_the_published_ones(name):
    scheduler = make_sampler(name, SDXL_SCHEDULE)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == AysSchedules["StableDiffusionXLTimesteps"]
    assert np.allclose(scheduler.sigmas, AysSchedules["StableDiffusionXLSigmas"], rtol=0.02)


def test_other_numbers_of_aligned_steps_lie_between_the_ten():
    levels = np.exp(LOG_SIGMAS)
    assert align_steps(20, levels)[::2] == AysSchedules["StableDiffusionXLTimesteps"]
    for num_steps in range(1, MAX_STEPS_OF["dpm_ays"] + 1):
        steps = align_steps(num_steps, levels)
        assert len(steps) == num_steps
        assert steps[0] == 999
        assert all(later < earlier for earlier, later in pairwise(steps))
    between = LOG_SIGMAS[align_steps(20, levels)]
    assert np.allclose(between[1:-1:2], (between[:-2:2] + between[2::2]) / 2, atol=0.02)


@pytest.mark.parametrize("name", ALIGNED_SAMPLERS)
@pytest.mark.parametrize(
    "schedule", [HUNYUAN_SCHEDULE, SDXL_SCHEDULE | {"num_train_timesteps": 500}], ids=["hunyuan", "500"]
)
def test_a_model_of_other_noise_levels_has_no_aligned_steps(name, schedule):
    with pytest.raises(InvalidInput, match="SDXL's noise levels"):
        make_sampler(name, schedule).set_timesteps(10)


def test_a_sampler_of_other_families_is_refused_and_the_scheduler_kept(tiny_hunyuan):
    pipeline = tiny_hunyuan.pipeline
    own, embeddings = pipeline.scheduler, encode_prompts(pipeline, ["a star"])
    with pytest.raises(InvalidInput, match=r"cannot use the sampler 'dpm_ays': choose one of ddim, dpm, .*tcd.$"):
        denoise(pipeline, source_noise([1], SHAPE), embeddings, [0], Sampling("dpm_ays", 4))
    assert pipeline.scheduler is own
