"""What the first screen says of a model: measured figures only for the weights that they were measured with."""

import json
from dataclasses import replace

import pytest

from golden import models
from golden.files import ASSETS, sha256
from golden.models import MODELS
from golden.ui import known
from golden.ui.glossary import explain
from golden.ui.html import render
from golden.ui.known import find_known, read_measured

ARMS = {
    "standard": {"right": 0.9132},
    "npnet": {"right": 0.9313, "difference": [0.018, -0.002, 0.035]},
    "best_norm": {"right": 0.9358, "difference": [0.023, 0.007, 0.038]},
    "mismatched": {"right": 0.9201, "difference": [0.007, -0.008, 0.022]},
}
FOUND = {"num_prompts": 553, "num_seeds": 2, "arms": ARMS}


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """A spec of an embedded model in a folder of its own, and a function that writes its answer."""
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    (tmp_path / "npnet.safetensors").write_bytes(b"weights")
    spec = replace(MODELS["shapes"], repo=str(tmp_path / "model"), npnet=str(tmp_path / "npnet.safetensors"))

    def write(**changes) -> None:
        answer = FOUND | {"npnet": sha256(tmp_path / "npnet.safetensors")} | changes
        (tmp_path / known.FILE).write_text(json.dumps(answer))

    return spec, write


def test_a_measured_answer_has_figures_interval_and_the_naive_baseline(embedded):
    spec, write = embedded
    write()
    found = read_measured(spec)
    assert found.answer == "On 553 test prompts golden is right on 93.1 %, standard on 91.3 %:"
    assert found.difference == "+1.8 points [−0.2,\u00a0+3.5]"
    assert "which reads no prompt: 93.6 %" in found.details[0]
    assert "another prompt: 92.0 %" in found.details[1]
    assert "2 seeds per prompt, judged" in found.details[2]
    assert len(found.details) == 3
    write(noise_per_prompt=True)
    assert "2 noises per prompt, judged" in read_measured(spec).details[2]


def test_a_second_set_of_prompts_has_its_own_sentence(embedded):
    spec, write = embedded
    arms = {"standard": {"right": 0.555}, "npnet": {"right": 0.652, "difference": [0.098, 0.042, 0.152]}}
    write(others=[{"prompts": "shapes-hard-400", "num_prompts": 400, "arms": arms}])
    details = read_measured(spec).details
    said = "On 400 others (shapes-hard-400) golden is right on 65.2 %, standard on 55.5 %"
    assert details[2] == f"{said}: +9.8 points [+4.2,\u00a0+15.2]."
    assert len(details) == 4


def test_the_interval_says_what_it_is(embedded):
    spec, write = embedded
    write()
    html = render("intro", known=read_measured(spec), labels={})
    assert f'data-tip="{explain("95 % interval")}"' in html
    assert "+1.8 points" in html


def test_figures_of_other_weights_say_so(embedded):
    spec, write = embedded
    write(npnet="0" * 64)
    assert "other weights" in read_measured(spec).details[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": {}},
        {"arms": {"standard": {"right": 2}, "npnet": ARMS["npnet"]}},
        {"arms": ARMS | {"npnet": {"right": 0.9, "difference": [0.1, float("nan"), 0.2]}}},
        {"arms": ARMS | {"npnet": {"right": "x", "difference": [0.1, 0, 0.2]}}},
        {"num_prompts": None},
    ],
)
def test_a_damaged_answer_is_no_answer(embedded, changes):
    spec, write = embedded
    assert read_measured(spec) is None
    write(**changes)
    assert read_measured(spec) is None


def test_the_embedded_answer_can_be_read():
    assert (ASSETS / "shapes" / known.FILE).is_file()
    assert read_measured(MODELS["shapes"]).answer.startswith("On 553 test prompts golden is right on ")


def test_each_kind_of_model_has_its_answer(tiny_model):
    def ask(name: str, **changes) -> str:
        spec = MODELS[name]
        return find_known(replace(tiny_model, spec=spec, npnet_name=spec.npnet, **changes)).answer

    assert "The paper reports on Pick-a-Pic's prompts: PickScore 21.69 → 21.86" in ask("sdxl")
    assert "no figures are known here for Hunyuan-DiT" in ask("hunyuan-dit")
    assert "No NPNet is known for PixArt-Sigma" in ask("pixart-sigma", npnet=None)
    assert "Nobody has measured yet" in find_known(tiny_model).answer
    own = replace(tiny_model, spec=MODELS["shapes"], npnet_name="own.safetensors")
    assert "Nobody has measured yet" in find_known(own).answer
