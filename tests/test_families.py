"""Families: what differs between kinds of pipelines is where the contract says, and nowhere else."""

import inspect

import diffusers
import pytest
import torch

from golden.errors import InvalidInput
from golden.families import FAMILIES, family_of_class, find_family
from golden.models import MODELS
from golden.npnet import NPNETS
from golden.pipelines import decode, encode_prompts, find_cut, latent_shape, network_of
from golden.samplers import SAMPLERS
from tests.conftest import NUM_TOKENS, SIZE


@pytest.fixture(params=FAMILIES)
def pipeline(request, tiny_of_family):
    return tiny_of_family(request.param).pipeline


def test_contract(pipeline):
    family = find_family(pipeline)
    assert FAMILIES[family.name] is family
    assert family.title
    base = MODELS[family.base_model]
    assert base.family is family
    assert base.pipeline.startswith(family.class_prefix)
    assert hasattr(diffusers, base.pipeline)
    assert set(family.npnets) <= set(NPNETS)
    assert family.controlnet_class is None or hasattr(diffusers, family.controlnet_class)
    assert family.network(pipeline) is network_of(pipeline)
    assert isinstance(network_of(pipeline), torch.nn.Module)
    arguments = set(inspect.signature(pipeline.__call__).parameters)
    assert set(family.call_arguments()) <= arguments
    assert set(family.guidance_arguments(3.0)) <= arguments
    assert set(family.samplers) <= set(SAMPLERS)
    assert base.sampling.sampler in family.samplers


def test_packed_latents_and_scaled_latents_come_back(pipeline):
    family = find_family(pipeline)
    channels, height, width = latent_shape(pipeline, 64, 96)
    assert channels == family.latent_channels(pipeline)
    latents = torch.arange(2.0 * channels * height * width).view(2, channels, height, width) / 1000
    if family.name != "flux2-klein":  # whose pipeline packs latents itself
        assert torch.equal(family.unpack(pipeline, family.pack(pipeline, latents), height, width), latents)
    assert torch.allclose(family.scale_latents(pipeline, family.unscale_latents(pipeline, latents)), latents, atol=1e-5)


def test_packed_latents_are_those_of_the_pipeline(pipeline):
    """As far as it has functions of its own for that."""
    family, (channels, height, width) = find_family(pipeline), latent_shape(pipeline, 64, 96)
    latents = torch.randn(2, channels, height, width)
    if family.name in ("flux", "qwen-image"):
        packed = pipeline._pack_latents(latents, 2, channels, height, width)
        assert torch.equal(family.pack(pipeline, latents), packed)
        own = pipeline._unpack_latents(packed, 64, 96, pipeline.vae_scale_factor)
        assert torch.equal(own.view_as(latents), family.unpack(pipeline, packed, height, width))
    elif family.name == "flux2-klein":
        tokens = pipeline._pack_latents(latents)
        assert torch.equal(family.unpack(pipeline, tokens, height, width), latents)
        unscaled = family.unscale_latents(pipeline, latents)
        mean, std = pipeline.vae.bn.running_mean, (pipeline.vae.bn.running_var + 1e-4).sqrt()
        own = pipeline._unpatchify_latents(latents * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1))
        assert torch.allclose(unscaled, own, atol=1e-5)
    else:
        assert family.pack(pipeline, latents) is latents


def count_tokens(pipeline) -> int:
    """The tokens of a prompt's embeddings: without T5, Stable Diffusion 3 has CLIP's and as many zeros."""
    family = find_family(pipeline)
    return 2 * NUM_TOKENS if family.name == "sd3" else family.num_tokens


def test_npnet_reads_one_row_of_tokens_for_each_prompt(pipeline):
    family = find_family(pipeline)
    read = family.npnet_embeds(encode_prompts(pipeline, ["a star", "a heart"]))
    assert read.shape == (2, count_tokens(pipeline), family.embedding_dim(pipeline))
    assert not torch.equal(read[0], read[1])


def test_embeddings_are_those_of_the_pipelines_own_call(pipeline):
    embeddings = encode_prompts(pipeline, ["a star", "a heart"])
    family = find_family(pipeline)
    assert embeddings["prompt_embeds"].shape == (2, count_tokens(pipeline), family.embedding_dim(pipeline))
    assert all(len(value) == 2 for value in embeddings.values())
    assert {name.removeprefix("negative_") for name in embeddings} <= set(embeddings)
    assert set(embeddings) <= set(inspect.signature(pipeline.__call__).parameters)


def test_latents_and_images_have_sizes_that_fit(pipeline):
    channels = getattr(network_of(pipeline).config, "in_channels", 16)
    packed = find_family(pipeline).pack(pipeline, torch.zeros(1, channels, 2, 2)).ndim == 3
    assert latent_shape(pipeline) == (channels // 4 if packed else channels, SIZE, SIZE)
    images = decode(pipeline, torch.zeros(1, *latent_shape(pipeline, 96, 128)))
    assert images[0].size == (128, 96)
    with pytest.raises(InvalidInput, match="height must be a multiple of"):
        latent_shape(pipeline, 7)


def test_what_is_beyond_the_tokens_that_are_read_is_named(pipeline):
    letters = "a b c d e f g h i j " * 60
    assert find_cut(pipeline, "a star") == ""
    assert letters.strip().endswith(find_cut(pipeline, letters))
    assert find_cut(pipeline, letters)


@pytest.mark.parametrize(
    ("class_name", "family"),
    [
        ("StableDiffusionXLPipeline", "sdxl"),
        ("StableDiffusionXLControlNetPipeline", "sdxl"),
        ("StableDiffusionXLInpaintPipeline", "sdxl"),
        ("HunyuanDiTPipeline", "hunyuan-dit"),
        ("HunyuanDiTControlNetPipeline", "hunyuan-dit"),
        ("PixArtSigmaPipeline", "pixart-sigma"),
        ("StableDiffusion3Pipeline", "sd3"),
        ("StableDiffusion3Img2ImgPipeline", "sd3"),
        ("StableDiffusionPipeline", "sd"),
        ("FluxPipeline", "flux"),
        ("Flux2KleinPipeline", "flux2-klein"),
        ("ZImagePipeline", "z-image"),
        ("QwenImagePipeline", "qwen-image"),
        ("SanaPipeline", "sana"),
    ],
)
def test_a_family_is_known_by_its_class(class_name, family):
    assert family_of_class(class_name).name == family
    subclass = type("Own", (type(class_name, (), {}),), {})
    assert find_family(subclass()).name == family


@pytest.mark.parametrize(
    "class_name", ["Flux2Pipeline", "SanaVideoPipeline", "StableDiffusionXLLoraLoaderMixin", "", "x" * 1000]
)
def test_another_class_is_refused_and_the_families_listed(class_name):
    with pytest.raises(InvalidInput, match=r"Stable Diffusion XL .*, Hunyuan-DiT .*; this is a ") as caught:
        family_of_class(class_name)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("class_name", ["AnimateDiffPipeline", "AnimateDiffSDXLPipeline", "LTXPipeline"])
def test_videos_are_refused_whatever_their_pipelines_inherit(class_name):
    names = [parent.__name__ for parent in getattr(diffusers, class_name).__mro__]
    with pytest.raises(InvalidInput, match=f"this is a '{class_name}'"):
        family_of_class(*names)
