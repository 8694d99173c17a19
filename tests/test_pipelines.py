"""Pipelines: prompts are encoded once, a batch is denoised as diffusers would, and nothing is left changed."""

import copy
import inspect
import json
import logging
from dataclasses import replace
from pathlib import Path

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from golden import pipelines
from golden.compare import run_comparison
from golden.errors import GoldenError, InvalidInput, MissingWeights
from golden.families import FAMILIES
from golden.model import load_model, pick_device
from golden.models import MODELS, Sampling, find_model
from golden.noise import redenoise, source_noise
from golden.pipelines import (
    add_control,
    choose_memory,
    decode,
    decode_pixels,
    denoise,
    encode_prompts,
    find_cut,
    images_to_pixels,
    is_spared,
    latent_shape,
    load_pipeline,
    needed_memory,
    pixels_to_images,
    repeat_embeddings,
    sample_images,
)
from golden.request import CompareRequest
from tests.conftest import EMBEDDING_DIM, NUM_TOKENS, SIZE

SHAPE = (4, SIZE, SIZE)


@pytest.fixture(params=["tiny_model", "tiny_hunyuan"])
def any_model(request):
    return request.getfixturevalue(request.param)


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def num_encoded(tiny_model, monkeypatch) -> list[str]:
    """An empty cache, and every prompt that the text encoders are asked for."""
    encode, asked = tiny_model.pipeline.encode_prompt, []

    def listen(prompts, **kwargs):
        asked.extend(prompts)
        return encode(prompts, **kwargs)

    monkeypatch.setattr(tiny_model.pipeline, "encode_prompt", listen)
    tiny_model.pipeline.__dict__.pop("_golden_embeddings", None)
    yield asked
    tiny_model.pipeline.__dict__.pop("_golden_embeddings", None)


def test_a_prompt_is_encoded_once_and_rows_keep_their_order(tiny_model, num_encoded):
    pipeline = tiny_model.pipeline
    first = encode_prompts(pipeline, ["b", "a", "b"])
    assert num_encoded == ["b", "a"]
    second = encode_prompts(pipeline, ["a", "c", "b"])
    assert num_encoded == ["b", "a", "c"]
    assert {name: value.shape[0] for name, value in first.items()} == dict.fromkeys(first, 3)
    for name in first:
        assert torch.equal(first[name][0], first[name][2])
        assert torch.equal(first[name][:2], second[name][[2, 0]])
    assert not torch.equal(first["prompt_embeds"][0], first["prompt_embeds"][1])


def test_a_batch_is_encoded_as_one_by_one(any_model):
    prompts = ["a red star", "two hearts and much, much more", ""]
    together = encode_prompts(any_model.pipeline, prompts)
    any_model.pipeline.__dict__.pop("_golden_embeddings")
    for index, prompt in enumerate(prompts):
        for name, value in encode_prompts(any_model.pipeline, [prompt]).items():
            assert torch.allclose(value, together[name][index : index + 1], atol=1e-5)


def test_what_a_caller_does_to_embeddings_stays_with_the_caller(tiny_model, num_encoded):
    embeddings = encode_prompts(tiny_model.pipeline, ["a"])
    before = embeddings["prompt_embeds"].clone()
    embeddings["prompt_embeds"].zero_()
    assert torch.equal(encode_prompts(tiny_model.pipeline, ["a"])["prompt_embeds"], before)


def test_what_is_beyond_77_tokens_is_cut_and_said(any_model, caplog):
    pipeline, words = any_model.pipeline, "a b c d e f g h i j "
    cut = find_cut(pipeline, words * 20)
    assert cut == (words * 20)[150:-1]  # 75 letters, a token each, are read
    embeddings = encode_prompts(pipeline, [words * 20, words])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "longer than the 77 tokens" in caplog.text
    assert cut in caplog.text
    other = encode_prompts(pipeline, [words * 19 + "changed"])
    assert torch.allclose(embeddings["prompt_embeds"][0], other["prompt_embeds"][0], atol=1e-6)
    assert find_cut(pipeline, "1, 2; 3! " * 30)  # of what a tokenizer does not know, too


@pytest.mark.parametrize("prompt", ["", "a star", "a" * 75])
def test_of_a_short_prompt_nothing_is_cut(tiny_model, prompt, caplog):
    assert find_cut(tiny_model.pipeline, prompt) == ""
    encode_prompts(tiny_model.pipeline, [prompt])
    assert caplog.text == ""
    assert find_cut(tiny_model.pipeline, "a" * 76) == "a"


def test_embeddings_can_be_trained_on(tiny_model):
    """Tensors made in inference mode cannot; those that leave the cache are plain."""
    weight = torch.ones(EMBEDDING_DIM, requires_grad=True)
    (encode_prompts(tiny_model.pipeline, ["a"])["prompt_embeds"] * weight).square().sum().backward()
    assert weight.grad.isfinite().all()


def test_the_cache_has_an_end(tiny_model, num_encoded, monkeypatch):
    monkeypatch.setattr(pipelines, "_CACHED_PROMPTS", 3)
    monkeypatch.setattr(pipelines, "_ENCODED_AT_ONCE", 2)
    embeddings = encode_prompts(tiny_model.pipeline, list("abcdefg"))
    assert len(embeddings["prompt_embeds"]) == 7
    assert list(tiny_model.pipeline._golden_embeddings) == ["e", "f", "g"]
    del num_encoded[:]
    assert torch.equal(encode_prompts(tiny_model.pipeline, ["a"])["prompt_embeds"], embeddings["prompt_embeds"][:1])
    assert num_encoded == ["a"]


def test_embeddings_are_arguments_of_the_pipelines_call(any_model):
    embeddings = encode_prompts(any_model.pipeline, ["a star", "a heart"])
    assert set(embeddings) <= set(inspect.signature(any_model.pipeline.__call__).parameters)
    assert embeddings["prompt_embeds"].shape == (2, NUM_TOKENS, EMBEDDING_DIM)
    repeated = repeat_embeddings(embeddings, 2)
    for name, value in embeddings.items():
        assert torch.equal(repeated[name], torch.cat([value, value]))


# --- denoise ----------------------------------------------------------------------------------------------------------


def test_denoise_is_the_pipelines_own_call(any_model):
    pipeline = any_model.pipeline
    own = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    noise = source_noise([1, 2], SHAPE)
    prompts = ["a red star", "a blue heart"]
    latents = denoise(pipeline, noise, encode_prompts(pipeline, prompts), [0, 0], Sampling("ddim", 3, 4.0))
    arguments = {"use_resolution_binning": False} if "Hunyuan" in type(pipeline).__name__ else {}
    before = pipeline.scheduler
    try:
        pipeline.scheduler = own
        expected = pipeline(
            prompts,
            latents=noise,
            num_inference_steps=3,
            guidance_scale=4.0,
            output_type="latent",
            **arguments,
        ).images
    finally:
        pipeline.scheduler = before
    assert torch.allclose(latents, expected, atol=1e-4)
    assert latents.shape == noise.shape


def test_denoise_takes_other_sizes_and_shapes(any_model):
    noise = source_noise([1], (4, SIZE, 2 * SIZE))
    embeddings = encode_prompts(any_model.pipeline, ["a star"])
    latents = denoise(any_model.pipeline, noise, embeddings, [0], Sampling("ddim", 1, 2.0))
    assert latents.shape == noise.shape
    assert decode(any_model.pipeline, latents)[0].size == (16 * SIZE, 8 * SIZE)


def test_on_step_counts_and_shows(any_model):
    seen = []
    noise = source_noise([1, 2], SHAPE)
    latents = denoise(
        any_model.pipeline,
        noise,
        encode_prompts(any_model.pipeline, ["a star", "a heart"]),
        [0, 0],
        Sampling("ddim", 3, 2.0),
        on_step=lambda *arguments: seen.append(arguments),
    )
    assert [(step, num_steps) for step, num_steps, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(estimate.shape == latents.shape for _, _, estimate in seen)


def test_an_exception_stops_the_run_and_the_scheduler_comes_back(any_model):
    pipeline = any_model.pipeline
    scheduler, steps = pipeline.scheduler, []
    config = dict(scheduler.config)

    def stop(step, num_steps, clean_estimate):
        steps.append(step)
        assert pipeline.scheduler is not scheduler
        if step == 2:
            raise KeyboardInterrupt

    noise, embeddings = source_noise([1], SHAPE), encode_prompts(pipeline, ["a star"])
    sampling = Sampling("ddim", 5, 2.0)
    with pytest.raises(KeyboardInterrupt):
        denoise(pipeline, noise, embeddings, [0], sampling, on_step=stop)
    assert steps == [1, 2]
    assert pipeline.scheduler is scheduler
    assert dict(scheduler.config) == config
    with pytest.raises(InvalidInput):
        denoise(pipeline, noise, embeddings, [0], replace(sampling, sampler="nothing"))
    assert pipeline.scheduler is scheduler
    assert denoise(pipeline, noise, embeddings, [0], sampling).isfinite().all()


def test_redenoise_works_for_every_class(any_model):
    source = source_noise([1], SHAPE)
    target = redenoise(any_model.pipeline, source, encode_prompts(any_model.pipeline, ["a star"]))
    assert target.isfinite().all()
    assert not torch.equal(target, source)


def test_a_controlnet_gets_its_control_image(tiny_model, tiny_steered, edges):
    """Resized to the generated images, as the pipeline itself would, in every row."""
    pipeline, noise = tiny_steered.pipeline, source_noise([1, 2], SHAPE)
    sampling = Sampling("ddim", 2, 3.0)
    embeddings = encode_prompts(pipeline, ["a star", "a heart"])
    free = denoise(tiny_model.pipeline, noise, embeddings, [0, 0], sampling)
    controlled = add_control(pipeline, embeddings, edges, SHAPE)
    steered = denoise(pipeline, noise, controlled, [0, 0], sampling)
    assert not torch.allclose(steered, free, atol=1e-3)
    own = embeddings | {"image": [edges, edges]}
    with torch.inference_mode():
        expected = pipeline(
            **own,
            latents=noise,
            height=8 * SIZE,
            width=8 * SIZE,
            output_type="latent",
            num_inference_steps=2,
            guidance_scale=3.0,
        ).images
    pipeline.maybe_free_model_hooks()
    sampled = denoise(pipeline, noise, controlled, [0, 0], replace(sampling, sampler=pipeline.scheduler))
    assert torch.allclose(sampled, expected, atol=1e-2)


def test_a_steered_folder_is_loaded_as_a_whole(tiny_steered, tmp_path):
    tiny_steered.pipeline.save_pretrained(tmp_path)
    spec = find_model(str(tmp_path))
    assert spec.needs_control
    pipeline = load_pipeline(spec)
    assert torch.equal(pipeline.controlnet.conv_in.weight, tiny_steered.pipeline.controlnet.conv_in.weight)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_controlnet_gets_one_sentence(tiny_sdxl_folder, tiny_controlnet_folder, tmp_path, damage):
    for path in Path(tiny_controlnet_folder).iterdir():
        data = path.read_bytes()
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(data)
        elif damage == "cut":
            (tmp_path / path.name).write_bytes(data[: len(data) // 2])
    with pytest.raises(GoldenError, match="The ControlNet") as caught:
        load_pipeline(find_model(f"{tiny_sdxl_folder}+{tmp_path}"))
    assert "\n" not in str(caught.value)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_gradients_reach_the_noise(any_model, sampler):
    """And the latents are those of a run without them."""
    pipeline, sampling = any_model.pipeline, Sampling(sampler, 3, 4.0)
    noise, embeddings = source_noise([1, 2], SHAPE), encode_prompts(pipeline, ["a star", "a heart"])
    plain = denoise(pipeline, noise, embeddings, [0, 0], sampling)
    assert not plain.requires_grad
    leaf = noise.clone().requires_grad_(True)
    latents = denoise(pipeline, leaf, embeddings, [0, 0], sampling, grad=True)
    assert torch.allclose(latents, plain, atol=1e-6)
    (gradient,) = torch.autograd.grad(latents[0].square().sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient[0].abs().max() > 1e-3
    assert (gradient[1] == 0).all()  # rows do not see each other


def test_gradients_are_those_of_finite_differences(tiny_model):
    pipeline, sampling = tiny_model.pipeline, Sampling("ddim", 2, 3.0)
    embeddings, direction = encode_prompts(pipeline, ["a star"]), source_noise([2], SHAPE)
    leaf = source_noise([1], SHAPE).requires_grad_(True)
    latents = denoise(pipeline, leaf, embeddings, [0], sampling, grad=True)
    (gradient,) = torch.autograd.grad((latents * direction).sum(), leaf)
    ahead, behind = (
        denoise(pipeline, leaf.detach() + step * direction, embeddings, [0], sampling) for step in (0.01, -0.01)
    )
    slope = ((ahead - behind) * direction).sum() / 0.02
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-2)


def test_pixels_are_differentiable_and_the_image(any_model):
    latents = source_noise([1, 2], SHAPE).requires_grad_(True)
    pixels = decode_pixels(any_model.pipeline, latents)
    assert pixels.shape == (2, 3, 8 * SIZE, 8 * SIZE)
    (gradient,) = torch.autograd.grad(pixels[0].sum(), latents)
    assert gradient[0].abs().max() > 0
    assert (gradient[1] == 0).all()
    images = decode(any_model.pipeline, latents.detach())
    assert [image.tobytes() for image in pixels_to_images(pixels.detach())] == [image.tobytes() for image in images]


# --- images -----------------------------------------------------------------------------------------------------------


def test_latent_shape(any_model):
    assert latent_shape(any_model.pipeline) == SHAPE
    assert latent_shape(any_model.pipeline, height=128, width=256) == (4, 16, 32)


@pytest.mark.parametrize("pixels", [100, 4, 0, -8, 7])
def test_a_size_that_no_latents_have_is_refused(any_model, pixels):
    for size in ({"height": pixels}, {"width": pixels}):
        with pytest.raises(InvalidInput, match=f"must be a multiple of .* pixels, got {pixels}"):
            latent_shape(any_model.pipeline, **size)


def test_hunyuans_latents_come_in_patches_of_two(tiny_hunyuan):
    with pytest.raises(InvalidInput, match="multiple of 16 pixels, got 72"):
        latent_shape(tiny_hunyuan.pipeline, height=72)


def test_an_inpainting_unet_has_latents_of_four_channels(tiny_model, monkeypatch):
    monkeypatch.setitem(tiny_model.pipeline.unet._internal_dict, "in_channels", 9)
    assert latent_shape(tiny_model.pipeline) == SHAPE


def test_sample_images_is_denoise_and_decode(any_model):
    noise, embeddings = source_noise([1, 2], SHAPE), encode_prompts(any_model.pipeline, ["a star", "a heart"])
    sampling, steps = Sampling("euler_a", 2, 3.0), []
    images = sample_images(any_model, noise, embeddings, [5, 6], sampling, on_step=lambda *step: steps.append(step[:2]))
    latents = denoise(any_model.pipeline, noise, embeddings, [5, 6], sampling)
    expected = decode(any_model.pipeline, latents)
    assert [image.tobytes() for image in images] == [image.tobytes() for image in expected]
    assert steps == [(1, 2), (2, 2)]


def test_decode_works_in_parts(tiny_model, monkeypatch):
    vae, sizes = tiny_model.pipeline.vae, []
    latents = source_noise(range(19), SHAPE)
    single = [decode(tiny_model.pipeline, latents[i : i + 1])[0] for i in range(19)]
    whole = vae.decode

    def listen(part, **kwargs):
        sizes.append(len(part))
        return whole(part, **kwargs)

    monkeypatch.setattr(vae, "decode", listen)
    images = decode(tiny_model.pipeline, latents)
    assert sizes == [8, 8, 3]
    for image, other in zip(images, single, strict=True):
        assert np.abs(np.asarray(image, int) - np.asarray(other, int)).max() <= 1


@pytest.mark.parametrize(("force_upcast", "expected"), [(True, torch.float32), (False, torch.float16)])
def test_a_vae_that_overflows_in_half_precision_decodes_in_fp32(
    tiny_model, monkeypatch, caplog, force_upcast, expected
):
    vae, seen = copy.deepcopy(tiny_model.pipeline.vae).half(), []
    vae.register_to_config(force_upcast=force_upcast)

    def decode_as(latents, return_dict):
        seen.extend([latents.dtype, vae.dtype])
        return (torch.zeros(len(latents), 3, 8, 8, dtype=latents.dtype),)

    monkeypatch.setattr(vae, "decode", decode_as)
    pipeline = copy.copy(tiny_model.pipeline)
    pipeline.vae = vae
    images = decode(pipeline, source_noise([1], SHAPE).half())
    assert seen == [expected] * 2
    assert images[0].getpixel((0, 0)) == (128, 128, 128)
    assert vae.dtype == torch.float16  # and back again
    assert caplog.text == ""


def test_decode_is_the_pipelines_own(tiny_model):
    latents = source_noise([1, 2], SHAPE)
    images = decode(tiny_model.pipeline, latents)
    with torch.inference_mode():
        decoded = tiny_model.pipeline.vae.decode(latents / tiny_model.pipeline.vae.config.scaling_factor).sample
    expected = tiny_model.pipeline.image_processor.postprocess(decoded, output_type="pil")
    assert [image.size for image in images] == [(8 * SIZE, 8 * SIZE)] * 2
    for image, other in zip(images, expected, strict=True):
        assert np.abs(np.asarray(image, int) - np.asarray(other, int)).max() <= 1


def test_images_survive_the_way_to_pixels_and_back():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)) for _ in range(2)]
    pixels = images_to_pixels(images)
    assert pixels.shape == (2, 3, 6, 9)
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    assert [image.tobytes() for image in pixels_to_images(pixels)] == [image.tobytes() for image in images]
    far = torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert np.asarray(pixels_to_images(far)[0])[0].tolist() == [[0, 0, 0], [255, 255, 255]]


# --- loading ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_as_the_class_it_names(tiny_sdxl_folder, tiny_hunyuan_folder):
    spec = find_model(tiny_hunyuan_folder)
    assert spec.pipeline == "HunyuanDiTPipeline"
    assert (spec.repo, spec.npnet, spec.checker) == (tiny_hunyuan_folder, None, None)
    assert spec.sampling == MODELS["hunyuan-dit"].sampling
    assert find_model(tiny_sdxl_folder).pipeline == "StableDiffusionXLPipeline"
    assert load_model(tiny_sdxl_folder).npnet is None


def write_index(folder: Path, text: str) -> str:
    folder.mkdir()
    (folder / "model_index.json").write_text(text)
    return str(folder)


def test_a_folder_does_not_pass_for_a_registered_model_by_its_name(tmp_path):
    spec = find_model(write_index(tmp_path / "shapes", json.dumps({"_class_name": "StableDiffusionXLPipeline"})))
    assert spec.checker is None
    assert spec.title == "shapes"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"_class_name": "LTXPipeline"}', "'LTXPipeline'"),
        ("not json", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
    ],
)
def test_a_folder_of_another_kind(tmp_path, text, says):
    with pytest.raises(InvalidInput, match=says):
        find_model(write_index(tmp_path / "folder", text))


@pytest.mark.parametrize("name", ["", "absent", "/", "sdxl2"])
def test_an_unknown_model_lists_the_known_ones(name):
    with pytest.raises(InvalidInput, match="choose one of shapes, shapes-flow, sdxl, dreamshaper, hunyuan-dit"):
        find_model(name)


def assert_refused_in_one_line(spec) -> None:
    with pytest.raises(GoldenError) as caught:
        load_pipeline(spec)
    message = str(caught.value)
    assert spec.repo in message
    assert "\n" not in message


def test_loading_writes_nothing_on_the_terminal(tiny_sdxl_folder, capfd, caplog):
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(library.is_progress_bar_enabled(), library.get_verbosity()) for library in libraries]
    pipeline = load_pipeline(find_model(tiny_sdxl_folder))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [(library.is_progress_bar_enabled(), library.get_verbosity()) for library in libraries] == before
    dtypes = {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)}
    assert dtypes == {torch.float32}


def test_every_part_gets_the_precision_that_is_asked_for(tiny_sdxl_folder):
    pipeline = load_pipeline(find_model(tiny_sdxl_folder), dtype=torch.bfloat16)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {value.dtype for part in parts for value in part.parameters()} == {torch.bfloat16}


def test_a_model_that_is_not_on_this_machine(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    spec = replace(MODELS["sdxl"], repo="golden-tests/there-is-no-such-model")
    assert_refused_in_one_line(spec)
    with pytest.raises(MissingWeights, match="--model"):
        load_pipeline(spec)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_folder(tiny_sdxl_folder, tmp_path, part, damage):
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in Path(tiny_sdxl_folder).iterdir():
        if path.name != part:
            (folder / path.name).symlink_to(path)
    (folder / part).mkdir()
    for path in (Path(tiny_sdxl_folder) / part).iterdir():
        data = path.read_bytes()
        if path.suffix != ".safetensors":
            (folder / part / path.name).write_bytes(data)
        elif damage == "cut":
            (folder / part / path.name).write_bytes(data[: len(data) // 2])
    assert_refused_in_one_line(find_model(str(folder)))


def test_a_comparison_runs_on_hunyuan(tiny_hunyuan):
    request = CompareRequest(prompt="a red star", num_inference_steps=2, arms=("standard", "npnet", "inversion"))
    comparison = run_comparison(request, tiny_hunyuan)
    assert list(comparison.images) == ["standard", "npnet", "inversion"]
    assert comparison.verdicts == {}


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_fastest_device_is_picked(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device() == pick_device("auto") == expected


def test_a_device_may_be_named():
    assert pick_device("cpu") == "cpu"
    assert pick_device("meta") == "meta"


@pytest.mark.parametrize("name", ["toaster", "cuda:999", "", "mps" if torch.cuda.is_available() else "cuda"])
def test_a_device_that_is_not_here_is_refused_in_one_sentence(name):
    with pytest.raises(InvalidInput, match=f"The model cannot run on {name!r} here: choose auto, cpu") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spared_hunyuan(tiny_hunyuan_folder, tiny_npnet_file):
    return load_model(tiny_hunyuan_folder, npnet=tiny_npnet_file, memory="low")


def assert_generate_alike(model, spared, sampling: Sampling) -> None:
    noise, prompts = source_noise([1, 2], SHAPE), ["a red star", "a heart"]
    latents = [
        denoise(each.pipeline, noise, encode_prompts(each.pipeline, prompts), [3, 4], sampling)
        for each in (model, spared)
    ]
    assert (latents[0] - latents[1]).abs().max() <= 1e-3


@pytest.mark.parametrize("sampler", FAMILIES["sdxl"].samplers)
def test_rows_one_after_the_other_are_as_in_a_batch(tiny_model, spared_model, sampler):
    assert_generate_alike(tiny_model, spared_model, Sampling(sampler, 4, 4.0))


def test_hunyuans_rows_one_after_the_other_are_as_in_a_batch(tiny_hunyuan, spared_hunyuan):
    assert_generate_alike(tiny_hunyuan, spared_hunyuan, Sampling("euler_a", 3, 4.0))


def test_where_memory_is_low_one_row_is_at_work_and_all_steps_are_counted(spared_model):
    pipeline, seen, counts = spared_model.pipeline, [], []
    hook = pipeline.unet.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    noise, embeddings = source_noise([1, 2, 3], SHAPE), encode_prompts(pipeline, ["a", "b", "c"])
    try:
        latents = denoise(
            pipeline,
            noise,
            embeddings,
            [0] * 3,
            Sampling("ddim", 2, 4.0),
            on_step=lambda step, num_steps, estimate: counts.append((step, num_steps, len(estimate))),
        )
    finally:
        hook.remove()
    assert latents.shape == noise.shape
    assert seen == [2] * 6  # with and without the prompt
    assert counts == [(step, 6, 1) for step in range(1, 7)]


def test_where_memory_is_low_the_vae_sees_one_image_in_tiles(tiny_model, spared_model, monkeypatch):
    vae, seen = spared_model.pipeline.vae, []
    hook = vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    try:
        images = decode(spared_model.pipeline, source_noise([1, 2], (4, 96, 40)))
    finally:
        hook.remove()
    assert [image.size for image in images] == [(8 * 40, 8 * 96)] * 2
    assert len(seen) == 4
    assert all(batch == 1 and max(height, width) <= 64 for batch, _, height, width in seen)
    small = source_noise([1, 2], SHAPE)  # a single tile
    for spared, other in zip(decode(spared_model.pipeline, small), decode(tiny_model.pipeline, small), strict=True):
        assert np.abs(np.asarray(spared, int) - np.asarray(other, int)).max() <= 1


def test_parts_leave_the_device_when_their_work_is_done(spared_model, monkeypatch):
    """After each of the three stages every part is sent away, so that NPNet, arms and judges find room."""
    pipeline, freed = spared_model.pipeline, []
    monkeypatch.setattr(pipeline, "maybe_free_model_hooks", lambda: freed.append(True))
    embeddings = encode_prompts(pipeline, ["a prompt that nobody has asked for yet"])
    assert len(freed) == 1
    latents = denoise(pipeline, source_noise([1], SHAPE), embeddings, [0], Sampling("ddim", 1, 4.0))
    assert len(freed) > 1
    del freed[:]
    decode(pipeline, latents)
    assert len(freed) == 1


def test_the_memory_mode_follows_what_is_free(tiny_model, monkeypatch, caplog):
    needed = needed_memory(tiny_model.pipeline)
    parts = (tiny_model.pipeline.unet, tiny_model.pipeline.vae)
    assert needed > sum(value.nbytes for part in parts for value in part.parameters()) + 2**19 * SIZE**2
    assert choose_memory("cpu", 10**18) == "high"
    assert caplog.text == ""
    for free, expected in ((needed - 1, "low"), (needed, "high")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        assert choose_memory("cuda:0", needed) == expected
        assert f"Memory mode {expected}" in caplog.text


def test_auto_is_high_on_the_cpu(tiny_sdxl_folder):
    for memory, spared in (("auto", False), ("high", False), ("low", True)):
        assert is_spared(load_pipeline(find_model(tiny_sdxl_folder), memory=memory)) == spared
    with pytest.raises(InvalidInput, match="Unknown memory mode 'medium': choose one of auto, high, low"):
        load_pipeline(find_model(tiny_sdxl_folder), memory="medium")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("folder", ["tiny_sdxl_folder", "tiny_hunyuan_folder"])
def test_on_a_gpu_nothing_is_left_there(folder, tiny_npnet_file, request):
    folder = request.getfixturevalue(folder)
    high, low = (load_model(folder, npnet=tiny_npnet_file, device="cuda", memory=memory) for memory in ("high", "low"))
    settings = CompareRequest(prompt="a red star", num_inference_steps=2)
    expected, comparison = run_comparison(settings, high), run_comparison(settings, low)
    parts = [part for part in low.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert {value.device.type for part in [*parts, low.npnet] for value in part.parameters()} == {"cpu"}
    for arm, image in comparison.images.items():
        assert np.abs(np.asarray(image, int) - np.asarray(expected.images[arm], int)).mean() < 2
