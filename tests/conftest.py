"""Tiny random-weight pipelines of the real classes, saved as folders and loaded as any model is.

Everything is made from fixed seeds in folders of pytest's own, so that several workers (pytest -n 2 --dist loadfile)
neither wait for one another nor write to the same place.
"""

import inspect
import json
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from jaxtyping import install_import_hook
from PIL import Image

from tests import typechecker
from tests.tiny_pipelines import (
    BUILDERS,
    EMBEDDING_DIM,
    SIZE,
    make_clip_config,
    make_clip_tokenizer,
    make_t5_config,
    make_t5_tokenizer,
    make_vae,
)

if "golden" not in sys.modules:  # this file is imported twice: by pytest, and by tests that use what it defines
    # Every annotation in golden is checked at run time, shapes and precisions of tensors included. Not in
    # golden/shapes, which has no tensors, and whose small functions would take twice the time.
    names = [path.stem for path in (Path(__file__).parents[1] / "golden").iterdir() if path.stem[0] not in "_."]
    checked = [f"golden.{name}" for name in names if name != "shapes"]
    # To tell whether something follows a protocol, Python wants to be asked for it at each protocol, or once for all.
    typing.Protocol._is_runtime_protocol = True
    install_import_hook(checked, f"{typechecker.__name__}.check")

from golden.arms import ARMS, find_arm
from golden.errors import GoldenError, MissingWeights
from golden.families.flux2 import Flux2Klein
from golden.families.packed import PackedFamily
from golden.families.z_image import ZImage
from golden.judges import ALL_JUDGES, JUDGES, JudgeSet, find_judge, loading, save_judge
from golden.judges.inputs import load_tokenizer
from golden.library import GoldenNoise
from golden.model import Model, load_model
from golden.models import MODELS, RewardSettings
from golden.npnet import (
    LayoutConfig,
    NPNet,
    NPNetConfig,
    ResidualConfig,
    SingularConfig,
    SwinConfig,
    TextConfig,
    load_npnet,
    save_npnet,
)
from golden.pipelines import Embeddings
from golden.request import CompareRequest
from golden.verifier import make_verifier
from tests.drills.pages import DESKTOP, SECONDS, find_chromium

# What people type or files hold comes here before anything has looked at it, and is refused in a sentence of golden's
# own.
CONFIGS = (NPNetConfig, ResidualConfig, SingularConfig, SwinConfig, TextConfig, LayoutConfig)
for takes_anything in (
    find_arm,
    GoldenNoise.__call__,
    GoldenNoise._pair,
    *(config.__init__ for config in (CompareRequest, *CONFIGS)),
):
    inspect.unwrap(takes_anything).__no_type_check__ = True

SLOW_FILES = {
    "test_app.py",
    "test_bench_full_size.py",
    "test_bench_speed.py",
    "test_benchmark.py",
    "test_collect_pairs.py",
    "test_compare.py",
    "test_drills.py",
    "test_golden_noise.py",
    "test_judge_images.py",
    "test_judges.py",
    "test_killed.py",
    "test_main.py",
    "test_models.py",
    "test_pipelines.py",
    "test_report.py",
    "test_reward_objective.py",
    "test_selection.py",
    "test_short_suite.py",
    "test_space.py",
    "test_suites.py",
    "test_train_judges.py",
    "test_train_npnet.py",
    "test_train_shapes.py",
    "test_training.py",
}
"""What `make check` leaves out: tests that start servers and workers, sample images or train take minutes together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


NUM_TOKENS = 77
EVERY_ARM = tuple(name for name in ARMS if name not in ("select_16", "select_64"))
"""All arms but those that do the same as select_4 with more noises, which takes long."""

SDXL_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
HUNYUAN_SCHEDULE = SDXL_SCHEDULE | {"beta_end": 0.02, "prediction_type": "v_prediction"}


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Sums in the same order whatever else the machine does."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_sdxl_folder(tmp_path_factory) -> str:
    """A StableDiffusionXLPipeline with random weights, as `save_pretrained` leaves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = make_clip_tokenizer(NUM_TOKENS)
        pipeline = diffusers.StableDiffusionXLPipeline(
            vae=make_vae(),
            text_encoder=transformers.CLIPTextModel(make_clip_config(tokenizer)),
            text_encoder_2=transformers.CLIPTextModelWithProjection(make_clip_config(tokenizer)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=diffusers.UNet2DConditionModel(
                sample_size=SIZE,
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                norm_num_groups=4,
                attention_head_dim=(2, 4),
                use_linear_projection=True,
                transformer_layers_per_block=1,
                cross_attention_dim=EMBEDDING_DIM,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=EMBEDDING_DIM // 2 + 6 * 8,
            ),
            scheduler=EulerDiscreteScheduler(**SDXL_SCHEDULE),
            add_watermarker=False,
        )
    folder = tmp_path_factory.mktemp("tiny_sdxl")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_hunyuan_folder(tmp_path_factory) -> str:
    """A HunyuanDiTPipeline with random weights, as `save_pretrained` leaves it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in words[5:]]
    bert_tokenizer = transformers.BertTokenizer(
        vocab={word: index for index, word in enumerate(words)}, model_max_length=NUM_TOKENS
    )
    t5_tokenizer = make_t5_tokenizer(256)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bert = transformers.BertConfig(
            vocab_size=len(bert_tokenizer),
            hidden_size=EMBEDDING_DIM,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=NUM_TOKENS,
        )
        t5 = make_t5_config(t5_tokenizer)
        pipeline = diffusers.HunyuanDiTPipeline(
            vae=make_vae(),
            text_encoder=transformers.BertModel(bert),
            tokenizer=bert_tokenizer,
            text_encoder_2=transformers.T5EncoderModel(t5),
            tokenizer_2=t5_tokenizer,
            transformer=diffusers.HunyuanDiT2DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                in_channels=4,
                patch_size=2,
                sample_size=SIZE,
                hidden_size=32,
                num_layers=2,
                mlp_ratio=2.0,
                cross_attention_dim=EMBEDDING_DIM,
                cross_attention_dim_t5=32,
                pooled_projection_dim=16,
            ),
            scheduler=DDPMScheduler(**HUNYUAN_SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    folder = tmp_path_factory.mktemp("tiny_hunyuan")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_pixart_folder(tmp_path_factory) -> str:
    """A PixArtSigmaPipeline with random weights, as `save_pretrained` leaves it."""
    tokenizer = make_t5_tokenizer(300)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = diffusers.PixArtSigmaPipeline(
            tokenizer=tokenizer,
            text_encoder=transformers.T5EncoderModel(make_t5_config(tokenizer)),
            vae=make_vae(),
            transformer=diffusers.PixArtTransformer2DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                in_channels=4,
                out_channels=8,
                num_layers=2,
                cross_attention_dim=32,
                caption_channels=EMBEDDING_DIM,
                sample_size=SIZE,
            ),
            scheduler=diffusers.DPMSolverMultistepScheduler(
                beta_end=0.02, beta_start=0.0001, timestep_spacing="leading", steps_offset=1
            ),
        )
    folder = tmp_path_factory.mktemp("tiny_pixart")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_sd3_folder(tmp_path_factory) -> str:
    """A StableDiffusion3Pipeline with random weights and without T5, as `save_pretrained` leaves it."""
    tokenizer = make_clip_tokenizer(NUM_TOKENS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = diffusers.StableDiffusion3Pipeline(
            text_encoder=transformers.CLIPTextModelWithProjection(make_clip_config(tokenizer)),
            text_encoder_2=transformers.CLIPTextModelWithProjection(make_clip_config(tokenizer)),
            text_encoder_3=None,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=None,
            vae=make_vae(latent_channels=16, shift_factor=0.1),
            transformer=diffusers.SD3Transformer2DModel(
                sample_size=SIZE,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=EMBEDDING_DIM,
                caption_projection_dim=32,
                pooled_projection_dim=EMBEDDING_DIM,
                pos_embed_max_size=32,
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    folder = tmp_path_factory.mktemp("tiny_sd3")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_sd_folder(tmp_path_factory) -> str:
    """A StableDiffusionPipeline with random weights, as `save_pretrained` leaves it."""
    tokenizer = make_clip_tokenizer(NUM_TOKENS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = diffusers.StableDiffusionPipeline(
            vae=make_vae(),
            text_encoder=transformers.CLIPTextModel(make_clip_config(tokenizer, EMBEDDING_DIM)),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(
                sample_size=SIZE,
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                norm_num_groups=4,
                attention_head_dim=4,
                cross_attention_dim=EMBEDDING_DIM,
            ),
            scheduler=diffusers.PNDMScheduler(**SDXL_SCHEDULE, skip_prk_steps=True),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    folder = tmp_path_factory.mktemp("tiny_sd")
    pipeline.save_pretrained(folder)
    return str(folder)


def _save_flow_npnet(like: Path, path: Path, **sizes: int) -> Path:
    """An NPNet like another one, for other channels and more tokens, which it pools."""
    config = replace(load_npnet(like).config, **sizes)
    config = replace(config, text=TextConfig(num_queries=2, query_width=8))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = NPNet(config)
        with torch.no_grad():
            net.alpha.fill_(0.7)
            net.beta.fill_(0.3)
    save_npnet(path, net)
    return path


@pytest.fixture(scope="session")
def tiny_flow_npnet_file(tiny_npnet_file, tmp_path_factory) -> Path:
    """The same for 16 channels and the tokens of Stable Diffusion 3."""
    folder = tmp_path_factory.mktemp("tiny_flow_npnet")
    return _save_flow_npnet(tiny_npnet_file, folder / "npnet.safetensors", channels=16, num_tokens=2 * NUM_TOKENS)


@pytest.fixture(scope="session")
def odd_npnet_files(tiny_npnet_file, tmp_path_factory) -> dict[str, Path]:
    """The same for families whose channels or prompt embeddings are like those of no other."""
    folder = tmp_path_factory.mktemp("odd_npnets")
    sizes = {
        "sana": {"channels": 32, "num_tokens": 300},
        "flux2-klein": {"channels": 16, "num_tokens": 512, "embedding_dim": 48},
    }
    return {
        family: _save_flow_npnet(tiny_npnet_file, folder / f"{family}.safetensors", **own)
        for family, own in sizes.items()
    }


@pytest.fixture(scope="session")
def tiny_npnet_file(tmp_path_factory) -> Path:
    """An NPNet for the tiny models with random weights, alpha and beta away from zero."""
    swin = SwinConfig(
        image_size=SIZE,
        patch_size=2,
        embed_dim=8,
        depths=(1, 1),
        num_heads=(2, 4),
        window_size=2,
        misread_features=False,
    )
    config = NPNetConfig(
        height=SIZE,
        width=SIZE,
        num_tokens=NUM_TOKENS,
        embedding_dim=EMBEDDING_DIM,
        singular=SingularConfig(hidden=16, output_hidden=32, canonical_signs=True),
        residual=ResidualConfig(swin=swin),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = NPNet(config)
        with torch.no_grad():
            net.alpha.fill_(0.7)
            net.beta.fill_(0.3)
    path = tmp_path_factory.mktemp("tiny_npnet") / "npnet.safetensors"
    save_npnet(path, net)
    return path


def add_verifier(model: Model) -> Model:
    """The model with a verifier of random weights, a reward of few steps, and a best norm that is not the source's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        verifier = make_verifier(model.pipeline, hidden=8)
    spec = replace(model.spec, reward=RewardSettings(num_steps=1), best_norm=0.8)
    return replace(model, spec=spec, verifier=verifier.requires_grad_(False).eval())


@pytest.fixture(scope="session")
def tiny_model(tiny_sdxl_folder, tiny_npnet_file) -> Model:
    """The tiny SDXL with its NPNet and a verifier. Shared by all tests: leave it as it was found."""
    return add_verifier(load_model(tiny_sdxl_folder, npnet=tiny_npnet_file))


@pytest.fixture(scope="session")
def tiny_shapes(tiny_model) -> Model:
    """The same as if it were the embedded model: prompts are captions, and images are checked."""
    spec = replace(tiny_model.spec, name="shapes", checker="shapes")
    return Model(spec, tiny_model.pipeline, tiny_model.npnet, tiny_model.verifier)


@pytest.fixture(scope="module")
def tiny_embedded_model(tiny_sdxl_folder, tiny_npnet_file) -> Iterator[None]:
    """The tiny pipeline in place of the embedded model wherever that is loaded by its name."""
    tiny = replace(MODELS["shapes"], repo=tiny_sdxl_folder, npnet=str(tiny_npnet_file), verifier=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "shapes", tiny)
        yield


@pytest.fixture(scope="session")
def spared_model(tiny_sdxl_folder, tiny_npnet_file) -> Model:
    """The tiny SDXL as on a card of little memory; accelerate's hooks work on the CPU, too."""
    return load_model(tiny_sdxl_folder, npnet=tiny_npnet_file, memory="low")


@pytest.fixture(scope="session")
def tiny_hunyuan(tiny_hunyuan_folder, tiny_npnet_file) -> Model:
    """The tiny Hunyuan-DiT with an NPNet that fits it, and a verifier."""
    return add_verifier(load_model(tiny_hunyuan_folder, npnet=tiny_npnet_file))


@pytest.fixture(scope="session")
def tiny_pixart(tiny_pixart_folder, tiny_npnet_file) -> Model:
    """The tiny PixArt-Sigma with an NPNet that reads the first of its tokens, and a verifier."""
    return add_verifier(load_model(tiny_pixart_folder, npnet=tiny_npnet_file))


@pytest.fixture(scope="session")
def tiny_sd3(tiny_sd3_folder, tiny_flow_npnet_file) -> Model:
    """The tiny Stable Diffusion 3 with an NPNet that fits it, and a verifier."""
    return add_verifier(load_model(tiny_sd3_folder, npnet=tiny_flow_npnet_file))


@pytest.fixture(scope="session")
def tiny_sd(tiny_sd_folder, tiny_npnet_file) -> Model:
    """The tiny Stable Diffusion 1.5 with an NPNet that fits it, and a verifier."""
    return add_verifier(load_model(tiny_sd_folder, npnet=tiny_npnet_file))


@pytest.fixture(scope="session", autouse=True)
def _tiny_sizes() -> Iterator[None]:
    """Pipelines whose native size is a number of theirs, and stands in no configuration, are tiny here, too."""
    with pytest.MonkeyPatch.context() as patch:
        for family in (PackedFamily, ZImage, Flux2Klein):
            patch.setattr(family, "native_size", lambda self, pipeline: SIZE)
        yield


@pytest.fixture(scope="session")
def tiny_of_family(request, tmp_path_factory) -> Callable[[str], Model]:
    """The tiny model of a family by its name; a new family needs one here, or in tiny_pipelines.py."""
    names = {"sdxl": "tiny_model", "hunyuan-dit": "tiny_hunyuan", "pixart-sigma": "tiny_pixart"}
    names |= {"sd3": "tiny_sd3", "sd": "tiny_sd"}

    @cache
    def build(family: str) -> Model:
        folder = tmp_path_factory.mktemp(f"tiny_{family}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            BUILDERS[family]().save_pretrained(folder)
        npnet = request.getfixturevalue("odd_npnet_files").get(family)
        return add_verifier(load_model(str(folder), npnet=npnet or request.getfixturevalue("tiny_flow_npnet_file")))

    return lambda family: build(family) if family in BUILDERS else request.getfixturevalue(names[family])


@pytest.fixture(scope="session")
def tiny_files(
    tiny_of_family, tiny_npnet_file, tiny_flow_npnet_file, odd_npnet_files
) -> Callable[[str], tuple[str, Path]]:
    """The folder of a family's tiny model and an NPNet that fits it."""
    npnets = dict.fromkeys(("sd3", *BUILDERS), tiny_flow_npnet_file) | odd_npnet_files
    return lambda family: (tiny_of_family(family).spec.repo, npnets.get(family, tiny_npnet_file))


@pytest.fixture(scope="session")
def tiny_controlnet_folder(tiny_model, tmp_path_factory) -> str:
    """A ControlNet for the tiny SDXL that makes something of its control image, as `save_pretrained` leaves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        controlnet = diffusers.ControlNetModel.from_unet(tiny_model.pipeline.unet, conditioning_channels=3)
        for last in (controlnet.controlnet_cond_embedding.conv_out, controlnet.controlnet_mid_block):
            torch.nn.init.normal_(last.weight)  # zeros as they are made: a new ControlNet has no effect
    folder = tmp_path_factory.mktemp("tiny_controlnet")
    controlnet.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_steered(tiny_sdxl_folder, tiny_controlnet_folder, tiny_npnet_file) -> Model:
    """The tiny SDXL steered by the ControlNet."""
    return add_verifier(load_model(f"{tiny_sdxl_folder}+{tiny_controlnet_folder}", npnet=tiny_npnet_file))


@pytest.fixture
def edges() -> Image.Image:
    """A control image: bright with one dark side, and of another size than the images that are generated."""
    image = Image.new("RGB", (50, 40), "white")
    image.paste("black", (0, 0, 25, 40))
    return image


@pytest.fixture
def replace_unet(tiny_model, monkeypatch) -> Callable:
    """Put `epsilon(x, t, levels)` in the place of the tiny UNet; answers with a list of the timesteps it is asked at.

    `levels` (B, 1, 1, 1) is the mean of each row's prompt embedding: what `make_embeddings` put there.
    """

    def install(epsilon: Callable) -> list[float]:
        asked: list[float] = []

        def forward(sample, timestep, encoder_hidden_states, **kwargs):
            asked.append(float(timestep))
            return (epsilon(sample, float(timestep), encoder_hidden_states.mean((1, 2))[:, None, None, None]),)

        monkeypatch.setattr(tiny_model.pipeline.unet, "forward", forward)
        return asked

    return install


def make_embeddings(levels: list[float], negative_level: float = 0.0) -> Embeddings:
    """Prompt embeddings that are one number each throughout."""
    tokens, pooled = (len(levels), NUM_TOKENS, EMBEDDING_DIM), (len(levels), EMBEDDING_DIM // 2)
    column = torch.tensor(levels)
    return {
        "prompt_embeds": column[:, None, None].expand(tokens).clone(),
        "negative_prompt_embeds": torch.full(tokens, negative_level),
        "pooled_prompt_embeds": torch.zeros(pooled),
        "negative_pooled_prompt_embeds": torch.zeros(pooled),
    }


# --- judges -----------------------------------------------------------------------------------------------------------


def _tiny_judge_configs(folder: Path) -> dict[str, dict]:
    """The smallest config of each judge; the vocabularies that they read are written into `folder`."""
    clip_tokens = folder / "clip"
    clip_tokens.mkdir()
    vocabulary = make_clip_tokenizer(NUM_TOKENS).get_vocab()
    (clip_tokens / "vocab.json").write_text(json.dumps(vocabulary))
    (clip_tokens / "merges.txt").write_text("#version: 0.2\n")
    (folder / "bert.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "star"]) + "\n"
    )
    end = load_tokenizer(str(clip_tokens), 16).end_id
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = tower | {"image_size": 32, "patch_size": 8}
    text = tower | {"vocab_size": end + 1, "max_position_embeddings": 16, "bos_token_id": end - 1, "eos_token_id": end}
    words = {"tokenizer": str(clip_tokens), "context_length": 16}
    clip = {
        "clip": {"text_config": text, "vision_config": vision, "projection_dim": 16, "logit_scale_init_value": 4.6},
        **words,
    }
    open_clip = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": end + 1, "width": 16, "heads": 2, "layers": 1},
    }
    cross = {"layers": 1, "heads": 2, "head_width": 8, "ff_mult": 2}
    ends = {"bos_token_id": 2, "sep_token_id": 3}
    reward = {
        "vision": vision | {"initializer_range": 0.02},
        "text": tower | {"encoder_hidden_size": 16, "vocab_size": 8, "max_position_embeddings": 16} | ends,
        "head": [16, 16, 8, 8],
        "mean": 0.2,
        "std": 1.1,
        "tokenizer": str(folder / "bert.txt"),
        "context_length": 16,
    }
    return {
        "PickScore": clip,
        "HPSv2": {"open_clip": open_clip, **words},
        "AES": {"vision": vision | {"projection_dim": 16}, "head": [16, 16, 8, 8]},
        "ImageReward": reward,
        "CLIPScore": clip,
        "MPS": clip | {"cross": cross, "condition": "red, star", "threshold": 0.01},
    }


@pytest.fixture(scope="session")
def tiny_judges_folder(tmp_path_factory) -> Path:
    """A folder in the place of `assets/`, whose `judges/` holds six judges with random weights, and their spreads."""
    folder = tmp_path_factory.mktemp("tiny_judges")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for name, config in _tiny_judge_configs(folder).items():
            judge = find_judge(name)(config)
            if name == "CLIPScore":  # random cosines may be negative, where it is flat
                judge.model.visual_projection.weight.data.fill_(0.1)
                judge.model.text_projection.weight.data.fill_(0.1)
            save_judge(judge, folder / "judges" / f"{name.lower()}.safetensors")
    spreads = {name: {"mean": 0.0, "std": 0.5} for name in ALL_JUDGES}
    (folder / "judges" / "spread.json").write_text(json.dumps(spreads))
    return folder


@pytest.fixture
def tiny_judges(tiny_judges_folder) -> JudgeSet:
    """The six, loaded when they are first asked; a set of its own for each test, so that each may break it."""
    paths = {name: tiny_judges_folder / "judges" / f"{name.lower()}.safetensors" for name in ALL_JUDGES}
    return JudgeSet({name: partial(loading.load, JUDGES[name], path) for name, path in paths.items()})


def break_judge(judges: JudgeSet, name: str, sentence: str = "") -> None:
    """Make one judge of a set fail when it is loaded, with `sentence` or in a way that nobody foresaw."""

    def fail():
        raise MissingWeights(sentence) if sentence else ValueError("<b>odd</b>\nlines")

    judges._loaders[name] = fail


# --- a browser --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator:
    try:
        chromium = find_chromium()
    except GoldenError as error:
        pytest.skip(str(error))
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, url) -> Iterator[Callable]:
    """Open the page of the module's fixture `url` at a size; a test fails if its scripts raised an error."""
    contexts, errors = [], []

    def open_it(size: tuple[int, int] = DESKTOP, query: str = "", address: str = url, **options):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address + query)
        page.wait_for_selector("#compare_button")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert errors == []
