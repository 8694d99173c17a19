"""The arms: one contract, and each is the control that it is meant to be."""

from dataclasses import replace

import pytest
import torch

from golden.arms import _UNRELATED, ARMS, Conditions, available_arms, find_arm, make_noises, mix
from golden.checkers import find_checker
from golden.errors import InvalidInput, MissingWeights
from golden.models import Sampling
from golden.noise import noise_health, source_noise
from golden.npnet import NPNet
from golden.pipelines import encode_prompts
from golden.shapes import parse_caption
from tests.conftest import EVERY_ARM, SIZE

SHAPE = (4, SIZE, SIZE)


def make_conditions(model, prompts: list[str], seeds: list[int]) -> Conditions:
    return Conditions(model, model.npnet, encode_prompts(model.pipeline, prompts), seeds)


@pytest.fixture(scope="module")
def conditions(tiny_model) -> Conditions:
    return make_conditions(tiny_model, ["a red star", "two blue hearts"], [4, 5])


@pytest.fixture(scope="module")
def hunyuan_conditions(tiny_hunyuan) -> Conditions:
    return make_conditions(tiny_hunyuan, ["a red star", "two blue hearts"], [4, 5])


@pytest.fixture(scope="module")
def source() -> torch.Tensor:
    return source_noise([4, 5], SHAPE)


@pytest.mark.parametrize("name", EVERY_ARM)
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


@pytest.mark.parametrize("name", [name for name in EVERY_ARM if name != "mismatched"])
def test_rows_do_not_see_each_other(name, source, conditions, tiny_model):
    together = find_arm(name)(source, conditions)
    alone = find_arm(name)(source[1:], make_conditions(tiny_model, ["two blue hearts"], [5]))
    assert torch.allclose(together[1:], alone, atol=1e-3)


def test_npnet_is_the_networks_answer(source, conditions):
    expected = conditions.npnet(source, conditions.embeddings["prompt_embeds"])
    assert torch.allclose(find_arm("npnet")(source, conditions), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["npnet", "random", "norm", "mismatched", "unit_std"])
def test_a_model_without_npnet_says_so(name, source, conditions):
    with pytest.raises(MissingWeights, match="--npnet"):
        find_arm(name)(source, replace(conditions, npnet=None))


@pytest.mark.parametrize("name", ["ascent", "select_4", "select_16", "select_64"])
def test_a_model_without_verifier_says_so(name, source, conditions):
    bare = replace(conditions, model=replace(conditions.model, verifier=None))
    with pytest.raises(MissingWeights, match="There is no verifier"):
        find_arm(name)(source, bare)


def test_arms_are_available_where_their_weights_are(tiny_model, tmp_path):
    assert available_arms(tiny_model) == tuple(ARMS)
    bare = replace(tiny_model, npnet=None, verifier=None)
    assert available_arms(bare) == ("standard", "inversion", "repaint", "best_norm")
    distilled = replace(bare.spec, sampling=replace(bare.spec.sampling, guidance_scale=1.0))
    assert available_arms(replace(bare, spec=distilled)) == ("standard", "repaint", "best_norm")
    (tmp_path / "verifier").write_bytes(b"not read")
    with_file = replace(bare, spec=replace(bare.spec, verifier=None))
    with_file.spec = replace(bare.spec, verifier=str(tmp_path / "verifier"))
    assert "ascent" in available_arms(with_file)


def test_arms_of_the_norm_are_not_offered_where_it_is_kept(tiny_model):
    keeping = NPNet(replace(tiny_model.npnet.config, keep_norm=True))
    left_out = set(available_arms(tiny_model)) - set(available_arms(replace(tiny_model, npnet=keeping)))
    assert left_out == {"norm", "unit_std"}


def test_the_best_norm_is_the_models_own(source, conditions):
    scaled = replace(conditions, model=replace(conditions.model, spec=replace(conditions.model.spec, best_norm=0.7)))
    assert torch.equal(find_arm("best_norm")(source, scaled), 0.7 * source)


def test_random_goes_as_far_as_npnet_and_elsewhere(source, conditions):
    golden, control = find_arm("npnet")(source, conditions), find_arm("random")(source, conditions)
    golden_health, control_health = noise_health(golden, source), noise_health(control, source)
    assert torch.allclose(golden_health["distance"], control_health["distance"], rtol=1e-4)
    assert torch.cosine_similarity((golden - source).flatten(1), (control - source).flatten(1)).abs().max() < 0.25


def test_norm_takes_npnets_norm_and_the_sources_direction(source, conditions):
    golden, control = (
        find_arm("npnet")(source, conditions).flatten(1),
        find_arm("norm")(source, conditions).flatten(1),
    )
    assert torch.allclose(control.norm(dim=1), golden.norm(dim=1))
    assert torch.allclose(torch.cosine_similarity(control, source.flatten(1)), torch.ones(2))


def test_unit_std_has_the_sources_mean_and_spread(source, conditions):
    control = noise_health(find_arm("unit_std")(source, conditions))
    plain = noise_health(source)
    assert torch.allclose(control["mean"], plain["mean"], atol=1e-5)
    assert torch.allclose(control["std"], plain["std"], atol=1e-5)


def mismatched_embeddings(model, prompts: list[str]) -> list[torch.Tensor]:
    """The prompt embeddings that NPNet is given by the control arm, row by row."""
    conditions = make_conditions(model, prompts, list(range(len(prompts))))
    given = []

    def listen(module, inputs):
        given.extend(inputs[1].unbind())

    hook = model.npnet.register_forward_pre_hook(listen)
    try:
        find_arm("mismatched")(source_noise(range(len(prompts)), SHAPE), conditions)
    finally:
        hook.remove()
    return given


@pytest.mark.parametrize(
    "prompts",
    [
        ["a star", "a heart"],
        ["a star", "a star", "a star", "a heart", "a heart", "a cross"],
        ["a star", "a heart", "a star"],
    ],
)
def test_a_mismatched_prompt_is_never_the_rows_own(tiny_model, prompts):
    given = mismatched_embeddings(tiny_model, prompts)
    known = encode_prompts(tiny_model.pipeline, prompts)["prompt_embeds"]
    for index, other in enumerate(given):
        own = [torch.equal(other, row) for row in known]
        assert any(own)
        assert not own[index]


@pytest.mark.parametrize("prompts", [["a star"], ["a star"] * 3, [_UNRELATED[0]], [_UNRELATED[1]]])
def test_where_all_prompts_are_one_the_mismatched_one_is_unrelated(tiny_model, prompts):
    given = mismatched_embeddings(tiny_model, prompts)
    own = encode_prompts(tiny_model.pipeline, prompts[:1])["prompt_embeds"][0]
    assert len(given) == len(prompts)
    assert not any(torch.equal(other, own) for other in given)


def test_a_model_with_a_checker_gets_mismatched_prompts_that_it_knows(tiny_shapes):
    unrelated = find_checker("shapes").unrelated
    assert len({str(parse_caption(caption)) for caption in unrelated}) == 2
    for prompt, other in ("a star", unrelated[0]), (unrelated[0], unrelated[1]):
        (given,) = mismatched_embeddings(tiny_shapes, [prompt])
        assert torch.equal(given, encode_prompts(tiny_shapes.pipeline, [other])["prompt_embeds"][0])


def test_make_noises_is_every_arm_with_its_strength_and_its_time(source, conditions):
    arms = ("standard", "npnet", "norm")
    noises, seconds = make_noises(arms, source, conditions, strength=0.5)
    assert tuple(noises) == tuple(seconds) == arms
    assert torch.equal(noises["standard"], source)
    for arm in arms:
        assert torch.equal(noises[arm], mix(source, find_arm(arm)(source, conditions), 0.5))
        assert seconds[arm] >= 0


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


def test_only_what_a_model_can_do_is_available(tiny_model):
    assert available_arms(tiny_model) == tuple(ARMS)
    bare = replace(tiny_model, npnet=None, verifier=None)
    assert available_arms(bare) == ("standard", "inversion", "repaint", "best_norm")
    source, conditions = source_noise([1], SHAPE), make_conditions(bare, ["a"], [1])
    for arm in ARMS:
        if arm not in available_arms(bare):
            with pytest.raises(MissingWeights):
                find_arm(arm)(source, conditions)
    distilled = replace(bare, spec=replace(bare.spec, sampling=Sampling("euler", 4, 1.0)))
    assert available_arms(distilled) == ("standard", "repaint", "best_norm")
