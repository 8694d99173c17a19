"""The judges: one contract, every checkpoint layout, scores equal to the originals', and failures that stay alone."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms
from transformers import CLIPImageProcessorPil

from golden import hub
from golden.errors import BadWeights, Cancelled, GoldenError, InvalidInput, MissingWeights
from golden.files import load_weights, save_weights
from golden.judges import (
    ALL_JUDGES,
    JUDGES,
    Inputs,
    Judge,
    JudgeSet,
    find_judge,
    judge_set,
    load_judge,
    load_judges,
    loading,
    save_judge,
)
from golden.judges.inputs import crop_box, load_tokenizer, preprocess_pixels, scaled_size
from tests.parity.rebuild import rebuild, rebuilt

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "tests" / "reference" / "judges"

# What people give comes here before anything has looked at it, and is refused in a sentence of golden's own.
for takes_anything in (Inputs.__init__, Judge.score, JudgeSet.stream):
    takes_anything.__no_type_check__ = True

SIZE = 32
PROMPTS = ["a red square left of a blue circle", "two green stars", ""]
LONG_PROMPT = "a very long prompt about red squares " * 60
ALL = list(ALL_JUDGES)


# --- tiny judges ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory) -> dict[str, str]:
    """A CLIP-format tokenizer folder of bytes and a few words, and a WordPiece file."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    merges = [("r", "e"), ("re", "d</w>"), ("t", "w"), ("tw", "o</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "square", "two", "green", "##s", "star"]
    wordpiece = folder / "wordpiece.txt"
    wordpiece.write_text("\n".join(words) + "\n")
    return {"clip": str(folder), "bert": str(wordpiece)}


@pytest.fixture(scope="session")
def configs(vocabularies) -> dict[str, dict]:
    """The smallest config of each judge that has all its parts."""
    end = load_tokenizer(vocabularies["clip"], 16).end_id
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = tower | {"image_size": SIZE, "patch_size": 8}
    text = tower | {"vocab_size": end + 1, "max_position_embeddings": 16, "bos_token_id": end - 1, "eos_token_id": end}
    clip = {"text_config": text, "vision_config": vision, "projection_dim": 32, "logit_scale_init_value": 4.6}
    words = {"tokenizer": vocabularies["clip"], "context_length": 16}
    open_clip_config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": end + 1, "width": 32, "heads": 2, "layers": 2},
    }
    return {
        "PickScore": {"clip": clip, **words},
        "HPSv2": {"open_clip": open_clip_config, **words},
        "AES": {"vision": vision | {"projection_dim": 32}, "head": [16, 16, 8, 8]},
        "ImageReward": {
            "vision": vision | {"initializer_range": 0.02},
            "text": tower
            | {"encoder_hidden_size": 32, "vocab_size": 13, "max_position_embeddings": 16, "bos_token_id": 2},
            "head": [16, 16, 8, 8],
            "mean": 0.2,
            "std": 1.1,
            "tokenizer": vocabularies["bert"],
            "context_length": 16,
        },
        "CLIPScore": {"clip": clip, **words},
        "MPS": {
            "clip": clip,
            "cross": {"layers": 2, "heads": 2, "head_width": 16, "ff_mult": 2},
            "condition": "red, blue, two",
            "threshold": 0.01,
            **words,
        },
    }


@pytest.fixture(scope="session")
def judges(configs) -> dict:
    """A judge of each name with rebuilt weights, the same in every run."""
    built = {name: cls(configs[name]).eval() for name, cls in ((name, JUDGES[name]) for name in ALL_JUDGES)}
    for judge in built.values():
        judge.load_state_dict(rebuild(judge.state_dict()))
    with torch.no_grad():  # the rebuilt cosines are negative, where CLIPScore is flat
        built["CLIPScore"].model.visual_projection.weight.neg_()
    return built


def images_of(*sizes: tuple[int, int]) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(height, width, 3) for width, height in sizes]
    arrays = [torch.randint(256, shape, generator=generator, dtype=torch.uint8).numpy() for shape in shapes]
    return [Image.fromarray(array) for array in arrays]


IMAGES = images_of((48, 48), (64, 40), (33, 90))


# --- the contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_scores_are_one_fp32_number_per_image(judges, name):
    scores = judges[name].score(IMAGES, PROMPTS)
    assert scores.shape == (3,)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert len(set(scores.tolist())) > 1


@pytest.mark.parametrize("name", ALL)
def test_scores_are_the_same_each_time_and_in_training_mode(judges, name):
    judge = copy.deepcopy(judges[name])
    first = judge.score(IMAGES, PROMPTS)
    assert torch.equal(first, judge.score(IMAGES, PROMPTS))
    judge.train()
    assert torch.equal(first, judge.score(IMAGES, PROMPTS))
    assert judge.training


@pytest.mark.parametrize("name", ALL)
def test_scores_do_not_depend_on_the_batch(judges, name, monkeypatch):
    judge = judges[name]
    together = judge.score(IMAGES, PROMPTS)
    alone = torch.cat([judge.score([image], [prompt]) for image, prompt in zip(IMAGES, PROMPTS, strict=True)])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(together.flip(0), judge.score(IMAGES[::-1], PROMPTS[::-1]), atol=2e-4, rtol=1e-4)
    monkeypatch.setattr("golden.judges.base.MAX_BATCH", 2)
    torch.testing.assert_close(together, judge.score(IMAGES, PROMPTS), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_prompts_of_any_length_and_images_of_any_kind_are_scored(judges, name):
    images = [*images_of((20, 200), (200, 20), (1, 1)), Image.new("RGBA", (40, 40)), Image.new("L", (9, 9), 200)]
    prompts = [LONG_PROMPT, "naïve “quotes” &amp; 日本 🙂", "<|endoftext|> red", "", " \n "]
    assert judges[name].score(images, prompts).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_the_prompt_matters_to_all_but_the_aesthetic_judge(judges, name):
    first, second = judges[name].score([IMAGES[0]] * 2, ["red two red two", "blue blue green star"])
    assert (first == second) == (not judges[name].reads_prompts)


@pytest.mark.parametrize("name", ALL)
def test_what_tables_and_labels_need_is_on_the_class(name):
    cls = JUDGES[name]
    assert cls.name == name
    assert cls.unit
    assert ("never the prompt" in cls.reads) == (not cls.reads_prompts)
    assert cls.table_factor == (100 if name in ("ImageReward", "CLIPScore") else 1)
    assert cls.digits == {"AES": 4, "MPS": 3}.get(name, 2)


def test_prompt_features_are_computed_once_and_forgotten_when_weights_change(configs, monkeypatch):
    judge = JUDGES["PickScore"](configs["PickScore"]).eval()
    calls = []
    encode = judge.encode_prompts
    monkeypatch.setattr(judge, "encode_prompts", lambda tokens: calls.append(len(tokens.ids)) or encode(tokens))
    judge.score(IMAGES, ["red", "red", "two"])
    judge.score(IMAGES[:1], ["two"])
    assert calls == [2]
    before = judge.score(IMAGES[:1], ["two"])
    judge.load_state_dict(rebuild(judge.state_dict()))
    assert judge.score(IMAGES[:1], ["two"]) != before
    judge.train().eval()
    judge.score(IMAGES[:1], ["two"])
    assert calls == [2, 1, 1]
    monkeypatch.setattr("golden.judges.base.MAX_CACHED_PROMPTS", 2)
    assert judge.score(IMAGES, ["red", "blue", "green"]).shape == (3,)


def test_pixels_are_computed_once_and_shared():
    inputs = Inputs(IMAGES, PROMPTS)
    assert inputs.pixels("floor", SIZE) is inputs.pixels("floor", SIZE)
    square = Inputs(IMAGES[:1], PROMPTS[:1])
    assert square.pixels("floor", SIZE) is square.pixels("even", SIZE)
    assert square.pixels("pad", SIZE) is not square.pixels("floor", SIZE)


@pytest.mark.parametrize("name", ALL)
def test_every_part_is_differentiable(judges, name):
    judge = copy.deepcopy(judges[name])
    if name == "CLIPScore":  # flat below a cosine of 0: it is trained on its embeddings
        (text,) = judge.encode_prompts(judge.tokenize(PROMPTS))
        loss = (judge.encode_images(judge.preprocess(IMAGES)) * text).sum()
    else:
        features = judge.encode_prompts(judge.tokenize(PROMPTS)) if judge.reads_prompts else ()
        loss = judge(judge.preprocess(IMAGES), *features).sum()
    loss.backward()
    unused = {key for key, parameter in judge.named_parameters() if parameter.grad is None}
    assert all("logit_scale" in key or "post_layernorm" in key for key in unused), unused


@pytest.mark.parametrize("name", ALL)
def test_half_precision_scores_are_close_and_still_fp32(judges, name):
    judge = copy.deepcopy(judges[name]).to(torch.bfloat16)
    scores = judge.score(IMAGES, PROMPTS)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, judges[name].score(IMAGES, PROMPTS), atol=15, rtol=0.2)


def test_mps_compares_a_pair(judges):
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])
    preferred = judges["MPS"].preference(a, b)
    torch.testing.assert_close(preferred, torch.stack([a, b]).softmax(0)[0])
    assert preferred[0] == 0.5


def test_mps_condition_is_configurable(configs):
    scores = []
    for condition in ("red, two", "green star"):
        judge = JUDGES["MPS"](configs["MPS"] | {"condition": condition, "threshold": 0.9})
        judge.load_state_dict(rebuild(judge.state_dict()))
        scores.append(judge.score(IMAGES, PROMPTS))
    assert not torch.equal(*scores)


@pytest.mark.parametrize(
    ("images", "prompts", "words"),
    [
        (IMAGES, PROMPTS[:2], "3 images, 2 prompts"),
        ([], [], "0 images"),
        (IMAGES[0], ["a"], "lists"),
        ([IMAGES[0]], "a", "lists"),
        (["a.png"], ["a"], "str"),
        ([IMAGES[0]], [None], "NoneType"),
        ([IMAGES[0]], ["\ud800"], "invalid Unicode"),
        ([Image.new("RGB", (1000, 2))], ["a"], "1000x2"),
        ([Image.new("RGB", (0, 5))], ["a"], "0x5"),
    ],
)
def test_wrong_inputs_are_refused(judges, images, prompts, words):
    with pytest.raises(InvalidInput, match=words):
        judges["AES"].score(images, prompts)


def test_a_cut_off_image_is_refused(judges, tmp_path):
    path = tmp_path / "cut.png"
    IMAGES[0].save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with Image.open(path) as image, pytest.raises(InvalidInput, match="decoded"):
        judges["AES"].score([image], ["a"])


def test_scores_that_are_no_numbers_are_refused(configs):
    judge = JUDGES["AES"](configs["AES"])
    judge.mlp.layers[0].weight.data.fill_(float("nan"))
    with pytest.raises(GoldenError, match="not a number"):
        judge.score(IMAGES, PROMPTS)


# --- gradients to the pixels ----------------------------------------------------------------------------------------

ONE_SIZE = {"smaller": (70, 44), "larger": (20, 24), "equal": (SIZE, SIZE), "odd margin": (SIZE, SIZE + 7)}


def as_pixels(images: list[Image.Image]) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1], as a decoder returns them."""
    return 2 * torch.stack([transforms.to_tensor(image) for image in images]) - 1


@pytest.mark.parametrize("preprocessing", ["floor", "even", "pad"])
@pytest.mark.parametrize("size", ONE_SIZE)
def test_pixels_are_preprocessed_as_images_are(preprocessing, size):
    """Up to PIL's rounding to 8 bits after each direction of its resize: 0.02 of the deviation, 1e-5 without resize."""
    images = images_of(ONE_SIZE[size], ONE_SIZE[size])
    expected = Inputs(images, ["", ""]).pixels(preprocessing, SIZE)
    seen = preprocess_pixels(as_pixels(images), preprocessing, SIZE)
    print((seen - expected).abs().max())
    exact = preprocessing == "pad" or "equal" in size or "odd" in size
    torch.testing.assert_close(seen, expected, atol=1e-5 if exact else 0.02, rtol=0)


@pytest.mark.parametrize("size", [(500, 375), (1024, 1024), (100, 160)])
def test_pixels_are_preprocessed_as_images_are_at_the_published_size(size):
    images = images_of(size)
    expected = Inputs(images, [""]).pixels("even", 224)
    seen = preprocess_pixels(as_pixels(images), "even", 224)
    torch.testing.assert_close(seen, expected, atol=0.02, rtol=0)
    assert (seen - expected).abs().mean() < 0.008


@pytest.mark.parametrize("name", ALL)
def test_pixels_score_as_images_do_and_get_a_gradient(judges, name):
    """Within 2 % of what the scores of these images span, or 1e-3."""
    images = images_of((70, 44), (70, 44), (70, 44))
    expected = judges[name].score(images, PROMPTS)
    pixels = as_pixels(images).requires_grad_(True)
    scores = judges[name].score_pixels(pixels, PROMPTS)
    print(name, scores.tolist(), expected.tolist())
    assert (scores.shape, scores.dtype) == ((3,), torch.float32)
    span = (expected.max() - expected.min()).item()
    torch.testing.assert_close(scores.detach(), expected, atol=max(1e-3, 0.02 * span), rtol=0)
    (gradient,) = torch.autograd.grad(scores[1], pixels)
    assert gradient[1].abs().max() > 0
    assert not gradient[[0, 2]].any()
    assert all(parameter.grad is None for parameter in judges[name].parameters())


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_is_the_slope(judges, name):
    torch.manual_seed(0)
    pixels = (0.3 * torch.randn(1, 3, 40, 40)).clamp(-0.9, 0.9)
    direction = torch.randn_like(pixels)
    judge = copy.deepcopy(judges[name]).double()
    cast = lambda seen: judge.score_pixels(seen, [PROMPTS[0]])  # noqa: E731
    leaf = pixels.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cast(leaf).sum(), leaf)
    step = 1e-2
    slope = (cast(pixels + step * direction) - cast(pixels - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope.sum(), rtol=0.1, atol=2e-3)


def test_scoring_pixels_leaves_judge_and_cache_as_they_were(judges):
    judge = copy.deepcopy(judges["PickScore"]).train()
    pixels = as_pixels(IMAGES[:1]).requires_grad_(True)
    for _ in range(2):  # a graph in the cache would be freed by the first
        judge.score_pixels(pixels, ["red"]).sum().backward()
    assert judge.training
    assert pixels.grad.abs().max() > 0
    with torch.no_grad():
        assert not judge.score_pixels(pixels, ["red"]).requires_grad
    with pytest.raises(InvalidInput, match="1 images, 2 prompts"):
        judge.score_pixels(pixels, ["red", "blue"])


def test_pixels_out_of_range_are_clamped(judges):
    pixels = as_pixels(IMAGES[:1])
    loud = judges["AES"].score_pixels(3 * pixels, [""])
    torch.testing.assert_close(loud, judges["AES"].score_pixels((3 * pixels).clamp(-1, 1), [""]))


# --- preprocessing and tokens ---------------------------------------------------------------------------------------

SIZES = [(48, 48), (64, 40), (33, 90), (227, 224), (224, 231), (500, 375), (333, 512)]


def test_p0_equals_transformers():
    images = images_of(*SIZES)
    size = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    expected = CLIPImageProcessorPil(**size)(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(Inputs(images, [""] * len(images)).pixels("floor", 224), expected, atol=1e-5, rtol=0)


def test_p0_equals_torchvision():
    images = images_of(*SIZES)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    for image, pixels in zip(images, Inputs(images, [""] * len(images)).pixels("even", 224), strict=True):
        resized = transforms.resize(image, 224, InterpolationMode.BICUBIC)
        cropped = transforms.to_tensor(transforms.center_crop(resized, 224))
        assert torch.equal(pixels, transforms.normalize(cropped, mean, std))


def test_the_two_crops_differ_only_where_an_odd_margin_is_split():
    assert scaled_size(227, 224, 224) == (227, 224)
    assert crop_box(227, 224, 224, "floor")[0] == 1
    assert crop_box(227, 224, 224, "even")[0] == 2


def test_hpsv2_pads_the_longest_side():
    pixels = Inputs(images_of((40, 20)), [""]).pixels("pad", 32)
    border = (0 - torch.tensor(open_clip.OPENAI_DATASET_MEAN)) / torch.tensor(open_clip.OPENAI_DATASET_STD)
    torch.testing.assert_close(pixels[0, :, 0, 0], border)
    torch.testing.assert_close(pixels[0, :, -8:], border[:, None, None].expand(3, 8, 32))
    assert not torch.allclose(pixels[0, :, 8], border[:, None])


@pytest.mark.parametrize("prompt", [*PROMPTS, "It's a CAT; 12 dogs", LONG_PROMPT])
def test_clip_tokens_agree_but_for_padding(prompt):
    ours, theirs = load_tokenizer("openai", 77)([prompt]), load_tokenizer("clip", 77)([prompt])
    assert torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.ids * ours.mask, theirs.ids * theirs.mask)
    assert ours.ids.shape == (1, 77)
    assert theirs.ids[0, -1] == 49407
    assert ours.ids[0, -1] == (49407 if prompt == LONG_PROMPT else 0)


def test_tokenizers_are_shared_and_their_files_checked(vocabularies, tmp_path):
    assert load_tokenizer(vocabularies["clip"], 16) is load_tokenizer(vocabularies["clip"], 16)
    with pytest.raises(MissingWeights, match="No tokenizer"):
        load_tokenizer(str(tmp_path / "nowhere"), 16)
    (tmp_path / "merges.txt").write_text("a b\n")
    for damaged in ("not json", '{"<|endoftext|>": 0, "a": 1}', "[]"):
        (tmp_path / "vocab.json").write_text(damaged)
        with pytest.raises(BadWeights, match="tokenizer"):
            load_tokenizer(str(tmp_path), 16)


def test_wordpiece_tokens(vocabularies):
    tokens = load_tokenizer(vocabularies["bert"], 8)(["two red squares", LONG_PROMPT])
    assert tokens.ids[0].tolist() == [2, 9, 6, 8, 11, 3, 0, 0]
    assert tokens.mask[0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert tokens.ids[1, -1] == 3


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_saved_judge_comes_back(judges, name, tmp_path):
    judge = judges[name]
    path = save_judge(judge, tmp_path / "judge.safetensors", notes={"note": "tiny"})
    loaded = load_judge(name, path)
    assert torch.equal(loaded.score(IMAGES, PROMPTS), judge.score(IMAGES, PROMPTS))
    assert loaded.config == judge.config
    assert loaded.provenance == {"judge": name, "weights": "file", "files": ["judge.safetensors"], "dtype": "float32"}
    assert not loaded.training
    assert load_weights(path)[1]["note"] == "tiny"
    half = load_judge(name, save_judge(judge, tmp_path / "half.safetensors", dtype=torch.float16))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.score(IMAGES, PROMPTS), judge.score(IMAGES, PROMPTS), atol=1, rtol=0.05)


@pytest.mark.parametrize("name", ALL)
def test_loading_draws_no_random_numbers(judges, name, tmp_path, monkeypatch):
    path = save_judge(judges[name], tmp_path / "judge.safetensors")
    before = torch.get_rng_state()
    drawn = []
    normal = torch.nn.init._no_grad_normal_
    monkeypatch.setattr(torch.nn.init, "_no_grad_normal_", lambda *arguments: drawn.append(1) or normal(*arguments))
    load_judge(name, path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not drawn


def without(prefix: str, state: dict) -> dict:
    return {key.removeprefix(prefix): value for key, value in state.items()}


def old_buffers(length: int = 16) -> dict:
    return {"text_model.embeddings.position_ids": torch.arange(length)[None]}


def official_image_reward(state: dict) -> dict:
    """ImageReward.pt's own spelling, written out by hand for the parts that differ from ours."""
    names = {
        "vision.embeddings.class_embedding": "cls_token",
        "vision.embeddings.position_embedding": "pos_embed",
        "vision.embeddings.patch_embedding.": "patch_embed.proj.",
        "vision.post_layernorm.": "norm.",
        ".layer_norm": ".norm",
        ".self_attn.qkv.": ".attn.qkv.",
        ".self_attn.projection.": ".attn.proj.",
        "vision.encoder.layers.": "blocks.",
    }
    official = {}
    for key, value in state.items():
        if key.startswith("vision."):
            for ours, theirs in names.items():
                key = key.replace(ours, theirs)
            key = f"blip.visual_encoder.{key}"
        elif key.startswith("text."):
            key = f"blip.text_encoder.{key.removeprefix('text.')}"
        official[key] = value
    extra = {"blip.vision_proj.weight": torch.ones(4, 32), "blip.text_proj.bias": torch.ones(4)}
    return official | extra | {"blip.text_encoder.embeddings.position_ids": torch.arange(16)[None]}


def clip_with_text(state: dict) -> dict:
    """The whole CLIPModel under the aesthetic head, text half included."""
    vision = {key.removeprefix("clip."): value for key, value in state.items() if key.startswith("clip.")}
    return vision | {"text_model.final_layer_norm.bias": torch.ones(4), "logit_scale": torch.tensor(1.0)}


LAYOUTS = {
    "PickScore, official": ("PickScore", lambda state: without("model.", state) | old_buffers()),
    "PickScore, port": ("PickScore", lambda state: state),
    "HPSv2, official": ("HPSv2", lambda state: {"state_dict": without("model.", state), "epoch": torch.tensor(3)}),
    "HPSv2, port": ("HPSv2", lambda state: state),
    "AES, port": ("AES", lambda state: state),
    "ImageReward, official": ("ImageReward", official_image_reward),
    "CLIPScore, official": ("CLIPScore", lambda state: without("model.", state) | old_buffers()),
    "MPS, official": ("MPS", lambda state: state | {"cross_model.layers.0.1.fn.rotary_emb.inv_freq": torch.ones(8)}),
    "MPS, port": ("MPS", lambda state: {f"mps.{key}": value for key, value in (state | {}).items()}),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_known_layout_loads(judges, monkeypatch, tmp_path, layout, suffix):
    name, spell = LAYOUTS[layout]
    monkeypatch.setattr(JUDGES[name], "PUBLISHED", judges[name].config)
    path = tmp_path / f"weights{suffix}"
    tensors = spell(judges[name].state_dict())
    if suffix == ".safetensors":
        save_weights(path, tensors.get("state_dict", tensors))
    else:
        torch.save(tensors, path)
    assert torch.equal(load_judge(name, path).score(IMAGES, PROMPTS), judges[name].score(IMAGES, PROMPTS))


def test_the_aesthetic_head_alone_is_completed(judges, monkeypatch, tmp_path):
    judge = judges["AES"]
    monkeypatch.setattr(JUDGES["AES"], "PUBLISHED", judge.config)
    state = judge.state_dict()
    head, clip = tmp_path / "head.pth", tmp_path / "clip.safetensors"
    torch.save({key.removeprefix("mlp."): value for key, value in state.items() if key.startswith("mlp.")}, head)
    save_weights(clip, clip_with_text(state))
    expected = judge.score(IMAGES, PROMPTS)
    assert torch.equal(load_judge("AES", [head, clip]).score(IMAGES, PROMPTS), expected)
    monkeypatch.setattr(loading, "fetch_file", lambda repo, file: clip)
    loaded = load_judge("AES", head)
    assert torch.equal(loaded.score(IMAGES, PROMPTS), expected)
    assert loaded.provenance["files"] == ["head.pth", "openai/clip-vit-large-patch14/model.safetensors@unknown"]


@pytest.mark.parametrize("case", ["imagereward", "mps"])
def test_the_originals_keys_all_find_a_place(case):
    judge, _, _ = reference_case(case)
    keys = json.loads((REFERENCE / f"{case}_small_keys.json").read_text())
    converted = type(judge).convert({key: torch.empty(shape) for key, shape in keys.items()})
    assert {key: value.shape for key, value in converted.items()} == {
        key: value.shape for key, value in judge.state_dict().items()
    }


# --- damaged and absent weights -------------------------------------------------------------------------------------


@pytest.fixture
def aes_file(judges, tmp_path, monkeypatch):
    other = judges["AES"].config | {"head": [16, 16, 8, 9]}
    monkeypatch.setattr(JUDGES["AES"], "PUBLISHED", other)  # the config of files that hold none
    return save_judge(judges["AES"], tmp_path / "aes.safetensors")


def spoil(path: Path, change) -> Path:
    """Save a changed copy of a judge's file: `change(tensors, metadata)`."""
    tensors, metadata = load_weights(path)
    change(tensors, metadata)
    save_weights(path, tensors, metadata)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, _: tensors.pop("mlp.layers.7.bias"), "1 keys missing .mlp.layers.7.bias"),
        (lambda tensors, _: tensors.update({"mlp.more": torch.ones(1)}), "1 keys unknown"),
        (lambda tensors, _: tensors.update({"mlp.layers.7.bias": torch.ones(2)}), "of another shape"),
        (lambda tensors, _: tensors.update({"mlp.layers.7.bias": torch.ones(1).int()}), "not floating-point"),
        (lambda _, metadata: metadata.update(judge="MPS"), "contains MPS, not AES"),
        (lambda _, metadata: metadata.update(config="{"), "no readable config"),
        (lambda _, metadata: metadata.update(config="[]"), "not a dictionary"),
        (lambda _, metadata: metadata.update(config="{}"), "AES cannot be built from"),
        (
            lambda _, metadata: metadata.update(config='{"vision": {"hidden_size": "x"}, "head": []}'),
            "AES cannot be built from",
        ),
        (lambda _, metadata: metadata.pop("judge"), "does not fit AES"),
    ],
)
def test_malformed_files_are_refused_naming_what_is_wrong(aes_file, change, words):
    with pytest.raises(BadWeights, match=words):
        load_judge("AES", spoil(aes_file, change))


def test_files_that_are_no_weights_are_refused(aes_file, tmp_path):
    aes_file.write_bytes(aes_file.read_bytes()[:-5] + b"12345")
    with pytest.raises(BadWeights, match="SHA-256"):
        load_judge("AES", aes_file)
    code = tmp_path / "code.pt"
    torch.save({"module": torch.nn.Linear(1, 1)}, code)
    with pytest.raises(BadWeights, match="something else than tensors"):
        load_judge("AES", code)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ("https://example.org/w.pt", InvalidInput, "is a URL"),
        ("publised", MissingWeights, "embedded, published or the path"),
        ("/nowhere/w.pt", MissingWeights, "/nowhere/w.pt"),
        ([], InvalidInput, "No weights given"),
    ],
)
def test_weights_that_name_nothing_are_refused(weights, error, words):
    with pytest.raises(error, match=words):
        load_judge("AES", weights)


def test_an_unknown_judge_is_refused():
    with pytest.raises(InvalidInput, match="PickScore, HPSv2, AES, ImageReward, CLIPScore, MPS"):
        load_judge("FID")


def test_a_missing_embedded_file_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "ASSETS", tmp_path)
    with pytest.raises(MissingWeights, match="embedded weights of MPS"):
        load_judge("MPS")


# --- the hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of the Hub, which is out of reach."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_unreachable_until", 0.0)
    return tmp_path


@pytest.mark.parametrize("name", ALL)
def test_published_weights_out_of_reach_say_what_to_fetch(cache, name):
    with pytest.raises(MissingWeights) as caught:
        load_judge(name, "published")
    first = find_judge(name).SOURCES[0][0]
    sentence = str(caught.value)
    assert first.file in sentence
    assert f"https://huggingface.co/{first.repo}" in sentence
    assert str(cache) in sentence
    assert "\n" not in sentence


def test_an_unreachable_hub_is_not_asked_again_at_once(cache, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    asked = []

    def unreachable(*args, local_files_only, **kwargs):
        asked.append(local_files_only)
        raise LocalEntryNotFoundError("cannot find it")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    for name in ("PickScore", "CLIPScore"):
        with pytest.raises(MissingWeights, match="cannot be reached"):
            load_judge(name, "published")
    assert asked == [False, True, True, True]


def test_the_second_source_is_used_where_the_first_cannot_be_had(judges, monkeypatch, tmp_path):
    judge = judges["HPSv2"]
    path = save_judge(judge, tmp_path / "port.safetensors")
    monkeypatch.setattr(JUDGES["HPSv2"], "PUBLISHED", judge.config)

    def fetch(repo, file):
        if repo == "xswu/HPSv2":
            raise MissingWeights("not here")
        return path

    monkeypatch.setattr(loading, "fetch_file", fetch)
    loaded = load_judge("HPSv2", "published")
    assert loaded.provenance["weights"] == "published"
    assert loaded.provenance["files"] == ["RE-N-Y/hpsv21/model.safetensors@unknown"]


# --- several judges -------------------------------------------------------------------------------------------------


@pytest.fixture
def embedded(judges, monkeypatch, tmp_path):
    """All six tiny judges in the place of the embedded set."""
    monkeypatch.setattr(loading, "ASSETS", tmp_path)
    for judge in judges.values():
        save_judge(judge)
    return tmp_path / "judges"


def test_resident_and_rotating_agree_with_each_judge_alone(judges, embedded):
    resident = load_judges(mode="resident")
    rotating = load_judges(mode="rotating")
    for _ in range(2):
        scores = resident.score(IMAGES, PROMPTS)
        assert list(scores) == ALL
        other = rotating.score(IMAGES, PROMPTS)
        for name in ALL:
            assert torch.equal(scores[name], other[name])
            assert torch.equal(scores[name], judges[name].score(IMAGES, PROMPTS))


def test_rotating_keeps_no_judge_and_resident_loads_each_once(judges):
    for mode, expected in (("resident", 1), ("rotating", 2)):
        loads = []
        loader = lambda loads=loads: loads.append(1) or judges["AES"]  # noqa: E731
        judges_set = JudgeSet({"AES": loader}, mode)
        judges_set.score(IMAGES, PROMPTS)
        judges_set.score(IMAGES, PROMPTS)
        assert len(loads) == expected


def test_auto_chooses_by_free_memory(embedded, monkeypatch):
    assert load_judges(mode="auto").mode == "resident"
    monkeypatch.setattr(judge_set, "free_memory", lambda device: 1000)
    assert load_judges(mode="auto").mode == "rotating"
    assert load_judges(mode="resident").mode == "resident"
    with pytest.raises(InvalidInput, match="auto, resident, rotating"):
        load_judges(mode="fast")


def test_published_sizes_are_known_without_loading():
    assert 1.9e9 < loading.num_bytes(JUDGES["HPSv2"], "published", torch.float16) < 2.1e9


def test_one_failing_judge_never_costs_the_others(judges, embedded):
    (embedded / "mps.safetensors").unlink()
    set_of_all = load_judges(mode="resident")
    results = set_of_all.score(IMAGES, PROMPTS)
    assert "embedded weights of MPS" in results["MPS"]
    assert all(isinstance(results[name], torch.Tensor) for name in ALL if name != "MPS")
    assert set_of_all.failed == {"MPS": results["MPS"]}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("kernel\nmore"), "AES failed with RuntimeError: kernel"),
        (torch.OutOfMemoryError("x"), "does not fit in memory"),
        (GoldenError("its own sentence"), "its own sentence"),
    ],
)
def test_a_judge_that_fails_while_scoring_is_one_sentence_and_may_try_again(judges, error, words):
    def fail(inputs):
        raise error

    broken = copy.deepcopy(judges["AES"])
    broken.score_inputs = fail
    results = JudgeSet({"AES": lambda: broken, "HPSv2": lambda: judges["HPSv2"]})
    scores = results.score(IMAGES, PROMPTS)
    assert words in scores["AES"]
    assert "\n" not in scores["AES"]
    assert scores["HPSv2"].shape == (3,)
    assert not results.failed


def test_all_scores_at_once_or_the_judge_that_failed(judges):
    names = ("AES", "MPS")
    scores = JudgeSet({name: lambda name=name: judges[name] for name in names}).score_all(IMAGES, PROMPTS)
    assert scores == {name: judges[name].score(IMAGES, PROMPTS).tolist() for name in names}

    def fail():
        raise MissingWeights("nowhere to be found")

    with pytest.raises(GoldenError, match=r"^HPSv2 failed: nowhere to be found$"):
        JudgeSet({"AES": lambda: judges["AES"], "HPSv2": fail}).score_all(IMAGES, PROMPTS)


def test_results_come_as_each_judge_finishes(judges):
    loaded = []
    loaders = {name: lambda name=name: loaded.append(name) or judges[name] for name in ("AES", "MPS")}
    stream = JudgeSet(loaders).stream(IMAGES, PROMPTS)
    assert next(stream)[0] == "AES"
    assert loaded == ["AES"]
    assert next(stream)[0] == "MPS"


def test_wrong_inputs_and_cancelling_stop_the_whole_set(judges):
    judges_set = JudgeSet({"AES": lambda: judges["AES"]})
    with pytest.raises(InvalidInput):
        judges_set.stream(IMAGES, [])

    def cancel():
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        JudgeSet({"AES": cancel}).score(IMAGES, PROMPTS)


# --- equal to the originals -----------------------------------------------------------------------------------------


def reference_case(case: str):
    """(judge with rebuilt weights, tensors, metadata) of one reference file."""
    from safetensors import safe_open

    path = REFERENCE / f"{case}_small.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    config = {
        "hpsv2": lambda: {"open_clip": json.loads(metadata["open_clip_config"])},
        "imagereward": lambda: {
            part: JUDGES["ImageReward"].PUBLISHED[part] | {"num_hidden_layers": 3} for part in ("vision", "text")
        },
        "mps": lambda: {"clip": json.loads(metadata["config"]), "threshold": float(metadata["threshold"])},
    }[case]()
    cls = JUDGES[{"hpsv2": "HPSv2", "imagereward": "ImageReward", "mps": "MPS"}[case]]
    return cls(cls.PUBLISHED | config).eval(), load_file(path), metadata


@pytest.fixture(scope="module")
def reference_images():
    images = []
    for index in range(3):
        with Image.open(REFERENCE / f"imagereward_small_{index}.png") as image:
            images.append(image.convert("RGB"))
    return images


def test_hpsv2_equals_the_original(reference_images):
    judge, expected, metadata = reference_case("hpsv2")
    prompts = json.loads(metadata["prompts"])
    judge.load_state_dict(judge.convert({"state_dict": rebuild(without("model.", judge.state_dict()))}))
    pixels = judge.preprocess(reference_images)
    torch.testing.assert_close(pixels[..., :4, :4], expected["pixels_corner"])
    torch.testing.assert_close(pixels.mean((1, 2, 3)), expected["pixels_mean"])
    assert torch.equal(judge.tokenize(prompts).ids, expected["tokens"])
    scores = judge.score(reference_images, prompts)
    torch.testing.assert_close(scores, 100 * expected["cosine"], atol=1e-4, rtol=0)


def test_image_reward_equals_the_original(reference_images):
    judge, expected, _ = reference_case("imagereward")
    keys = json.loads((REFERENCE / "imagereward_small_keys.json").read_text())
    judge.load_state_dict(judge.convert({key: rebuilt(key, torch.empty(shape)) for key, shape in keys.items()}))
    pixels = judge.preprocess(reference_images)
    torch.testing.assert_close(pixels[..., :4, :4], expected["pixels_corner"])
    torch.testing.assert_close(pixels.mean((1, 2, 3)), expected["pixels_mean"])
    with torch.no_grad():
        rewards = judge(pixels, expected["input_ids"], expected["attention_mask"])
    torch.testing.assert_close(rewards, expected["rewards"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("halve", "tolerance"), [(False, 2e-3), (True, 1e-4)])
def test_mps_equals_the_original(halve, tolerance):
    judge, expected, metadata = reference_case("mps")
    judge.load_state_dict(judge.convert(rebuild(judge.state_dict())))
    generator = torch.Generator().manual_seed(int(metadata["pixel_seed"]))
    pixels = torch.randn(6, 3, 224, 224, generator=generator)
    if halve:  # as the original does to its pixels
        pixels = pixels.half().float()
    with torch.no_grad():
        features = judge.encode_conditioned(expected["prompt_ids"], expected["condition_ids"])
        scores = judge(pixels, *(feature.repeat_interleave(2, 0) for feature in features)).view(3, 2)
    torch.testing.assert_close(scores, expected["scores"], atol=tolerance, rtol=0)
    preferred = judge.preference(scores[:, 0], scores[:, 1])
    torch.testing.assert_close(preferred, expected["probabilities"][:, 0], atol=tolerance, rtol=0)


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `python -m golden.judges` in this process: (exit code, stdout, stderr)."""
    from golden.errors import run_command
    from golden.judges import __main__ as command

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["judges", *arguments])
        with pytest.raises(SystemExit) as stopped:
            run_command(command.main)
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return call


def test_the_command_scores_files(run, embedded, tmp_path):
    path = tmp_path / "a.png"
    IMAGES[0].save(path)
    (embedded / "aes.safetensors").unlink()
    code, out, _ = run("--prompt", "two red", str(path), str(path))
    assert code == 0
    assert "AES          unavailable" in out
    assert out.count("\n") == 7
    code, out, _ = run("--prompt", "two red", "--judges", "AES", "--", str(path))
    assert code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "a"], "at least one image"),
        (["--prompt", "a", "/nowhere.png"], "no image at"),
        (["--prompt", "a", __file__], "is not an image"),
        (["--prompt", "a", str(Path(__file__).parent)], "is a folder: name the images in it"),
        (["--prompt", "a", "--judges", "FID", "--", "a.png"], "Unknown judge"),
        (["--prompt", "a", "--device", "tpu", "a.png"], "cannot run on 'tpu'"),
        (["--prompt", "a", "--dtype", "int8", "a.png"], "invalid choice"),
        (["--prompt", "a", "--judge-weights", "http://a/w.pt", "--judges", "AES", "--", "PNG"], "is a URL"),
        (["--prompt", "a", "--judge-weights", "/nowhere.pt", "--judges", "AES", "--", "PNG"], "No file /nowhere.pt"),
        (["--prompt", "a", "--judge-weights", "/nowhere.pt", "PNG"], "got 6 names"),
        (["--benchmark", "a.png"], "leave out images"),
        (["--benchmark", "--repeats", "0"], "at least 1"),
        (["--random-published", "a.png", "--prompt", "a"], "for --benchmark"),
    ],
)
def test_the_command_refuses_in_one_line(run, tmp_path, arguments, words):
    path = tmp_path / "a.png"
    IMAGES[0].save(path)
    code, out, err = run(*(str(path) if argument == "PNG" else argument for argument in arguments))
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not out


def test_the_benchmark_reports_each_judge_and_mode(run, embedded):
    code, out, _ = run("--benchmark", "--repeats", "1")
    assert code == 0
    for label in [*ALL, "all, resident", "all, rotating"]:
        assert label in out
    assert "unavailable" not in out


@pytest.mark.slow
def test_the_module_runs_as_a_command():
    command = [sys.executable, "-m", "golden.judges", "--help"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--benchmark" in finished.stdout


def test_a_judge_is_built_whatever_the_memory_held(monkeypatch):
    # torch's trunc_normal_ draws again until all numbers are within bounds: with drawing switched off, it must end.
    empty = torch.empty

    def full_of_rubbish(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(1e30) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", full_of_rubbish)
    with loading.NoRandomInit():
        weight = torch.nn.Parameter(torch.empty(4, 4))
        torch.nn.init.trunc_normal_(weight)
    assert weight.isfinite().all()
