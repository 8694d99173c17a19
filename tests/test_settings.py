"""Settings leave as JSON, links and PNG, and come back the same; anything else gets one sentence."""

import json
import zlib
from dataclasses import replace
from io import BytesIO
from urllib.parse import parse_qsl, urlencode

import pytest
from PIL import Image, PngImagePlugin

from golden import settings
from golden.compare import run_comparison
from golden.drawing import to_png
from golden.errors import InvalidInput
from golden.request import CompareRequest

REQUEST = CompareRequest(
    prompt="a red circle",
    seed=4294967295,
    num_inference_steps=12,
    guidance_scale=7.25,
    sampler="euler_a",
    strength=0.35,
)


def test_json_comes_back_the_same(tiny_shapes):
    assert settings.from_json(settings.to_json(REQUEST, tiny_shapes.spec), tiny_shapes.spec) == REQUEST


def test_a_link_comes_back_the_same(tiny_shapes):
    query = dict(parse_qsl(urlencode(settings.to_dict(REQUEST, tiny_shapes.spec))))
    assert settings.from_query(query, tiny_shapes.spec) == REQUEST
    assert settings.from_query({"__theme": "dark"}, tiny_shapes.spec) is None


def test_a_prompt_of_digits_stays_text(tiny_model):
    assert settings.from_query({"prompt": "1e3", "seed": "7"}, tiny_model.spec).prompt == "1e3"


def test_arms_pass_through_json_link_and_png(tiny_shapes):
    """In a link between commas, as a browser writes a list; those of the default are left out."""
    spec, arms = tiny_shapes.spec, ("npnet", "norm", "mismatched")
    assert "arms" not in settings.to_dict(REQUEST, spec)
    request = replace(REQUEST, arms=arms)
    assert settings.from_json(settings.to_json(request, spec), spec) == request
    written = settings.to_dict(request, spec)
    query = {name: ",".join(value) if name == "arms" else str(value) for name, value in written.items()}
    assert settings.from_query(query, spec) == request
    with pytest.raises(InvalidInput, match="Unknown arm 'gold'"):
        settings.from_query(query | {"arms": "standard,gold"}, spec)


def test_what_is_left_out_keeps_the_models_default(tiny_shapes):
    request = settings.from_json('{"prompt": "a star"}', tiny_shapes.spec)
    assert request == settings.default_request(tiny_shapes.spec, prompt="a star")
    assert request.sampling == tiny_shapes.spec.sampling


@pytest.mark.parametrize("name", ["note", "arm", "Seed", "guidence_scale", "x" * 5000, "a\nb"])
def test_an_unknown_name_is_refused_by_name(tiny_shapes, name):
    for read in (
        lambda values: settings.from_json(json.dumps(values), tiny_shapes.spec),
        lambda values: settings.from_query(values, tiny_shapes.spec),
        lambda values: settings.from_png(_png(golden=json.dumps({"settings": values})), tiny_shapes.spec),
    ):
        with pytest.raises(InvalidInput, match=r"Unknown setting .*: the settings are model, prompt, seed, ") as caught:
            read({"prompt": "a star", name: "1"})
        assert ascii(name)[:20] in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250


def test_a_png_comes_back_the_same(tiny_shapes):
    request = CompareRequest(prompt="a red circle", seed=3, num_inference_steps=2)
    for arm, image in settings.label_images(run_comparison(request, tiny_shapes), tiny_shapes.spec).items():
        png = to_png(image)
        assert settings.from_png(png, tiny_shapes.spec) == request
        with Image.open(BytesIO(png)) as opened:
            made = json.loads(opened.info[settings.PNG_KEY])
        assert made["arm"] == arm
        assert set(made) >= {"settings", "verdicts", "npnet_seconds", "total_seconds", "created", "versions"}


def test_a_png_holds_more_than_the_settings(tiny_shapes):
    request = CompareRequest(prompt="a red circle", seed=3, num_inference_steps=1)
    comparison = run_comparison(request, tiny_shapes)
    images = settings.label_images(comparison, tiny_shapes.spec, npnet={"file": "ü.safetensors"}, device="cpu")
    sheet = settings.label_image(images["npnet"], "sheet", comparison, tiny_shapes.spec, note=1)
    made = settings.read_png(to_png(images["standard"]))
    assert (made["npnet"], made["device"], made["arm"]) == ({"file": "ü.safetensors"}, "cpu", "standard")
    assert settings.read_png(to_png(sheet))["arm"] == "sheet"
    assert settings.PNG_KEY not in comparison.images["npnet"].info
    with pytest.raises(InvalidInput, match="contains no settings"):
        settings.read_png(_png())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 15_000, "not valid JSON"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        (None, "JSON text"),
        ("x" * 30_000, "JSON text"),
        ("{}", "The prompt is empty"),
        ('{"prompt": "a star", "seed": NaN}', "The seed must be"),
        ('{"prompt": "a star", "seed": true}', "The seed must be"),
        ('{"prompt": "a star", "model": "sdxl"}', "are for the model 'sdxl'"),
        ('{"prompt": "a star", "model": ["x"]}', "are for the model"),
        ('{"prompt": "a dragon"}', "outside the shapes world"),
    ],
    ids=range(13),
)
def test_bad_json_gets_one_sentence(tiny_shapes, text, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        settings.from_json(text, tiny_shapes.spec)


@pytest.mark.parametrize("name", ["seed", "num_inference_steps", "guidance_scale", "strength"])
@pytest.mark.parametrize("value", ["", "nan", "inf", "1e999", "-1", "abc", "0x10", "<b>"])
def test_a_bad_link_gets_one_sentence(tiny_shapes, name, value):
    with pytest.raises(InvalidInput, match="must be a"):
        settings.from_query({"prompt": "a star", name: value}, tiny_shapes.spec)


def _png(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    data = BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG", pnginfo=info)
    return data.getvalue()


def _jpeg() -> bytes:
    data = BytesIO()
    Image.new("RGB", (4, 4)).save(data, "JPEG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "Give a PNG file"),
        ("text", "Give a PNG file"),
        (b"", "Give a PNG file"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "not a readable PNG"),
        (b"#!/bin/sh", "not a readable PNG"),
        (_jpeg(), "not a readable PNG"),
        (_png(), "contains no settings"),
        (_png(golden="not json"), "cannot be read"),
        (_png(golden="[]"), "cannot be read"),
        (_png(golden="{}"), "cannot be read"),
        (_png(golden='{"settings": 3}'), "JSON object"),
        (_png(golden='{"settings": {"prompt": "a dragon"}}'), "outside the shapes world"),
    ],
    ids=range(12),
)
def test_a_bad_png_gets_one_sentence(tiny_shapes, data, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        settings.from_png(data, tiny_shapes.spec)


def test_a_huge_png_is_refused_before_it_is_opened(tiny_shapes):
    with pytest.raises(InvalidInput, match="at most 20 MB"):
        settings.from_png(b"x" * (settings.MAX_IMAGE_BYTES + 1), tiny_shapes.spec)


def test_a_decompression_bomb_is_never_decoded(tiny_shapes):
    """A header that announces 60,000 x 60,000 pixels and a text of many megabytes."""
    header = bytearray(_png(golden="{}"))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(InvalidInput):
        settings.from_png(bytes(header), tiny_shapes.spec)
    info = PngImagePlugin.PngInfo()
    info.add_text("golden", " " * 50_000_000, zip=True)
    data = BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG", pnginfo=info)
    with pytest.raises(InvalidInput):
        settings.from_png(data.getvalue(), tiny_shapes.spec)
