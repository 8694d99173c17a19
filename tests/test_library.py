"""GoldenNoise on stock pipelines: NPNet's own answer, as latents that the pipeline takes, at any size."""

from itertools import pairwise
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

import golden as package
from golden import GoldenNoise, library, sizes
from golden.compare import run_comparison
from golden.errors import InvalidInput, MissingWeights
from golden.files import ASSETS
from golden.models import MODELS
from golden.noise import noise_health, source_noise, spectrum_flatness
from golden.npnet import NPNet, NPNetConfig, load_npnet
from golden.pipelines import encode_prompts
from golden.request import CompareRequest
from golden.samplers import SAMPLERS
from golden.sizes import predict_golden, window_starts
from tests.conftest import EMBEDDING_DIM, NUM_TOKENS, SIZE

SHAPE = (4, SIZE, SIZE)
PROMPT = "a red star"
STILL = ("ddim", "euler", "heun", "dpm", "unipc")  # samplers that draw no numbers on their way


@pytest.fixture(params=["tiny_model", "tiny_hunyuan"])
def any_model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def golden(any_model) -> GoldenNoise:
    return GoldenNoise.for_pipeline(any_model.pipeline, any_model.npnet)


def arguments_of(pipeline) -> dict:
    """What a tiny pipeline needs to keep to its tiny size, and few steps."""
    few = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    return few | ({"use_resolution_binning": False} if "Hunyuan" in type(pipeline).__name__ else {})


def sibling(pipeline, class_name: str, **more):
    """Another pipeline of the same parts."""
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    other = getattr(diffusers, class_name)(**parts, **more, add_watermarker=False)
    other.set_progress_bar_config(disable=True)
    return other


# --- one call ---------------------------------------------------------------------------------------------------------


def test_it_is_what_npnet_predicts(any_model, golden):
    source = source_noise([7], SHAPE)
    embeds = encode_prompts(any_model.pipeline, [PROMPT])["prompt_embeds"]
    with torch.no_grad():
        expected = any_model.npnet(source, embeds)
    assert torch.equal(golden(PROMPT, seed=7), expected)
    assert not torch.equal(expected, source)
    assert torch.equal(golden(PROMPT, seed=7, strength=0), source)
    assert torch.allclose(golden(PROMPT, seed=7, strength=0.5), (source + expected) / 2, atol=1e-6)
    assert torch.equal(golden(prompt_embeds=embeds, seed=7), expected)


@pytest.mark.parametrize("sampler", STILL)
def test_the_source_noise_is_the_pipelines_own(any_model, golden, sampler, monkeypatch):
    """The pipeline scales latents that it is given as it scales those that it draws."""
    pipeline = any_model.pipeline
    monkeypatch.setattr(pipeline, "scheduler", SAMPLERS[sampler](pipeline.scheduler.config))
    arguments = arguments_of(pipeline)
    stock = pipeline(PROMPT, generator=torch.Generator().manual_seed(7), **arguments).images
    ours = pipeline(PROMPT, latents=golden(PROMPT, seed=7, strength=0), **arguments).images
    assert torch.equal(ours, stock)
    changed = pipeline(PROMPT, latents=golden(PROMPT, seed=7), **arguments).images
    assert changed.isfinite().all()
    assert not torch.equal(changed, stock)


@pytest.mark.parametrize("sampler", [*STILL, "euler_a"])
def test_a_generator_gives_the_noise_that_the_pipeline_would_draw(any_model, golden, sampler, monkeypatch):
    """And is left where the pipeline would leave it, so that samplers that draw on their way go on alike."""
    pipeline = any_model.pipeline
    monkeypatch.setattr(pipeline, "scheduler", SAMPLERS[sampler](pipeline.scheduler.config))
    arguments = arguments_of(pipeline) | {"num_images_per_prompt": 2}
    prompts = [PROMPT, "a heart"]
    for make in (
        lambda: torch.Generator().manual_seed(7),
        lambda: [torch.Generator().manual_seed(s) for s in range(4)],
    ):
        stock = pipeline(prompts, generator=make(), **arguments).images
        generator = make()
        latents = golden(prompts, generator=generator, num_images_per_prompt=2, strength=0)
        assert latents.shape == (4, *SHAPE)
        assert torch.equal(pipeline(prompts, latents=latents, generator=generator, **arguments).images, stock)
        assert not torch.equal(golden(prompts, generator=make(), num_images_per_prompt=2), latents)


def test_latents_are_the_source_noise(golden):
    source = source_noise([3, 4], SHAPE)
    expected = golden(PROMPT, seed=[3, 4])
    assert torch.equal(golden(PROMPT, latents=source), expected)
    assert torch.equal(golden([PROMPT] * 2, latents=source), golden([PROMPT] * 2, seed=[3, 4]))
    same = golden(PROMPT, latents=source, strength=0)
    assert torch.equal(same, source)
    same.zero_()
    assert not torch.equal(same, source)
    wide = torch.randn(1, 4, SIZE, 2 * SIZE)
    assert golden(PROMPT, latents=wide).shape == wide.shape
    assert torch.equal(golden(PROMPT, latents=wide, width=16 * SIZE), golden(PROMPT, latents=wide))


def test_images_of_a_prompt_count_on_from_its_seed(golden):
    prompts = [PROMPT, "a heart"]
    expected = golden([PROMPT, PROMPT, "a heart", "a heart"], seed=[5, 6, 5, 6])
    assert torch.equal(golden(prompts, seed=5, num_images_per_prompt=2), expected)
    assert torch.equal(golden(prompts, seed=[5, 6], num_images_per_prompt=2), expected)
    assert torch.equal(golden(prompts, num_images_per_prompt=2), golden(prompts, seed=[0, 1], num_images_per_prompt=2))
    embeds = encode_prompts(golden.pipeline, prompts)["prompt_embeds"]
    assert torch.equal(golden(prompt_embeds=embeds, seed=5, num_images_per_prompt=2), expected)


def test_unknown_arguments_are_refused_by_name(golden):
    with pytest.raises(TypeError, match=r"GoldenNoise\(\) got an unexpected keyword argument 'stength'"):
        golden(PROMPT, stength=0.5)


def test_it_moves_with_its_pipeline_and_says_what_it_is(any_model, golden):
    assert golden.to("cpu") is golden
    words = repr(golden)
    for part in (
        type(any_model.pipeline).__name__,
        "on cpu",
        f"4 x {SIZE} x {SIZE}",
        "77 x 32",
        "singular",
        "parameters",
    ):
        assert part in words


def test_a_pipeline_without_text_encoders_needs_prompt_embeds(any_model, golden, monkeypatch):
    embeds = encode_prompts(any_model.pipeline, [PROMPT])["prompt_embeds"]
    expected = golden(PROMPT, seed=7)
    for name in ("text_encoder", "text_encoder_2"):
        monkeypatch.setattr(any_model.pipeline, name, None)
    with pytest.raises(InvalidInput, match=r"without its text_encoder.*: give prompt_embeds") as caught:
        golden(PROMPT)
    assert "\n" not in str(caught.value)
    assert torch.equal(golden(prompt_embeds=embeds, seed=7), expected)


def test_rows_are_pairs_of_prompts_and_seeds(golden):
    prompts, seeds = ["a red star", "a blue heart and more"], [3, 4294967295]
    together = golden(prompts, seed=seeds)
    for row, prompt, seed in zip(together, prompts, seeds, strict=True):
        assert torch.allclose(golden(prompt, seed=seed)[0], row, atol=1e-5)
    assert torch.allclose(golden(prompts, seed=3)[0], together[0], atol=1e-5)
    assert torch.allclose(golden(prompts[0], seed=(3, 5))[0], together[0], atol=1e-5)
    assert golden(prompts[0], seed=range(3)).shape == (3, *SHAPE)
    assert torch.equal(golden(prompts, seed=seeds), together)


def test_seeds_may_be_integers_of_numpy_and_torch(golden):
    expected = golden(PROMPT, seed=[3, 4])
    for seeds in (np.array([3, 4]), torch.tensor([3, 4]), (np.int64(3), torch.tensor(4)), range(3, 5)):
        assert torch.equal(golden(PROMPT, seed=seeds), expected)
    for seed in (np.int64(3), torch.tensor(3), np.array(3)):
        assert torch.allclose(golden(PROMPT, seed=seed), expected[:1], atol=1e-5)


def test_latents_belong_to_the_caller(golden):
    """Tensors of inference mode could not be changed in place."""
    latents = golden(PROMPT)
    latents.mul_(2)
    assert not latents.requires_grad


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "either a prompt or prompt_embeds"),
        ({"prompt": PROMPT, "prompt_embeds": torch.zeros(1, NUM_TOKENS, EMBEDDING_DIM)}, "either"),
        ({"prompt": []}, "list of texts"),
        ({"prompt": [PROMPT, 3]}, "list of texts"),
        ({"prompt": PROMPT, "seed": -1}, "seed must be"),
        ({"prompt": PROMPT, "seed": "7"}, "seed must be"),
        ({"prompt": PROMPT, "seed": 1, "generator": torch.Generator()}, "one of seed, generator and latents"),
        ({"prompt": PROMPT, "generator": 7}, "is a torch.Generator or a list"),
        ({"prompt": PROMPT, "generator": [torch.Generator()] * 2}, "one for each of 1 rows: got 2"),
        ({"prompt": PROMPT, "latents": 7}, r"shape batch x 4 x height x width, got 7"),
        ({"prompt": PROMPT, "latents": torch.zeros(1, 3, SIZE, SIZE)}, "noise of shape batch x 4"),
        ({"prompt": PROMPT, "latents": torch.zeros(1, *SHAPE), "width": 16 * SIZE}, f"x {SIZE} x {2 * SIZE}, got"),
        ({"prompt": [PROMPT] * 2, "latents": torch.zeros(3, *SHAPE)}, "latents go in pairs, got 2 and 3"),
        ({"prompt": PROMPT, "num_images_per_prompt": 0}, "number of images per prompt must be"),
        ({"prompt": PROMPT, "num_images_per_prompt": 3, "seed": [1, 2]}, "got 1 x 3 images and 2 seeds"),
        ({"prompt": PROMPT, "seed": []}, "in pairs"),
        ({"prompt": [PROMPT] * 2, "seed": [1, 2, 3]}, "in pairs"),
        ({"prompt": PROMPT, "seed": [1, 0.5]}, "seed must be"),
        ({"prompt": PROMPT, "strength": float("nan")}, "strength must be"),
        ({"prompt": PROMPT, "height": 100}, "height must be a multiple of"),
        ({"prompt": PROMPT, "width": 0}, "width must be a multiple of"),
        ({"prompt": PROMPT, "width": 16}, "takes half of that and more"),
        ({"prompt_embeds": torch.zeros(1, 5, EMBEDDING_DIM)}, "prompt_embeds are of shape"),
    ],
    ids=range(23),
)
def test_what_is_not_allowed_gets_one_sentence(golden, arguments, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        golden(**arguments)
    assert "\n" not in str(caught.value)


def test_a_long_prompt_is_cut_and_said(golden, caplog):
    words = "one two three four five six seven eight nine ten " * 4
    latents = golden(words)
    assert "is cut" in caplog.text
    assert "nine ten" in caplog.text
    assert torch.equal(latents, golden(words + "eleven"))
    caplog.clear()
    golden(PROMPT)
    assert caplog.text == ""


def test_of_longer_embeddings_npnet_sees_the_first_77_tokens(any_model, golden):
    embeds = encode_prompts(any_model.pipeline, [PROMPT])["prompt_embeds"]
    longer = torch.cat([embeds, torch.ones_like(embeds)], 1)
    assert torch.equal(golden(prompt_embeds=longer), golden(PROMPT))


# --- other pipelines --------------------------------------------------------------------------------------------------


def test_controlnet(tiny_steered, edges):
    """The three lines of the README give the image of a comparison."""
    pipeline = tiny_steered.pipeline
    golden = GoldenNoise.for_pipeline(pipeline, tiny_steered.npnet)
    request = CompareRequest(
        prompt=PROMPT, seed=7, num_inference_steps=2, guidance_scale=3.0, arms=("npnet",), control=edges
    )
    expected = np.asarray(run_comparison(request, tiny_steered).images["npnet"], float)
    own_scheduler = pipeline.scheduler
    pipeline.scheduler = SAMPLERS["ddim"](pipeline.scheduler.config)
    settings = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 8 * SIZE, "width": 8 * SIZE}
    image = pipeline(PROMPT, image=edges, latents=golden(PROMPT, seed=7), **settings).images[0]
    pipeline.scheduler = own_scheduler
    assert np.abs(np.asarray(image, float) - expected).max() <= 2


@pytest.mark.parametrize("sampler", STILL)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_img2img_starts_where_the_pipeline_would(tiny_model, sampler, strength):
    pipeline = sibling(tiny_model.pipeline, "StableDiffusionXLImg2ImgPipeline")
    pipeline.scheduler = SAMPLERS[sampler](pipeline.scheduler.config)
    golden = GoldenNoise.for_pipeline(pipeline, tiny_model.npnet)
    image = torch.full((1, *SHAPE), 0.3)  # latents are taken as they are, so that no encoder draws numbers
    settings = {"strength": strength, "num_inference_steps": 4}
    arguments = arguments_of(pipeline) | settings
    before = pipeline.scheduler
    stock = pipeline(PROMPT, image=image, generator=torch.Generator().manual_seed(7), **arguments).images
    start = golden.start_image(image, PROMPT, 7, **settings, golden_strength=0)
    assert pipeline.scheduler is before
    assert torch.equal(pipeline(PROMPT, image=image, latents=start, **arguments).images, stock)
    start = golden.start_image(image, PROMPT, 7, **settings)
    assert not torch.equal(pipeline(PROMPT, image=image, latents=start, **arguments).images, stock)


@pytest.mark.parametrize("sampler", [*STILL, "euler_a"])
@pytest.mark.parametrize("num_images", [1, 2])
def test_img2img_of_a_photo_equals_the_pipelines_own_without_npnets_change(tiny_model, sampler, num_images):
    """The encoder draws numbers before the noise does, so that both come from one generator."""
    pipeline = sibling(tiny_model.pipeline, "StableDiffusionXLImg2ImgPipeline")
    pipeline.scheduler = SAMPLERS[sampler](pipeline.scheduler.config)
    golden = GoldenNoise.for_pipeline(pipeline, tiny_model.npnet)
    photo = Image.linear_gradient("L").resize((8 * SIZE, 8 * SIZE)).convert("RGB")
    settings = {"strength": 0.6, "num_inference_steps": 5}
    arguments = arguments_of(pipeline) | settings | {"image": photo, "num_images_per_prompt": num_images}
    stock = pipeline(PROMPT, generator=torch.Generator().manual_seed(7), **arguments).images
    generator = torch.Generator().manual_seed(7)
    rows = {"generator": generator, "num_images_per_prompt": num_images}
    start = golden.start_image(photo, PROMPT, **rows, **settings, golden_strength=0)
    assert torch.equal(pipeline(PROMPT, latents=start, generator=generator, **arguments).images, stock)
    if num_images == 1:
        assert torch.equal(golden.start_image(photo, PROMPT, seed=7, **settings, golden_strength=0), start)
    changed = golden.start_image(photo, PROMPT, seed=7, num_images_per_prompt=num_images, **settings)
    assert changed.shape == start.shape
    assert not torch.equal(changed, start)
    with pytest.raises(InvalidInput, match="either seed or generator"):
        golden.start_image(photo, PROMPT, seed=7, **rows, **settings)


def test_noise_alone_would_replace_the_image_of_img2img(tiny_model):
    pipeline = sibling(tiny_model.pipeline, "StableDiffusionXLImg2ImgPipeline")
    with pytest.raises(InvalidInput, match=r"starts from an image.*: call start_image\(image, prompt") as caught:
        GoldenNoise.for_pipeline(pipeline, tiny_model.npnet)(PROMPT)
    assert "\n" not in str(caught.value)


def test_img2img_takes_images_prompts_and_seeds(tiny_model):
    pipeline = sibling(tiny_model.pipeline, "StableDiffusionXLImg2ImgPipeline")
    golden = GoldenNoise.for_pipeline(pipeline, tiny_model.npnet)
    image = Image.new("RGB", (16 * SIZE, 8 * SIZE), "teal")
    settings = {"strength": 0.6, "num_inference_steps": 5}
    start = golden.start_image(image, [PROMPT, "a heart"], seed=[1, 2], **settings)
    assert start.shape == (2, 4, SIZE, 2 * SIZE)
    assert torch.equal(start, golden.start_image(image, [PROMPT, "a heart"], seed=[1, 2], **settings))
    assert pipeline([PROMPT, "a heart"], image=image, latents=start, **arguments_of(pipeline) | settings).images.shape
    with pytest.raises(InvalidInput, match="in pairs"):
        golden.start_image([image] * 2, PROMPT, **settings)
    with pytest.raises(InvalidInput, match="leaves none"):
        golden.start_image(image, PROMPT, strength=0.1, num_inference_steps=5)
    with pytest.raises(InvalidInput, match="img2img"):
        GoldenNoise.for_pipeline(tiny_model.pipeline, tiny_model.npnet).start_image(image, PROMPT, **settings)


def test_inpainting_everything(tiny_model):
    pipeline = sibling(tiny_model.pipeline, "StableDiffusionXLInpaintPipeline")
    golden = GoldenNoise.for_pipeline(pipeline, tiny_model.npnet)
    image, mask = Image.new("RGB", (8 * SIZE, 8 * SIZE)), Image.new("L", (8 * SIZE, 8 * SIZE), 255)
    arguments = arguments_of(pipeline) | {"image": image, "mask_image": mask, "strength": 1.0}
    arguments |= {"height": 8 * SIZE, "width": 8 * SIZE}
    assert pipeline(PROMPT, latents=golden(PROMPT, seed=7), **arguments).images.isfinite().all()


def test_another_family_is_refused(tiny_model):
    class LTXPipeline:
        pass

    with pytest.raises(InvalidInput, match="LTXPipeline"):
        GoldenNoise.for_pipeline(LTXPipeline())
    with pytest.raises(InvalidInput, match="width 7"):
        GoldenNoise.for_pipeline(tiny_model.pipeline, NPNet(NPNetConfig(embedding_dim=7, residual=None)))


def test_published_weights_that_do_not_fit_are_refused_before_they_are_downloaded(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("nothing should be loaded")

    monkeypatch.setattr(library, "load_npnet", fail)
    with pytest.raises(InvalidInput, match="of width 1024, the pipeline has 4 and 2048"):
        GoldenNoise.for_pipeline(StableDiffusionXLPipeline("somebody/model"), "hunyuan-dit")


# --- which NPNet ------------------------------------------------------------------------------------------------------


class StableDiffusionXLPipeline:
    """What of a pipeline is looked at to find its NPNet."""

    vae_scale_factor = 8

    def __init__(self, name=None, unet_name=None, width=2048, size=128):
        self.config = {"_name_or_path": name}

        class Config(SimpleNamespace):
            get = lambda self, key: vars(self).get(key)  # noqa: E731

        self.unet = SimpleNamespace(
            config=Config(cross_attention_dim=width, sample_size=size, _name_or_path=unet_name),
        )
        self.vae = SimpleNamespace(config=SimpleNamespace(latent_channels=4))


class HunyuanDiTPipeline(StableDiffusionXLPipeline):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.transformer = self.unet


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        (StableDiffusionXLPipeline("Lykon/dreamshaper-xl-v2-turbo"), "dreamshaper"),
        (
            StableDiffusionXLPipeline(None, "/x/models--Lykon--dreamshaper-xl-v2-turbo/snapshots/ab1/unet"),
            "dreamshaper",
        ),
        (StableDiffusionXLPipeline(MODELS["sdxl"].repo), "sdxl"),
        (StableDiffusionXLPipeline("somebody/finetune"), "sdxl"),
        (StableDiffusionXLPipeline(), "sdxl"),
        (HunyuanDiTPipeline("somebody/finetune", width=1024), "hunyuan-dit"),
        (StableDiffusionXLPipeline(str(ASSETS / "shapes" / "model")), MODELS["shapes"].npnet),
        (StableDiffusionXLPipeline(None, str(ASSETS / "shapes" / "model" / "unet")), MODELS["shapes"].npnet),
    ],
    ids=range(8),
)
def test_a_pipelines_own_npnet_is_found(pipeline, name):
    assert str(library.find_npnet_for(pipeline)) == name


def test_a_folder_may_hold_its_own(tmp_path, tiny_npnet_file):
    (tmp_path / "npnet.safetensors").write_bytes(tiny_npnet_file.read_bytes())
    assert library.find_npnet_for(StableDiffusionXLPipeline(str(tmp_path))) == tmp_path / "npnet.safetensors"


@pytest.mark.parametrize("sizes", [{"width": 1280}, {"size": 64}], ids=["refiner", "turbo"])
def test_where_no_npnet_is_known_the_names_are_listed(sizes):
    with pytest.raises(MissingWeights, match="sdxl, dreamshaper, hunyuan-dit"):
        GoldenNoise.for_pipeline(StableDiffusionXLPipeline("somebody/model", **sizes))


@pytest.fixture(scope="module")
def embedded() -> GoldenNoise:
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(ASSETS / "shapes" / "model", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return GoldenNoise.for_pipeline(pipeline)


def test_the_embedded_model_in_a_stock_pipeline(embedded):
    expected = load_npnet(MODELS["shapes"].npnet)
    assert embedded.npnet.config == expected.config
    prompt = "a red circle"
    image = embedded.pipeline(prompt, latents=embedded(prompt, seed=7), num_inference_steps=2).images[0]
    assert image.size == (128, 128)
    assert np.asarray(image).std() > 1


def test_the_package_loads_the_library_when_asked():
    assert package.GoldenNoise is GoldenNoise
    with pytest.raises(AttributeError):
        package.SilverNoise  # noqa: B018


# --- sizes ------------------------------------------------------------------------------------------------------------


class Stub(NPNet):
    """An NPNet whose change of the noise is a function of its window."""

    def __init__(self, change) -> None:
        torch.nn.Module.__init__(self)
        self.config = NPNetConfig(height=8, width=12, embedding_dim=3, num_tokens=2)
        self.change, self.calls = change, []

    def __call__(self, noise, prompt_embeds):
        assert noise.shape[1:] == (4, 8, 12)
        assert len(prompt_embeds) == len(noise)
        self.calls.append(len(noise))
        return noise + self.change(noise, prompt_embeds)


@pytest.mark.parametrize("shape", [(16, 30), (9, 12), (8, 12), (5, 30), (4, 6), (50, 41)])
def test_windows_sum_to_one(shape):
    noise, embeds = source_noise([1, 2], (4, *shape)), torch.tensor([0.5, -2.0])[:, None, None].expand(2, 2, 3)
    constant = Stub(lambda window, prompts: prompts[:, :1, :1, None].expand(window.shape))
    golden = predict_golden(constant, noise, embeds)
    assert torch.allclose(golden - noise, embeds[:, :1, :1, None].expand(golden.shape), atol=1e-5)
    smaller = Stub(lambda window, prompts: -0.3 * window)
    assert torch.allclose(predict_golden(smaller, noise, embeds), 0.7 * noise, atol=1e-5)
    assert sum(smaller.calls) == 2 * len(window_starts(max(8, shape[0]), 8)) * len(window_starts(max(12, shape[1]), 12))


def test_windows_cover_everything_and_overlap():
    for window in (1, 2, 7, 16, 128):
        for length in range(window, 5 * window + 3):
            starts = window_starts(length, window)
            assert starts[0] == 0
            assert starts[-1] == length - window
            assert len(set(starts)) == len(starts)
            steps = [b - a for a, b in pairwise(starts)]
            assert all(window - step >= sizes.OVERLAP * window or window == 1 for step in steps)


def test_too_small_is_refused():
    with pytest.raises(InvalidInput, match="8 x 12"):
        predict_golden(Stub(None), source_noise([0], (4, 8, 5)), torch.zeros(1, 2, 3))


def test_rows_see_neither_each_other_nor_the_margin_of_another_call(tiny_model):
    embeds = encode_prompts(tiny_model.pipeline, [PROMPT, "a heart", "two"])["prompt_embeds"]
    noise = source_noise([1, 2, 3], (4, 6, 20))
    with torch.no_grad():
        together = predict_golden(tiny_model.npnet, noise, embeds)
        single = [predict_golden(tiny_model.npnet, noise[i : i + 1], embeds[i : i + 1]) for i in range(3)]
    assert torch.allclose(together, torch.cat(single), atol=1e-5)


@pytest.mark.parametrize("pixels", [(128, 256), (328, 200), (96, 160), (64, 64)], ids=str)
def test_golden_noise_of_any_size_is_as_white_as_at_its_own(embedded, pixels):
    prompts, seeds = ["a red circle", "two blue stars"] * 8, range(16)
    own = noise_health(embedded(prompts, seeds))
    golden = embedded(prompts, seeds, height=pixels[0], width=pixels[1])
    source = embedded(prompts, seeds, height=pixels[0], width=pixels[1], strength=0)
    health, before = noise_health(golden, source), noise_health(source)
    means = {name: value.mean().item() for name, value in health.items()}
    print(pixels, means, {name: value.mean().item() for name, value in own.items()})
    assert golden.shape == (16, 4, pixels[0] // 8, pixels[1] // 8)
    assert means["distance"] > 0.01
    assert means["std"] == pytest.approx(1, abs=max(0.03, 2 * abs(own["std"].mean().item() - 1)))
    assert means["flatness"] > before["flatness"].mean().item() - 0.05
    stretched = interpolate(embedded(prompts, seeds), golden.shape[-2:], mode="nearest")
    if pixels[0] * pixels[1] > 128 * 128:
        assert spectrum_flatness(stretched).mean() < means["flatness"] - 0.1  # what is not done


def test_at_its_own_size_it_is_npnet_exactly(embedded):
    prompt = "a red circle"
    assert torch.equal(embedded(prompt, 3, height=128, width=128), embedded(prompt, 3))
    with torch.no_grad():
        embeds = encode_prompts(embedded.pipeline, [prompt])["prompt_embeds"]
        assert torch.equal(embedded(prompt, 3), embedded.npnet(source_noise([3], (4, 16, 16)), embeds))


def test_the_registry_and_the_library_agree():
    for spec in MODELS.values():
        if spec.npnet in library.NPNETS:
            assert library.NPNETS[spec.npnet].pick([f"{spec.npnet}.safetensors"])
