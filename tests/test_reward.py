"""Rewards: gradients reach the noise row by row, ascent climbs and keeps the norm, selection takes the best noise."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from golden.arms import ARMS, Conditions
from golden.errors import InvalidInput, MissingWeights
from golden.models import RewardSettings, Sampling
from golden.noise import sample_first_steps, source_noise
from golden.pipelines import denoise, encode_prompts, latent_shape
from golden.reward import Reward, ascend, clip_rows, reward_gradient, step_up
from golden.samplers import make_sampler
from golden.verifier import make_verifier

PROMPTS = ["a red star", "two circles"]


class Brightness:
    def score_pixels(self, pixels, prompts):
        assert len(pixels) == len(prompts)
        assert set(prompts) <= set(PROMPTS)
        return pixels.mean((1, 2, 3))


@pytest.fixture
def verified(tiny_model):
    torch.manual_seed(0)
    return replace(tiny_model, verifier=make_verifier(tiny_model.pipeline).requires_grad_(False).eval())


@pytest.fixture
def inputs(verified):
    return source_noise([1, 2], latent_shape(verified.pipeline)), encode_prompts(verified.pipeline, PROMPTS)


def test_the_gradient_is_that_of_the_reward(verified, inputs):
    noise, embeddings = inputs
    reward = Reward(verified, RewardSettings(num_inference_steps=4, num_steps=2))
    rewards, gradient = reward_gradient(reward, noise, embeddings)
    direction = torch.nn.functional.normalize(gradient.flatten(1), dim=1).view_as(noise)
    with torch.no_grad():
        ahead, behind = (reward(noise + sign * 0.01 * direction, embeddings) for sign in (1, -1))
    slope = (ahead - behind) / 0.02
    assert torch.allclose(slope, gradient.flatten(1).norm(dim=1), rtol=0.05)
    assert torch.allclose(rewards, reward(noise, embeddings).detach(), atol=1e-5)


def test_rows_of_the_gradient_do_not_see_each_other(verified, inputs):
    noise, embeddings = inputs
    reward = Reward(verified)
    _, both = reward_gradient(reward, noise, embeddings)
    _, alone = reward_gradient(reward, noise[1:], {name: value[1:] for name, value in embeddings.items()})
    assert torch.allclose(both[1:], alone, rtol=1e-3, atol=1e-6)


def test_ascent_climbs_and_keeps_the_norm(verified, inputs):
    noise, embeddings = inputs
    reward = Reward(verified)
    golden = ascend(reward, noise, embeddings, num_iterations=3)
    with torch.no_grad():
        assert (reward(golden, embeddings) > reward(noise, embeddings)).all()
    assert torch.allclose(golden.flatten(1).norm(dim=1), noise.flatten(1).norm(dim=1), rtol=1e-5)
    assert torch.equal(ascend(reward, noise, embeddings, num_iterations=0), noise)


def test_a_single_step_goes_up_the_gradient_as_far_as_there_is_doubt_and_keeps_the_norm(verified, inputs):
    noise, embeddings = inputs
    reward = Reward(verified)
    stepped = step_up(reward, noise, embeddings, step_size=0.02)
    rewards, gradient = reward_gradient(reward, noise, embeddings)
    change = (stepped - noise).flatten(1)
    assert torch.allclose(stepped.flatten(1).norm(dim=1), noise.flatten(1).norm(dim=1), rtol=1e-5)
    assert torch.allclose(change.square().mean(1).sqrt(), 0.02 * (1 - rewards.exp()), rtol=0.01)
    assert (torch.nn.functional.cosine_similarity(change, gradient.flatten(1)) > 0.99).all()


def test_a_noise_that_is_certain_to_succeed_stays_where_it_is(inputs):
    noise, embeddings = inputs

    def reward(noise, embeddings, prompts):
        doubtful = torch.tensor([0.0, 1.0])
        return torch.log(torch.tensor([1.0, 0.25])) + doubtful * 0.1 * noise.mean((1, 2, 3))

    stepped = step_up(reward, noise, embeddings)
    assert torch.allclose(stepped[0], noise[0], atol=1e-6)
    assert (stepped[1] - noise[1]).square().mean().sqrt() == pytest.approx(0.75 * 0.03, rel=0.02)


def test_a_reward_may_be_on_another_device_than_the_noise():
    """As that of a model on a GPU for noise on the CPU; fake tensors know their devices and hold nothing."""
    with FakeTensorMode():
        noise, embeddings = torch.empty(2, 4, 8, 8), {"prompt_embeds": torch.empty(2, 3, 5)}
        stepped = step_up(lambda noise, embeddings, prompts: noise.to("meta").mean((1, 2, 3)), noise, embeddings)
    assert stepped.device == noise.device
    assert stepped.shape == noise.shape


def test_where_memory_is_low_every_row_has_a_reward_of_its_own(tiny_model, spared_model):
    noise = source_noise([1, 2], latent_shape(tiny_model.pipeline))
    torch.manual_seed(0)
    spared = replace(spared_model, verifier=make_verifier(tiny_model.pipeline).requires_grad_(False).eval())
    settings = RewardSettings((("verifier", 1.0), ("Brightness", 2.0)), num_inference_steps=4, num_steps=2)

    def rate(model, rows):
        reward = Reward(model, settings, {"Brightness": Brightness()})
        own = {name: value[rows] for name, value in encode_prompts(model.pipeline, PROMPTS).items()}
        with torch.no_grad():
            return reward(noise[rows], own, PROMPTS[rows])

    both = rate(spared, slice(0, 2))
    assert torch.allclose(both, torch.cat([rate(spared, slice(0, 1)), rate(spared, slice(1, 2))]))
    assert torch.allclose(both, rate(replace(tiny_model, verifier=spared.verifier), slice(0, 2)), atol=1e-4)
    assert both[0] != both[1]


def test_a_reward_is_given_at_the_models_own_guidance_unless_it_has_another(verified, inputs):
    noise, embeddings = inputs
    weak = replace(verified, spec=replace(verified.spec, sampling=replace(verified.spec.sampling, guidance_scale=1.5)))
    settings = RewardSettings(num_inference_steps=4, num_steps=2)
    with torch.no_grad():
        own, given, strong = (
            Reward(model, chosen)(noise, embeddings)
            for model, chosen in (
                (weak, settings),
                (verified, replace(settings, guidance_scale=1.5)),
                (verified, settings),
            )
        )
    assert torch.equal(own, given)
    assert not torch.equal(own, strong)


def test_the_verifier_sees_the_latents_that_were_reached(verified, inputs):
    noise, embeddings = inputs
    with torch.no_grad():
        reward = Reward(verified, RewardSettings(num_inference_steps=4, num_steps=2))(noise, embeddings)
        latents, timestep, _ = sample_first_steps(verified.pipeline, noise, embeddings, Sampling("ddim", 4, 5.5), 2)
        logits = verified.verifier(verified.pipeline, latents, timestep, embeddings)
    assert torch.allclose(reward, torch.nn.functional.logsigmoid(logits), atol=1e-5)


def test_clipping_bounds_each_row_alone_and_drops_nan():
    gradient = torch.ones(3, 1, 2, 2)
    gradient[0] *= 100
    gradient[2, 0, 0, 0] = torch.nan
    clipped = clip_rows(gradient, 2.0)
    assert clipped[0].norm() == pytest.approx(2.0)
    assert torch.equal(clipped[1], gradient[1])
    assert clipped.isfinite().all()


def test_judges_reward_the_image_that_latents_lead_to(verified, inputs):
    noise, embeddings = inputs
    reward = Reward(verified, RewardSettings((("Brightness", 2.0),)), {"Brightness": Brightness()})
    rewards, gradient = reward_gradient(reward, noise, embeddings, PROMPTS)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    brighter = ascend(reward, noise, embeddings, PROMPTS, num_iterations=2)
    assert (reward(brighter, embeddings, PROMPTS) > rewards).all()


def test_first_steps_are_those_of_the_whole_schedule(verified, inputs):
    noise, embeddings = inputs
    pipeline, sampling = verified.pipeline, Sampling("ddim", 10, 5.5)
    short, timestep, _ = sample_first_steps(pipeline, noise, embeddings, sampling, 2)
    with_gradients, _, _ = sample_first_steps(pipeline, noise, embeddings, sampling, 2, grad=True)
    assert torch.allclose(short, with_gradients, atol=1e-5)
    assert timestep == 701

    scheduler, seen = make_sampler("ddim", pipeline.scheduler.config), []
    whole = Sampling(scheduler, 10, 5.5)
    denoise(pipeline, noise, embeddings, [0, 0], whole, on_step=lambda *_: seen.append(scheduler.latents))
    assert torch.allclose(short, seen[1], atol=1e-5)


def test_what_is_missing_is_named(tiny_model, verified):
    with pytest.raises(MissingWeights, match="verifier"):
        Reward(replace(tiny_model, verifier=None))
    with pytest.raises(InvalidInput, match="PickScore"):
        Reward(verified, RewardSettings((("PickScore", 1.0),)))
    with pytest.raises(InvalidInput, match="1 to 9 of 10"):
        RewardSettings(num_steps=10)
    for arm in ("ascent", "select_4"):
        with pytest.raises(MissingWeights, match="verifier"):
            ARMS[arm](torch.zeros(1, 4, 16, 16), Conditions(replace(tiny_model, verifier=None), None, {}, [0]))


def test_selection_takes_the_noise_that_the_verifier_likes_best(verified, inputs):
    noise, embeddings = inputs
    conditions = Conditions(verified, None, embeddings, [1, 2])

    def rewards(rows):
        with torch.no_grad():
            return Reward(verified, verified.spec.reward)(rows, embeddings)

    few, many = ARMS["select_4"](noise, conditions), ARMS["select_16"](noise, conditions)
    assert (rewards(few) >= rewards(noise) - 1e-6).all()
    assert (rewards(many) >= rewards(few) - 1e-6).all()
    assert torch.equal(few, ARMS["select_4"](noise, conditions))
    alone = ARMS["select_4"](noise[1:], Conditions(verified, None, {k: v[1:] for k, v in embeddings.items()}, [2]))
    assert torch.allclose(few[1:], alone)
