"""The arms: one contract, and each is the control that it says it is."""

from dataclasses import replace

import pytest
import torch

from golden.arms import _UNRELATED, ARMS, Conditions, find_arm, mix
from golden.errors import InvalidInput, MissingWeights
from golden.noise import noise_health, source_noise
from golden.pipelines import encode_prompts
from golden.shapes import parse_caption
from tests.conftest import SIZE

SHAPE = (4, SIZE, SIZE)


def make_conditions(model, prompts: list[str], seeds: list[int]) -> Conditions:
    return Conditions(model.spec, model.pipeline, model.npnet, encode_prompts(model.pipeline, prompts), seeds)


@pytest.fixture(scope="module")
def conditions(tiny_model) -> Conditions:
    return make_conditions(tiny_model, ["a red star", "two blue hearts"], [4, 5])


@pytest.fixture(scope="module")
def hunyuan_conditions(tiny_hunyuan) -> Conditions:
    return make_conditions(tiny_hunyuan, ["a red star", "two blue hearts"], [4, 5])


@pytest.fixture(scope="module")
def source() -> torch.Tensor:
    return source_noise([4, 5], SHAPE)


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("model", ["conditions", "hunyuan_conditions"])
def test_contract(name, model, source, request):
    conditions = request.getfixturevalue(model)
    before = source.clone()
    noise = find_arm(name)(source, conditions)
    assert noise.shape == source.shape
    assert noise.dtype == torch.float32
    assert noise.device.type == "cpu"
    assert noise.isfinite().all()
    assert torch.equal(source, before)
    assert torch.equal(noise, find_arm(name)(source, conditions))
    assert torch.equal(noise, source) == (name == "standard")


@pytest.mark.parametrize("name", [name for name in ARMS if name != "npnet_other_prompt"])
def test_rows_do_not_see_each_other(name, source, conditions, tiny_model):
    together = find_arm(name)(source, conditions)
    alone = find_arm(name)(source[1:], make_conditions(tiny_model, ["two blue hearts"], [5]))
    assert torch.allclose(together[1:], alone, atol=1e-3)


def test_npnet_is_the_networks_answer(source, conditions):
    expected = conditions.npnet(source, conditions.embeddings["prompt_embeds"])
    assert torch.allclose(find_arm("npnet")(source, conditions), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["npnet", "random", "length", "npnet_other_prompt", "npnet_unit_std"])
def test_a_model_without_npnet_says_so(name, source, conditions):
    with pytest.raises(MissingWeights, match="--npnet"):
        find_arm(name)(source, replace(conditions, npnet=None))


def test_random_goes_as_far_as_npnet_and_elsewhere(source, conditions):
    golden, control = find_arm("npnet")(source, conditions), find_arm("random")(source, conditions)
    golden_health, control_health = noise_health(golden, source), noise_health(control, source)
    assert torch.allclose(golden_health["distance"], control_health["distance"], rtol=1e-4)
    assert torch.cosine_similarity((golden - source).flatten(1), (control - source).flatten(1)).abs().max() < 0.25


def test_length_takes_npnets_length_and_the_sources_direction(source, conditions):
    golden, control = (
        find_arm("npnet")(source, conditions).flatten(1),
        find_arm("length")(source, conditions).flatten(1),
    )
    assert torch.allclose(control.norm(dim=1), golden.norm(dim=1))
    assert torch.allclose(torch.cosine_similarity(control, source.flatten(1)), torch.ones(2))


def test_unit_std_has_the_sources_mean_and_spread(source, conditions):
    control = noise_health(find_arm("npnet_unit_std")(source, conditions))
    plain = noise_health(source)
    assert torch.allclose(control["mean"], plain["mean"], atol=1e-5)
    assert torch.allclose(control["std"], plain["std"], atol=1e-5)


def prompts_told(model, prompts: list[str]) -> list[torch.Tensor]:
    """What each row's NPNet was told by the control arm."""
    conditions = make_conditions(model, prompts, list(range(len(prompts))))
    told = []

    def listen(module, inputs):
        told.extend(inputs[1].unbind())

    hook = model.npnet.register_forward_pre_hook(listen)
    try:
        find_arm("npnet_other_prompt")(source_noise(range(len(prompts)), SHAPE), conditions)
    finally:
        hook.remove()
    return told


@pytest.mark.parametrize(
    "prompts",
    [
        ["a star", "a heart"],
        ["a star", "a star", "a star", "a heart", "a heart", "a cross"],
        ["a star", "a heart", "a star"],
    ],
)
def test_other_prompt_is_never_the_rows_own(tiny_model, prompts):
    told = prompts_told(tiny_model, prompts)
    known = encode_prompts(tiny_model.pipeline, prompts)["prompt_embeds"]
    for index, heard in enumerate(told):
        own = [torch.equal(heard, row) for row in known]
        assert any(own)
        assert not own[index]


@pytest.mark.parametrize("prompts", [["a star"], ["a star"] * 3, [_UNRELATED[False][0]], [_UNRELATED[False][1]]])
def test_other_prompt_of_a_prompt_alone_is_an_unrelated_one(tiny_model, prompts):
    told = prompts_told(tiny_model, prompts)
    own = encode_prompts(tiny_model.pipeline, prompts[:1])["prompt_embeds"][0]
    assert len(told) == len(prompts)
    assert not any(torch.equal(heard, own) for heard in told)


def test_unrelated_prompts_are_captions():
    assert len({str(parse_caption(caption)) for caption in _UNRELATED[True]}) == 2


def test_strength_is_a_straight_line(source):
    golden = source + 1
    assert torch.equal(mix(source, golden, 0.0), source)
    assert torch.allclose(mix(source, golden, 1.0), golden)
    assert torch.allclose(mix(source, golden, 0.5), source + 0.5)
    assert torch.allclose(mix(source, golden, 3.0), source + 3)


@pytest.mark.parametrize("name", ["", "golden", "NPNET", None, 3, [], {}])
def test_an_unknown_arm_lists_the_known_ones(name):
    with pytest.raises(InvalidInput, match="choose one of standard, npnet, inversion"):
        find_arm(name)
