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
from eval import full_size_models as models
from eval import svd_routes
from golden.errors import InvalidInput
from golden.npnet import NPNetConfig
from golden.pipelines import needed_memory

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("model", models.BUILDERS)
def test_a_tiny_model_goes_through_all_of_it(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "NUM_CALLS", 3)
    monkeypatch.setattr(svd_routes, "NUM_CALLS", 3)
    out = tmp_path / "a" / "report.json"
    arguments = ["--tiny", "--device", "cpu", "--num-inference-steps", "2", "--size", "64", "--repeats", "2"]
    bench.main(["--model", model, *arguments, "--out", str(out)])
    report = json.loads(out.read_text())
    settings = report["settings"]
    assert (settings["model"], settings["num_inference_steps"], report["machine"]["dtype"]) == (model, 2, "float32")
    assert list(report["pairs"]) == ["high, batched", "high, one after the other", "low"]
    for pair in report["pairs"].values():
        assert 0 < pair["pair"]["fastest"] <= pair["pair"]["median"] <= pair["pair"]["slowest"]
        assert pair["denoising"]["fastest"] + pair["decoding"]["fastest"] <= pair["pair"]["fastest"] * (1 + 1e-9)
        assert pair["peak_bytes"] is None  # known only on CUDA
    npnet = report["npnet"]
    assert npnet["share"] == pytest.approx(
        2 * npnet["seconds"]["median"] / report["pairs"]["high, batched"]["pair"]["median"]
    )
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in report["pairs"])
    assert f"({100 * npnet['share']:.2f} % of it)" in printed


def test_routes_of_the_svd_agree_with_the_exact_answer():
    device = torch.device("cpu")
    rows = svd_routes.time_routes(NPNetConfig(height=16, width=16), device)
    found = {(row["route"], row["matrices"]): row for row in rows}
    assert set(found) == {(route, batch) for route in svd_routes.routes_on(device) for batch in (1, 8)}
    for (route, _), row in found.items():
        assert row["value_error"] < 1e-3
        assert row["product_error"] < 1e-3
        if route != "Gram matrix":
            assert max(row["value_error"], row["product_error"], row["vector_error"]) < 1e-4
    # What it loses, and why it is compared: small singular values and their vectors.
    assert found["Gram matrix", 8]["vector_error"] > 10 * found["torch.linalg.svd", 8]["vector_error"]


def test_a_route_that_fails_says_so_and_costs_the_others_nothing(monkeypatch):
    def fail(matrix):
        raise RuntimeError("it does not converge\nat all")

    monkeypatch.setattr(svd_routes, "routes_on", lambda device: {"bad": fail, "good": svd_routes.decompose})
    bad, good, *_ = svd_routes.time_routes(NPNetConfig(height=8, width=8), torch.device("cpu"))
    assert bad == {"route": "bad", "matrices": 1, "failed": "it does not converge"}
    assert good["product_error"] < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", models.BUILDERS)
def test_on_a_gpu_memory_is_measured_and_every_driver_tried(model):
    report = bench.run(
        bench.parse(["--model", model, "--tiny", "--size", "128", "--num-inference-steps", "2", "--repeats", "1"])
    )
    assert all(pair["peak_bytes"] > 0 for pair in report["pairs"].values())
    assert {"gesvd", "gesvdj", "gesvda", "on the CPU"} < {row["route"] for row in report["svd"]}
    assert "not measured" not in bench.format_report(report)


def count(make) -> int:
    with torch.device("meta"):
        return sum(value.numel() for value in make().parameters())


def test_full_models_are_as_large_as_the_published_ones():
    """Source: the weight files' sizes, and the model cards for Hunyuan-DiT's (1.5 and 1.6 billion)."""
    assert count(lambda: diffusers.UNet2DConditionModel(**models.UNET)) == 2_567_463_684
    assert count(lambda: diffusers.AutoencoderKL(**models.VAE)) == 83_653_863
    assert count(lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**models.CLIP_L))) == 123_060_480
    text_2 = transformers.CLIPTextConfig(**models.CLIP_G)
    assert count(lambda: transformers.CLIPTextModelWithProjection(text_2)) == 694_659_840
    assert count(lambda: diffusers.HunyuanDiT2DModel(**models.DIT)) == pytest.approx(1.5e9, rel=0.01)
    assert count(lambda: transformers.T5EncoderModel(transformers.T5Config(**models.T5))) == pytest.approx(
        1.6e9, rel=0.05
    )


def test_built_models_are_finite_and_of_the_precision_asked_for():
    pipeline = models.build_hunyuan(torch.float16, tiny=True, sample_size=8)
    parts = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    values = [value for part in parts for value in part.parameters()]
    assert {value.dtype for value in values} == {torch.float16}
    assert all(value.isfinite().all() for value in values)
    assert needed_memory(pipeline) > sum(value.nbytes for value in values)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--num-inference-steps", "0"], "number of steps must be"),
        (["--size", "100"], "size must be a multiple of 16"),
        (["--size", "32"], "size must be a whole number from 64"),
        (["--repeats", "0"], "number of repeats must be"),
        (["--device", "toaster"], "cannot run on 'toaster'"),
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
