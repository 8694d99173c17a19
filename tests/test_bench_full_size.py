"""The benchmark of full-size models: whole on tiny ones, and the full ones are as large as those published."""

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
import transformers

from eval import bench_full_size as bench
from golden.errors import InvalidInput
from golden.pipelines import needed_memory

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("model", bench.BUILDERS)
def test_a_tiny_model_goes_through_all_of_it(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "NUM_CALLS", 3)
    out = tmp_path / "a" / "report.json"
    arguments = ["--tiny", "--device", "cpu", "--steps", "2", "--size", "64", "--repeats", "2", "--out", str(out)]
    bench.main(["--model", model, *arguments])
    report = json.loads(out.read_text())
    assert (report["settings"]["model"], report["settings"]["steps"], report["machine"]["dtype"]) == (
        model,
        2,
        "float32",
    )
    assert list(report["pairs"]) == ["high, batched", "high, one after the other", "low"]
    for pair in report["pairs"].values():
        assert 0 < pair["pair"]["fastest"] <= pair["pair"]["median"] <= pair["pair"]["slowest"]
        assert pair["denoising"]["fastest"] + pair["decoding"]["fastest"] <= pair["pair"]["fastest"] * (1 + 1e-9)
        assert pair["peak_bytes"] is None  # known on CUDA alone
    npnet = report["npnet"]
    assert npnet["share"] == pytest.approx(
        2 * npnet["seconds"]["median"] / report["pairs"]["high, batched"]["pair"]["median"]
    )
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in report["pairs"])
    assert f"({100 * npnet['share']:.2f} % of it)" in printed


def test_routes_of_the_svd_agree_with_the_exact_answer():
    pipeline = bench.build_sdxl(torch.float32, tiny=True, sample_size=16)
    device = torch.device("cpu")
    rows = bench.time_routes(bench.make_npnet(pipeline, tiny=True), device, bench.Clock(device))
    found = {(row["route"], row["matrices"]): row for row in rows}
    assert set(found) == {(route, batch) for route in bench.routes_on(device) for batch in (1, 8)}
    for (route, _), row in found.items():
        assert row["value_error"] < 1e-3
        assert row["product_error"] < 1e-3
        if route != "Gram matrix":
            assert max(row["value_error"], row["product_error"], row["vector_error"]) < 1e-4
    # What it loses is why it is compared: the small singular values, and with them the vectors.
    assert found["Gram matrix", 8]["vector_error"] > 10 * found["torch.linalg.svd", 8]["vector_error"]


def test_a_route_that_fails_says_so_and_costs_the_others_nothing(monkeypatch):
    def fail(matrix):
        raise RuntimeError("it does not converge\nat all")

    monkeypatch.setattr(bench, "routes_on", lambda device: {"bad": fail, "good": bench.decompose})
    device = torch.device("cpu")
    npnet = bench.make_npnet(bench.build_sdxl(torch.float32, tiny=True, sample_size=8), tiny=True)
    bad, good, *_ = bench.time_routes(npnet, device, bench.Clock(device))
    assert bad == {"route": "bad", "matrices": 1, "failed": "it does not converge"}
    assert good["product_error"] < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", bench.BUILDERS)
def test_on_a_gpu_memory_is_measured_and_every_driver_tried(model):
    report = bench.run(bench.parse(["--model", model, "--tiny", "--size", "128", "--steps", "2", "--repeats", "1"]))
    assert all(pair["peak_bytes"] > 0 for pair in report["pairs"].values())
    assert {"gesvd", "gesvdj", "gesvda", "on the CPU"} < {row["route"] for row in report["svd"]}
    assert "not measured" not in bench.format_report(report)


def count(make) -> int:
    with torch.device("meta"):
        return sum(value.numel() for value in make().parameters())


def test_full_models_are_as_large_as_the_published_ones():
    """Source: the weight files' sizes, and the model cards for Hunyuan-DiT's (1.5 and 1.6 billion)."""
    assert count(lambda: diffusers.UNet2DConditionModel(**bench.UNET)) == 2_567_463_684
    assert count(lambda: diffusers.AutoencoderKL(**bench.VAE)) == 83_653_863
    assert count(lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**bench.CLIP_L))) == 123_060_480
    text_2 = transformers.CLIPTextConfig(**bench.CLIP_G)
    assert count(lambda: transformers.CLIPTextModelWithProjection(text_2)) == 694_659_840
    assert count(lambda: diffusers.HunyuanDiT2DModel(**bench.DIT)) == pytest.approx(1.5e9, rel=0.01)
    assert count(lambda: transformers.T5EncoderModel(transformers.T5Config(**bench.T5))) == pytest.approx(
        1.6e9, rel=0.05
    )


def test_built_models_are_finite_and_of_the_precision_asked_for():
    pipeline = bench.build_hunyuan(torch.float16, tiny=True, sample_size=8)
    parts = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    values = [value for part in parts for value in part.parameters()]
    assert {value.dtype for value in values} == {torch.float16}
    assert all(value.isfinite().all() for value in values)
    assert needed_memory(pipeline) > sum(value.nbytes for value in values)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "0"], "--steps must be"),
        (["--size", "100"], "--size must be a multiple of 16"),
        (["--size", "32"], "--size must be a multiple of 16"),
        (["--repeats", "0"], "--repeats must be"),
        (["--device", "toaster"], "There is no device 'toaster' here"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        bench.parse(["--device", "cpu", *arguments])
    assert "\n" not in str(caught.value)


def test_it_is_a_command():
    done = subprocess.run(
        [sys.executable, "eval/bench_full_size.py", "--model", "flux"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "invalid choice: 'flux'" in done.stderr
