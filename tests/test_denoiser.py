"""The denoiser branch: the model's own network, copied exactly, silent at first, and read back from a file."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from golden.errors import BadWeights, InvalidInput
from golden.families import FAMILIES
from golden.noise import first_timestep, source_noise
from golden.npnet import CONFIG_KEY, NETWORKS, DenoiserConfig, NPNet, NPNetConfig, load_npnet, save_npnet
from golden.pipelines import encode_anew, latent_shape, network_of
from golden.verifier import capture_network_inputs
from train.network import copy_denoiser, describe_denoiser, make_npnet
from train.objectives import Sizes
from train.settings import Architecture

ALONE = Architecture(singular=False, residual=False, text=False, layout_rank=0, denoiser=True)
NO_BRANCHES = {"singular": None, "residual": None, "text": None}
SMALL = NPNetConfig(height=8, width=8, num_tokens=5, embedding_dim=8, denoiser=DenoiserConfig(), **NO_BRANCHES)
COPIED = ("sdxl", "sd", "sd3")


def sizes_of(model) -> Sizes:
    embeds = model.family.npnet_embeds(encode_anew(model.pipeline, ["a red star"]))
    return Sizes(*latent_shape(model.pipeline), *embeds.shape[1:])


def make_noisy(config: NPNetConfig = SMALL) -> NPNet:
    """A network whose output is not zero."""
    torch.manual_seed(0)
    return NPNet(config).eval()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "hunyuan-dit"])
def test_a_family_s_network_is_copied_or_refused_in_one_sentence(family, tiny_of_family):
    model = tiny_of_family(family)
    if type(network_of(model.pipeline)).__name__ not in NETWORKS:
        assert family not in COPIED
        with pytest.raises(InvalidInput, match=r"--denoiser copies a .+, and this model has a \w+\."):
            make_npnet(ALONE, sizes_of(model), model.pipeline)
        return
    noise = source_noise([1, 2], latent_shape(model.pipeline))
    network = make_npnet(ALONE, sizes_of(model), model.pipeline, ["a red star"]).eval()
    embeds = model.family.npnet_embeds(encode_anew(model.pipeline, ["a red star", "two circles"]))
    assert torch.equal(network(noise, embeds), noise)  # it says no change before it is trained


@pytest.mark.parametrize("family", COPIED)
def test_the_copy_says_what_the_network_says(family, tiny_of_family):
    """With the last layer put back, and of a single prompt, whose mean is the prompt's own."""
    model = tiny_of_family(family)
    pipeline, own = model.pipeline, network_of(model.pipeline)
    prompts = ["a red star"]
    copy = make_npnet(ALONE, sizes_of(model), pipeline, prompts).denoiser
    last = "conv_out" if hasattr(own, "conv_out") else "proj_out"
    weights = copy_denoiser(pipeline, prompts)
    assert not any(weights[f"{last}.{kind}"].any() for kind in ("weight", "bias"))
    own_last = {f"{last}.{name}": value for name, value in getattr(own, last).state_dict().items()}
    copy.network.load_state_dict(weights | own_last)
    noise, embeddings = source_noise([1], latent_shape(pipeline)), encode_anew(pipeline, prompts)
    arguments, keywords = capture_network_inputs(pipeline, noise, first_timestep(pipeline), embeddings)
    with torch.no_grad():
        expected = own(*arguments, **keywords)[0]
        said = copy.call(copy.network, noise, copy.timestep, model.family.npnet_embeds(embeddings))
    assert expected.std() > 0.01
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-5)


def test_a_file_keeps_a_denoiser_in_half_precision_and_other_branches_as_they_are(tmp_path):
    net = make_noisy(replace(SMALL, text=NPNetConfig().text, change_gain=0.5))
    save_npnet(tmp_path / "net.safetensors", net)
    kinds = {key: value.dtype for key, value in load_file(tmp_path / "net.safetensors").items()}
    assert all((kind == torch.float16) == key.startswith("denoiser.") for key, kind in kinds.items())
    loaded = load_npnet(tmp_path / "net.safetensors")
    assert loaded.config == net.config
    noise, embeds = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(loaded(noise, embeds), net(noise, embeds), rtol=0, atol=1e-3)


@pytest.mark.parametrize("keep_norm", [True, False])
def test_a_gain_multiplies_what_the_branches_change_and_the_norm_leaves(keep_norm):
    plain = make_noisy(replace(SMALL, keep_norm=keep_norm))
    far = make_noisy(replace(SMALL, keep_norm=keep_norm, change_gain=3))
    noise, embeds = torch.randn(3, 4, 8, 8) + 0.5, torch.randn(3, 5, 8)
    far.load_state_dict(plain.state_dict())
    with torch.no_grad():
        golden, further = (net(noise, embeds) for net in (plain, far))
    expected = noise + 3 * (golden - noise)
    if keep_norm:
        norms = [rows.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for rows in (noise, expected)]
        expected = expected * norms[0] / norms[1]
    assert not torch.allclose(golden, noise, atol=1e-2)
    torch.testing.assert_close(further, expected, rtol=0, atol=1e-5)


def test_no_change_stays_no_change_whatever_its_gain():
    net = make_noisy(replace(SMALL, change_gain=50, keep_norm=True))
    with torch.no_grad():
        for parameter in net.denoiser.network.conv_out.parameters():
            parameter.zero_()
    noise = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(net(noise, torch.randn(2, 5, 8)), noise, rtol=0, atol=1e-4)


@pytest.mark.parametrize("gain", [0, -0.1, 1e6, float("nan"), "far", True])
def test_impossible_gains_are_refused(gain):
    with pytest.raises(InvalidInput, match="change_gain must be above 0 and at most 10000"):
        replace(SMALL, change_gain=gain)


HOSTILE = {
    "another class": ({"network": "AutoencoderKL"}, "DenoiserConfig.network must be one of"),
    "a timestep of the future": ({"timestep": 10**6}, "DenoiserConfig.timestep must be a number from 0 to 1000"),
    "an unknown setting": ({"settings": {"made_up": 1}}, "must be those of UNet2DConditionModel, got 'made_up'"),
    "endless layers": ({"settings": {"layers_per_block": 10**9}}, "must have a number up to 64 as layers_per_block"),
    "endless blocks": ({"settings": {"block_out_channels": [32] * 10**4}}, "must have at most 64 entries"),
    "a vast width": ({"settings": {"cross_attention_dim": 10**9}}, "must have a number up to 65536"),
    "nonsense": ({"settings": {"block_out_channels": "wide"}}, "describe no UNet2DConditionModel"),
    "blocks that do not match": ({"settings": {"block_out_channels": [32]}}, "describe no UNet2DConditionModel"),
}


@pytest.mark.parametrize(("values", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_config_is_refused_in_one_sentence(values, sentence, tmp_path):
    config = json.loads(json.dumps({"version": 2} | asdict(SMALL)))
    config["denoiser"] |= values
    weights = make_noisy().state_dict()
    save_file(weights, tmp_path / "net.safetensors", {CONFIG_KEY: json.dumps(config)})
    with pytest.raises(BadWeights, match=f"describes an NPNet that cannot be built: .*{sentence}"):
        load_npnet(tmp_path / "net.safetensors")


def test_the_described_config_is_that_of_the_network_without_pooled_embeddings(tiny_model):
    config = describe_denoiser(tiny_model.pipeline)
    assert config.settings["block_out_channels"] == tiny_model.pipeline.unet.config.block_out_channels
    assert config.settings["addition_embed_type"] is None
    assert config.timestep == first_timestep(tiny_model.pipeline)
