"""Noise: seeds, re-denoise sampling against its closed form, repaint, and the figures of a noise's health."""

import numpy as np
import pytest
import torch

from golden.checks import MAX_SEED
from golden.errors import InvalidInput
from golden.models import Redenoise
from golden.noise import (
    SOLVERS,
    at_norm_of,
    noise_health,
    random_change,
    redenoise,
    repaint,
    source_noise,
    spectrum_flatness,
)
from golden.pipelines import encode_prompts
from tests.conftest import SIZE, make_embeddings

SHAPE = (4, SIZE, SIZE)
# Where the first of ten steps leads, by each solver's own schedule.
SPANS = {"ddim": (901, 801), "dpm": (901, 811)}
UP, DOWN = 5.5, 1.0  # guidance on the way down, and on the way back
LEVELS = [0.3, -0.2]  # the embeddings of the two prompts, each one number throughout
NEGATIVE = 0.05

# SDXL's schedule by hand, in double precision: x_t = signal * x0 + spread * epsilon.
ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def coefficients(t: int) -> tuple[float, float]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar)."""
    return float(ALPHAS_CUMPROD[t] ** 0.5), float((1 - ALPHAS_CUMPROD[t]) ** 0.5)


# --- source noise -----------------------------------------------------------------------------------------------------


def test_source_noise_depends_on_its_seed_alone():
    batch = source_noise([5, 7, MAX_SEED, 5], SHAPE)
    assert batch.shape == (4, *SHAPE)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[0], batch[3])
    assert torch.equal(batch[1:2], source_noise([7], SHAPE))
    assert torch.equal(batch.flip(0), source_noise([5, MAX_SEED, 7, 5], SHAPE))
    assert not torch.equal(batch[0], batch[1])


def test_source_noise_does_not_depend_on_global_state():
    before = source_noise([1], SHAPE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        state = torch.get_rng_state()
        assert torch.equal(source_noise([1], SHAPE), before)
        assert torch.equal(torch.get_rng_state(), state)


def test_source_noise_is_torch_randn_of_the_seed():
    expected = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(42))
    assert torch.equal(source_noise([42], SHAPE), expected)


@pytest.mark.parametrize("kind", [np.int64, np.uint32, np.int8, torch.tensor])
def test_seeds_may_be_integers_of_numpy_and_torch(kind):
    assert torch.equal(source_noise([kind(42)], SHAPE), source_noise([42], SHAPE))
    assert torch.equal(source_noise(np.arange(3), SHAPE), source_noise([0, 1, 2], SHAPE))
    assert torch.equal(source_noise(torch.arange(3), SHAPE), source_noise([0, 1, 2], SHAPE))


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**64, np.int64(-1), torch.tensor(-1), True])
def test_seeds_out_of_range(seed):
    with pytest.raises(InvalidInput, match="whole number from 0"):
        source_noise([0, seed], SHAPE)


# --- re-denoise sampling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluate_at", ["t", "t-k"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_redenoise_is_one_step_down_and_one_back(tiny_model, replace_unet, solver, evaluate_at):
    """Against both steps written out, for an epsilon that is linear in x and differs from one timestep to another."""

    def slope(t: float) -> float:
        return 0.2 + t / 5000

    asked = replace_unet(lambda x, t, level: slope(t) * x + level)
    source = source_noise([1, 2], SHAPE)
    target = redenoise(
        tiny_model.pipeline,
        source,
        make_embeddings(LEVELS, NEGATIVE),
        Redenoise(guidance_scale=UP, inversion_guidance_scale=DOWN, solver=solver, evaluate_at=evaluate_at),
    )
    noisy, cleaner = SPANS[solver]
    (signal, spread), (cleaner_signal, cleaner_spread) = coefficients(noisy), coefficients(cleaner)
    back_at = noisy if evaluate_at == "t" else cleaner
    level = torch.tensor(LEVELS)[:, None, None, None]

    epsilon = slope(noisy) * source + NEGATIVE + UP * (level - NEGATIVE)
    latents = cleaner_signal * (source - spread * epsilon) / signal + cleaner_spread * epsilon
    epsilon = slope(back_at) * latents + NEGATIVE + DOWN * (level - NEGATIVE)
    expected = signal * (latents - cleaner_spread * epsilon) / cleaner_signal + spread * epsilon

    assert torch.allclose(target, expected, atol=1e-4)
    assert asked == [noisy, back_at]
    assert target.dtype == torch.float32
    assert (target - source).abs().max() > 0.05  # or nothing would have been tested


@pytest.mark.parametrize("solver", SOLVERS)
def test_redenoise_equals_equation_12(tiny_model, replace_unet, solver):
    """Where epsilon does not change between the steps, only the difference of the two guidances is left."""
    replace_unet(lambda x, t, level: torch.zeros_like(x) + level)
    source = source_noise([3, 4], SHAPE)
    target = redenoise(
        tiny_model.pipeline,
        source,
        make_embeddings(LEVELS, NEGATIVE),
        Redenoise(guidance_scale=UP, inversion_guidance_scale=DOWN, solver=solver),
    )
    noisy, cleaner = SPANS[solver]
    (alpha, sigma), (alpha_k, sigma_k) = coefficients(noisy), coefficients(cleaner)
    conditional = torch.tensor(LEVELS)[:, None, None, None]
    # Eq. 12 of the paper, whose guidance (w + 1) c - w u is u + (w + 1) (c - u) here.
    change = (alpha * sigma_k - alpha_k * sigma) / alpha_k * (UP - DOWN) * (conditional - NEGATIVE)
    assert torch.allclose(target, source + change, atol=1e-4)


@pytest.mark.parametrize("evaluate_at", ["t", "t-k"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("num_inference_steps", "num_steps_down"), [(2, 1), (7, 1), (10, 1), (50, 1), (20, 3), (7, 6)])
def test_equal_guidance_both_ways_gives_the_source_noise_back(
    tiny_model, replace_unet, solver, evaluate_at, num_inference_steps, num_steps_down
):
    """So each solver's step back is the inverse of its step down."""
    replace_unet(lambda x, t, level: torch.zeros_like(x) + level)
    source = source_noise([5], SHAPE)
    target = redenoise(
        tiny_model.pipeline,
        source,
        make_embeddings([0.4], NEGATIVE),
        Redenoise(
            guidance_scale=3.0,
            inversion_guidance_scale=3.0,
            solver=solver,
            evaluate_at=evaluate_at,
            num_inference_steps=num_inference_steps,
            num_steps_down=num_steps_down,
        ),
    )
    assert torch.allclose(target, source, atol=2e-4 if num_steps_down == 6 else 2e-5)


@pytest.mark.parametrize(("evaluate_at", "back"), [("t", [851, 901, 951]), ("t-k", [801, 851, 901])])
def test_several_steps_down_are_taken_back_one_by_one(tiny_model, replace_unet, evaluate_at, back):
    """Against the steps written out: an epsilon that is linear in x and differs from one timestep to another."""

    def slope(t: float) -> float:
        return 0.2 + t / 5000

    asked = replace_unet(lambda x, t, level: slope(t) * x + level)
    source = source_noise([1], SHAPE)
    target = redenoise(
        tiny_model.pipeline,
        source,
        make_embeddings([LEVELS[0]], NEGATIVE),
        Redenoise(guidance_scale=UP, num_inference_steps=20, num_steps_down=3, evaluate_at=evaluate_at),
    )
    path = [951, 901, 851, 801]
    assert asked == path[:3] + back
    expected = source
    moves = [*zip(path[:3], path[:3], path[1:], [UP] * 3, strict=True)]
    moves += [*zip(back, path[:0:-1], path[-2::-1], [DOWN] * 3, strict=True)]
    for at, start, end, guidance in moves:
        epsilon = slope(at) * expected + NEGATIVE + guidance * (LEVELS[0] - NEGATIVE)
        (signal, spread), (next_signal, next_spread) = coefficients(start), coefficients(end)
        expected = next_signal * (expected - spread * epsilon) / signal + next_spread * epsilon
    assert torch.allclose(target, expected, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_redenoise_rows_do_not_see_each_other(tiny_model, replace_unet, solver):
    replace_unet(lambda x, t, level: 0.3 * x + level)
    both = redenoise(
        tiny_model.pipeline, source_noise([1, 2], SHAPE), make_embeddings(LEVELS), Redenoise(solver=solver)
    )
    one = redenoise(
        tiny_model.pipeline, source_noise([2], SHAPE), make_embeddings(LEVELS[1:]), Redenoise(solver=solver)
    )
    assert torch.allclose(both[1:], one, atol=1e-6)


def test_redenoise_asks_the_real_network_of_the_pipeline(tiny_model):
    embeddings = encode_prompts(tiny_model.pipeline, ["a red star"])
    scheduler = tiny_model.pipeline.scheduler
    source = source_noise([0], SHAPE)
    target = redenoise(tiny_model.pipeline, source, embeddings)
    assert target.isfinite().all()
    assert not torch.equal(target, source)
    assert torch.equal(target, redenoise(tiny_model.pipeline, source, embeddings))
    assert tiny_model.pipeline.scheduler is scheduler


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "euler"},
        {"evaluate_at": "T"},
        {"num_inference_steps": 1},
        {"num_steps_down": 0},
        {"num_steps_down": 10},
    ],
)
def test_redenoise_refuses(tiny_model, settings):
    with pytest.raises(InvalidInput):
        redenoise(tiny_model.pipeline, source_noise([0], SHAPE), make_embeddings([0.0]), Redenoise(**settings))


# --- repaint ----------------------------------------------------------------------------------------------------------


def test_repaint_keeps_white_noise_white(tiny_model, replace_unet):
    """With the best epsilon for data that are white themselves, spread * x, every step keeps unit variance."""
    replace_unet(lambda x, t, level: coefficients(round(t))[1] * x)
    seeds = list(range(48))
    source = source_noise(seeds, SHAPE)
    noise = repaint(tiny_model.pipeline, source, make_embeddings([0.0] * len(seeds)), seeds)
    assert noise.shape == source.shape
    assert abs(noise.mean().item()) < 0.05
    assert noise.std().item() == pytest.approx(1, abs=0.03)

    # Of the source noise as much is left as the forward process keeps between the two timesteps.
    (alpha, sigma), (alpha_k, sigma_k) = coefficients(901), coefficients(801)
    kept = alpha / alpha_k * (alpha * alpha_k + sigma * sigma_k)
    assert noise_health(noise, source)["cosine"].mean().item() == pytest.approx(kept, abs=0.05)


def test_repaint_is_one_step_down_and_fresh_noise_back(tiny_model, replace_unet):
    replace_unet(lambda x, t, level: torch.zeros_like(x) + level)
    source, low, high = source_noise([1], SHAPE), make_embeddings([0.0]), make_embeddings([0.2])
    (alpha, sigma), (alpha_k, sigma_k) = coefficients(901), coefficients(801)
    difference = repaint(tiny_model.pipeline, source, high, [1]) - repaint(tiny_model.pipeline, source, low, [1])
    step = (sigma_k - alpha_k * sigma / alpha) * 5.5 * 0.2  # of the latents at T-k
    assert torch.allclose(difference, torch.full_like(source, alpha / alpha_k * step), atol=1e-4)


def test_repaint_depends_on_its_seed_alone(tiny_model, replace_unet):
    replace_unet(lambda x, t, level: 0.5 * x)
    source, embeddings = source_noise([1, 1], SHAPE), make_embeddings([0.0, 0.0])
    noise = repaint(tiny_model.pipeline, source, embeddings, [8, 9])
    assert torch.equal(noise, repaint(tiny_model.pipeline, source, embeddings, [8, 9]))
    assert not torch.allclose(noise[0], noise[1])
    one = repaint(tiny_model.pipeline, source[1:], make_embeddings([0.0]), [9])
    assert torch.allclose(noise[1:], one, atol=1e-6)


# --- controls and figures ---------------------------------------------------------------------------------------------


def test_the_norm_alone_is_taken_over():
    source, other = source_noise([1, 2], (4, 16, 16)), 3 * source_noise([4, 5], (4, 16, 16))
    scaled = at_norm_of(source, other)
    assert torch.allclose(scaled.flatten(1).norm(dim=1), other.flatten(1).norm(dim=1))
    assert torch.allclose(torch.cosine_similarity(scaled.flatten(1), source.flatten(1)), torch.ones(2))


def test_random_change_is_as_large_and_points_elsewhere():
    source, other = source_noise([1, 2, 3], (4, 16, 16)), source_noise([4, 5, 6], (4, 16, 16))
    other = source + torch.tensor([0.1, 1.0, 0.0])[:, None, None, None] * other
    changed = random_change(source, other, [1, 2, 3])
    wanted, got = (other - source).flatten(1), (changed - source).flatten(1)
    assert torch.allclose(got.norm(dim=1), wanted.norm(dim=1), rtol=1e-4, atol=1e-6)
    assert torch.cosine_similarity(got[:2], wanted[:2]).abs().max() < 0.15
    assert torch.cosine_similarity(got[:2], source[:2].flatten(1)).abs().max() < 0.15
    assert torch.equal(changed[2], source[2])
    assert torch.equal(changed, random_change(source, other, [1, 2, 3]))


def test_health_of_white_noise():
    figures = noise_health(source_noise(range(8), (4, 128, 128)))
    assert figures["mean"].abs().max() < 0.02
    assert (figures["std"] - 1).abs().max() < 0.02
    assert figures["flatness"].min() > 0.995
    assert "distance" not in figures


def test_health_of_noise_that_is_not_white():
    white = source_noise(range(4), (4, 32, 32))
    smooth = torch.nn.functional.avg_pool2d(white, 3, stride=1, padding=1)
    assert spectrum_flatness(white).min() > 0.95
    assert spectrum_flatness(smooth).max() < 0.7
    # Enlarging small noise keeps mean and std, and only the spectrum tells.
    enlarged = source_noise(range(4), (4, 16, 16)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert (noise_health(enlarged)["std"] - 1).abs().max() < 0.1
    assert spectrum_flatness(enlarged).max() < 0.7
    assert noise_health(white * 2 + 1)["mean"].tolist() == pytest.approx([1] * 4, abs=0.15)


@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 128, 96), (4, 96, 160)])
def test_flatness_does_not_depend_on_size_or_scale(shape):
    white = source_noise(range(4), shape)
    assert spectrum_flatness(white).min() > 0.9
    assert torch.allclose(spectrum_flatness(white), spectrum_flatness(white * 3), atol=1e-5)


def test_distance_and_cosine():
    source = source_noise([0, 1], SHAPE)
    figures = noise_health(source, source)
    assert figures["distance"].tolist() == [0, 0]
    assert figures["cosine"].tolist() == pytest.approx([1, 1])
    figures = noise_health(-source, source)
    assert torch.allclose(figures["distance"], 2 * source.flatten(1).square().mean(1).sqrt())
    assert figures["cosine"].tolist() == pytest.approx([-1, -1])
