"""Flows: re-denoise sampling against its closed form on a linear velocity, repaint, and estimates of the image."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from golden.errors import InvalidInput
from golden.models import Redenoise, Sampling
from golden.noise import (
    add_noise,
    as_latents_of,
    first_timestep,
    noise_health,
    redenoise,
    repaint,
    sample_first_steps,
    source_noise,
)
from golden.pipelines import denoise, encode_prompts
from golden.samplers import FLOW_SAMPLERS
from tests.conftest import EMBEDDING_DIM, NUM_TOKENS, SIZE

SHAPE = (16, SIZE, SIZE)
UP, DOWN = 4.5, 1.0  # guidance on the way down, and on the way back
LEVELS = [0.3, -0.2]  # the embeddings of the two prompts, each one number throughout
NEGATIVE = 0.05


def make_flow_embeddings(levels: list[float]) -> dict[str, torch.Tensor]:
    column = torch.tensor(levels)
    tokens, pooled = (len(levels), 2 * NUM_TOKENS, EMBEDDING_DIM), torch.zeros(len(levels), EMBEDDING_DIM)
    return {
        "prompt_embeds": column[:, None, None].expand(tokens).clone(),
        "negative_prompt_embeds": torch.full(tokens, NEGATIVE),
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": pooled,
    }


@pytest.fixture
def replace_transformer(tiny_sd3, monkeypatch) -> Callable:
    """Put `velocity(x, sigma, levels)` in the transformer's place; answers with the sigmas that it is asked at."""

    def install(velocity: Callable) -> list[float]:
        asked: list[float] = []

        def forward(hidden_states, timestep, encoder_hidden_states, **kwargs):
            sigma = float(timestep[0]) / 1000
            asked.append(sigma)
            return (velocity(hidden_states, sigma, encoder_hidden_states.mean((1, 2))[:, None, None, None]),)

        monkeypatch.setattr(tiny_sd3.pipeline.transformer, "forward", forward)
        return asked

    return install


def settings_of(**changes) -> Redenoise:
    return Redenoise(**{"guidance_scale": UP, "inversion_guidance_scale": DOWN} | changes)


@pytest.mark.parametrize("sigma_down", [0.95, 0.8])
def test_redenoise_is_the_difference_of_both_velocities_at_the_source_noise(tiny_sd3, replace_transformer, sigma_down):
    asked = replace_transformer(lambda x, sigma, level: (0.5 + sigma) * x + level)
    source = source_noise([1, 2], SHAPE)
    target = redenoise(tiny_sd3.pipeline, source, make_flow_embeddings(LEVELS), settings_of(sigma_down=sigma_down))
    # v_w - v_1 = (w - 1) (cond - uncond), whatever is linear in x
    level = torch.tensor(LEVELS)[:, None, None, None]
    expected = source - (1 - sigma_down) * (UP - DOWN) * (level - NEGATIVE)
    assert torch.allclose(target, expected, atol=1e-5)
    assert asked == [1.0, 1.0]
    assert target.dtype == torch.float32


def test_several_steps_down_follow_the_guided_path(tiny_sd3, replace_transformer):
    asked = replace_transformer(lambda x, sigma, level: 0.7 * x + sigma * level * x)
    source = source_noise([1], SHAPE)
    settings = settings_of(sigma_down=0.8, num_steps_down=2)
    target = redenoise(tiny_sd3.pipeline, source, make_flow_embeddings(LEVELS[:1]), settings)
    latents = expected = source
    for sigma in (1.0, 0.9):
        conditional, unconditional = (0.7 * latents + sigma * level * latents for level in (LEVELS[0], NEGATIVE))
        guided = unconditional + UP * (conditional - unconditional)
        expected = expected - 0.1 * (guided - conditional)
        latents = latents - 0.1 * guided
    assert asked == pytest.approx([1.0, 1.0, 0.9, 0.9])
    assert torch.allclose(target, expected, atol=1e-5)


def test_equal_guidance_both_ways_gives_the_source_noise_back(tiny_sd3, replace_transformer):
    replace_transformer(lambda x, sigma, level: sigma * x.abs() + level * x)
    source, settings = source_noise([5], SHAPE), settings_of(inversion_guidance_scale=UP, num_steps_down=3)
    assert torch.allclose(
        redenoise(tiny_sd3.pipeline, source, make_flow_embeddings([0.4]), settings), source, atol=1e-6
    )


def test_the_default_sigma_changes_a_noise_as_ddims_first_of_ten_steps_does(tiny_model, replace_unet):
    """Where guidance moves x0 alike: 1 - sigma' of a flow, alpha (1 - sigma' alpha / (sigma alpha')) of DDIM."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    signal, spread = alphas[901] ** 0.5, (1 - alphas[901]) ** 0.5
    replace_unet(lambda x, t, level: torch.zeros_like(x) - signal / spread * level)  # moves x0 by `level`
    tokens, pooled = torch.ones(1, NUM_TOKENS, EMBEDDING_DIM), torch.zeros(1, EMBEDDING_DIM // 2)
    embeddings = {"prompt_embeds": tokens, "negative_prompt_embeds": tokens * 0, "pooled_prompt_embeds": pooled}
    embeddings["negative_pooled_prompt_embeds"] = pooled
    source = source_noise([1], (4, SIZE, SIZE))
    change = (redenoise(tiny_model.pipeline, source, embeddings, settings_of()) - source).mean().item() / (UP - DOWN)
    assert change == pytest.approx(1 - Redenoise().sigma_down, abs=0.005)


def test_rows_do_not_see_each_other(tiny_sd3):
    pipeline, source = tiny_sd3.pipeline, source_noise([1, 2], SHAPE)
    embeddings = encode_prompts(pipeline, ["a star", "a heart"])
    both = redenoise(pipeline, source, embeddings)
    alone = redenoise(pipeline, source[1:], {name: value[1:] for name, value in embeddings.items()})
    assert torch.allclose(both[1:], alone, atol=1e-5)
    assert not torch.equal(both, source)


@pytest.mark.parametrize("settings", [{"sigma_down": 1.0}, {"sigma_down": 0.0}, {"num_steps_down": 0}])
def test_steps_that_lead_nowhere_are_refused(tiny_sd3, settings):
    with pytest.raises(InvalidInput):
        redenoise(tiny_sd3.pipeline, source_noise([0], SHAPE), make_flow_embeddings([0.0]), Redenoise(**settings))
    with pytest.raises(InvalidInput, match="evaluated at 't'"):
        redenoise(
            tiny_sd3.pipeline, source_noise([0], SHAPE), make_flow_embeddings([0.0]), Redenoise(evaluate_at="t-k")
        )


def test_repaint_keeps_white_noise_white_and_half_of_the_source(tiny_sd3, replace_transformer):
    # The best velocity for data that are white themselves.
    replace_transformer(lambda x, sigma, level: (2 * sigma - 1) / (sigma**2 + (1 - sigma) ** 2) * x)
    seeds = list(range(24))
    source = source_noise(seeds, SHAPE)
    noise = repaint(tiny_sd3.pipeline, source, make_flow_embeddings([0.0] * len(seeds)), seeds)
    assert abs(noise.mean().item()) < 0.03
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert noise_health(noise, source)["cosine"].mean().item() == pytest.approx(0.5, abs=0.05)


def test_noise_is_added_as_the_flow_does(tiny_sd3):
    clean, noise = source_noise([1], SHAPE), source_noise([2], SHAPE)
    noisy = add_noise(tiny_sd3.pipeline, clean, noise, 250)
    assert torch.allclose(noisy, 0.75 * clean + 0.25 * noise)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_the_clean_estimate_is_what_the_network_predicts(tiny_sd3, replace_transformer, sampler):
    finished = source_noise([8], SHAPE)
    asked = replace_transformer(lambda x, sigma, level: (x - finished) / sigma)
    estimates = []
    latents = denoise(
        tiny_sd3.pipeline,
        source_noise([1], SHAPE),
        make_flow_embeddings([0.0]),
        [0],
        Sampling(sampler, 4, 1.0),
        on_step=lambda step, num_steps, clean: estimates.append(clean.clone()),
    )
    assert len(estimates) == len(asked) == (7 if sampler == "flow_heun" else 4)
    tolerance = 0.02 if sampler == "flow_dpm" else 1e-4  # that scheduler asks at timesteps that are whole numbers
    assert all(torch.allclose(estimate, finished, atol=tolerance) for estimate in estimates)
    assert torch.allclose(latents, finished, atol=tolerance)


def test_the_first_steps_are_named_by_the_sigmas_of_the_models_own_schedule(tiny_sd3, replace_transformer):
    asked = replace_transformer(lambda x, sigma, level: 0.3 * x + level)
    noise, embeddings = source_noise([1], SHAPE), make_flow_embeddings([0.2])
    latents, timestep, _ = sample_first_steps(tiny_sd3.pipeline, noise, embeddings, Sampling("flow_euler", 10, 1.0), 1)
    assert first_timestep(tiny_sd3.pipeline) == 1000
    assert asked == [1.0]
    assert timestep == pytest.approx(960, abs=3)  # and not 900: the model's shift is 3
    expected = noise - (1 - timestep / 1000) * (0.3 * noise + 0.2)
    assert torch.allclose(latents, expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.8])
def test_latents_of_a_flow_are_those_of_a_model_that_predicts_noise(tiny_sd3, tiny_model, sigma):
    """The same image and noise in its mixture, and back again."""
    flow, other = tiny_sd3.pipeline, tiny_model.pipeline
    clean, noise = source_noise([1], (4, SIZE, SIZE)), source_noise([2], (4, SIZE, SIZE))
    latents = add_noise(flow, clean, noise, 1000 * sigma)
    there, timestep = as_latents_of(other, flow, latents, 1000 * sigma)
    assert torch.allclose(there, add_noise(other, clean, noise, timestep), atol=0.02)  # its timesteps are whole
    back, again = as_latents_of(flow, other, there, timestep)
    assert again == pytest.approx(1000 * sigma, abs=5)
    assert torch.allclose(back, latents, atol=0.02)


def test_pure_noise_of_a_flow_stays_as_it_is_at_the_last_timestep_of_another(tiny_sd3, tiny_model):
    noise = source_noise([1, 2], (4, SIZE, SIZE))
    latents, timestep = as_latents_of(tiny_model.pipeline, tiny_sd3.pipeline, noise, 1000.0)
    assert timestep == 999
    assert torch.allclose(latents, noise, atol=1e-6)
