"""A request: validation that lets nothing odd through, and answers in one line whatever it gets."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from golden.arms import ARMS
from golden.checks import MAX_SEED
from golden.errors import InvalidInput
from golden.models import MODELS, Sampling, find_model
from golden.request import MAX_GUIDANCE, MAX_PROMPT_CHARS, MAX_STEPS, CompareRequest, check_control, validate
from golden.samplers import SAMPLERS

SHORT = CompareRequest(prompt="a red star", seed=3, num_inference_steps=3)
SHAPES, SDXL = MODELS["shapes"], MODELS["sdxl"]


def test_a_request_is_written_by_name_alone():
    with pytest.raises(TypeError):
        CompareRequest("a red star", 3)
    with pytest.raises(TypeError):
        CompareRequest()


def test_sampling_is_what_the_request_says():
    request = replace(SHORT, sampler="heun", guidance_scale=2.0)
    assert request.sampling == Sampling("heun", 3, 2.0)


def test_a_control_image_is_for_controlnets_and_they_need_one():
    steered = find_model("sdxl+owner/controlnet")
    check_control(None, SDXL)
    check_control(Image.new("RGB", (4, 4)), steered)
    with pytest.raises(InvalidInput, match="controlnet needs a control image beside the prompt"):
        check_control(None, steered)
    with pytest.raises(InvalidInput, match="A control image is for a ControlNet, and Stable Diffusion XL has none"):
        check_control(Image.new("RGB", (4, 4)), SDXL)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "A  red\n star. "},
        {"seed": 0},
        {"seed": MAX_SEED},
        {"seed": 5.0},
        {"seed": np.int64(7)},
        {"seed": torch.tensor(7)},
        {"num_inference_steps": np.uint8(5)},
        {"num_inference_steps": 1},
        {"num_inference_steps": float(MAX_STEPS)},
        {"guidance_scale": 1},
        {"guidance_scale": MAX_GUIDANCE},
        {"strength": 0},
        {"strength": 3},
        {"sampler": "lcm", "num_inference_steps": 50},
        {"arms": list(ARMS)},
    ],
)
def test_what_is_allowed(change):
    request = validate(replace(SHORT, **change), SHAPES)
    assert type(request.seed) is int
    assert type(request.num_inference_steps) is int
    assert type(request.guidance_scale) is float
    assert type(request.strength) is float
    assert type(request.arms) is tuple
    assert request.prompt == " ".join(request.prompt.split())
    assert validate(request, SHAPES) == request


def test_an_unknown_arm_is_answered_with_those_that_the_model_can_do(tmp_path):
    with pytest.raises(InvalidInput, match="choose one of standard, npnet") as caught:
        validate(replace(SHORT, arms=("gold",)), SDXL)
    assert "ascent" not in str(caught.value)
    (tmp_path / "verifier").write_bytes(b"")
    with pytest.raises(InvalidInput, match="ascent, select_4"):
        validate(replace(SHORT, arms=("gold",)), replace(SDXL, verifier=str(tmp_path / "verifier")))


NUMBERS = [
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    -1,
    -0.001,
    2**40,
    10**400,
    10**5000,
    -(10**5000),
    1e300,
    None,
    "5",
    "",
    [5],
    {},
    5j,
    b"5",
    np.ones(2),
    torch.ones(2),
]


@pytest.mark.parametrize("name", ["seed", "num_inference_steps", "guidance_scale", "strength"])
@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: ascii(value)[:12] if type(value) is not int else "int")
def test_numbers_that_are_refused(name, value):
    with pytest.raises(InvalidInput, match=r"must be a (whole )?number from") as caught:
        validate(replace(SHORT, **{name: value}), SHAPES)
    message = str(caught.value)
    assert name.split("_")[-1] in message
    assert len(message) < 150
    assert "\n" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 0.5},
        {"num_inference_steps": 5.5},
        {"num_inference_steps": 0},
        {"num_inference_steps": 10_000},
        {"num_inference_steps": MAX_STEPS + 1},
        {"guidance_scale": 0.5},
        {"guidance_scale": MAX_GUIDANCE + 0.01},
        {"strength": 3.01},
        {"sampler": "DDIM"},
        {"sampler": ""},
        {"sampler": None},
        {"sampler": ["ddim"]},
        {"sampler": "x" * 10**6},
        {"sampler": "lcm", "num_inference_steps": 51},
        {"sampler": "tcd", "num_inference_steps": 51},
        {"arms": ()},
        {"arms": None},
        {"arms": "standard"},
        {"arms": ("standard", "standard")},
        {"arms": ("standard", "gold")},
        {"arms": ("standard", ["npnet"])},
        {"arms": ("standard", None)},
        {"prompt": ""},
        {"prompt": " \n\t"},
        {"prompt": None},
        {"prompt": 5},
        {"prompt": ["a red star"]},
        {"prompt": "a red dog"},
        {"prompt": "a red star \ud83d"},
        {"prompt": "a red star\0"},
        {"prompt": "a red star " * 500_000},
    ],
    ids=lambda change: ascii(change)[:60],
)
def test_what_is_refused(change):
    with pytest.raises(InvalidInput) as caught:
        validate(replace(SHORT, **change), SHAPES)
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sampler", ["dpm_ays", "euler_ays"])
def test_a_sampler_that_the_model_cannot_use_is_refused_with_those_that_it_can(sampler):
    request = replace(SHORT, sampler=sampler)
    assert validate(request, SDXL).sampler == sampler
    with pytest.raises(InvalidInput, match=rf"cannot use the sampler '{sampler}': choose one of ddim, dpm, .*, tcd.$"):
        validate(request, MODELS["hunyuan-dit"])


def test_models_other_than_shapes_take_any_text():
    assert validate(replace(SHORT, prompt="a dog, 犬 🐕"), SDXL).prompt == "a dog, 犬 🐕"
    assert validate(replace(SHORT, prompt="x" * MAX_PROMPT_CHARS), SDXL)
    for prompt in ("x" * (MAX_PROMPT_CHARS + 1), "\ud83d", "x" * 5_000_000):
        with pytest.raises(InvalidInput):
            validate(replace(SHORT, prompt=prompt), SDXL)


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=30)
    | st.lists(st.integers(), max_size=2)
    | st.binary(max_size=5)
)


@given(
    st.builds(
        CompareRequest,
        prompt=anything | st.just("a red star"),
        seed=anything | st.integers(0, 9),
        num_inference_steps=anything | st.integers(1, 300),
        guidance_scale=anything | st.floats(1, 30),
        sampler=anything | st.sampled_from(sorted(SAMPLERS)),
        strength=anything | st.floats(0, 3),
        height=anything | st.none() | st.integers(8, 4096),
        width=anything | st.none(),
        arms=anything | st.lists(st.sampled_from(sorted(ARMS)) | anything, max_size=3).map(tuple),
    ),
    st.sampled_from([SHAPES, SDXL]),
)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_anything_is_either_valid_or_refused_in_one_line(request, spec):
    complaint = ""
    try:
        valid = validate(request, spec)
    except InvalidInput as error:
        complaint = str(error)
    if complaint:
        assert "\n" not in complaint
        assert len(complaint) < 1000
    else:
        assert valid.prompt.encode()
        assert 0 <= valid.seed <= MAX_SEED
        assert 1 <= valid.num_inference_steps <= MAX_STEPS
        assert 1 <= valid.guidance_scale <= MAX_GUIDANCE
        assert validate(valid, spec) == valid
