"""Plans: from a short measured part to hours, disk, memory and money, for collection, training and benchmark."""

import re

import pytest

from eval import run_benchmark
from golden.errors import InvalidInput
from golden.plan import GPUS, Measured, describe_plan, find_gpu
from train import collect_pairs, train_npnet

H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("device", "gpu"),
    [(H100, "h100"), ("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA L4", "l4"),
     ("NVIDIA L40S", "l40s"), ("NVIDIA L40", None), ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("NVIDIA B200", "b200"),
     ("CPU, 2 threads", None), ("MPS", None), ("NVIDIA GeForce GTX 1060", None)],
)  # fmt: skip
def test_gpus_are_known_by_torch_s_names(device, gpu):
    assert find_gpu(device) == gpu


def test_a_plan_in_figures():
    measured = Measured("pairs", 3.6, H100, memory=30_000_000_000, disk=1e6, fixed_disk=5e9)
    time, disk, memory, money = describe_plan(measured, 100_000)
    assert time.startswith("time    100 GPU-hours for 100000 pairs, 3.60 s each, measured on NVIDIA H100")
    assert disk == "disk    105 GB"
    assert memory == "memory  30.0 GB at most, of 80 GB, which fits"
    assert money == "money   about $250, at $2.50 an hour"


def test_another_gpu_is_scaled_by_its_peak_rate():
    measured = Measured("pairs", 3.6, H100, memory=30_000_000_000)
    time, _, memory, money = describe_plan(measured, 1000, "rtx-4090")
    hours = float(re.search(r"time    ([\d.]+)", time)[1])
    assert hours == pytest.approx(GPUS["h100"].tflops / GPUS["rtx-4090"].tflops, rel=0.01)
    assert "scaled by peak rates" in time
    assert memory.endswith("WHICH DOES NOT FIT")
    assert f"${GPUS['rtx-4090'].dollars:.2f} an hour" in money
    back = describe_plan(measured, 1000, "h100")
    assert back == describe_plan(measured, 1000)


def test_a_cpu_has_hours_and_no_price():
    lines = describe_plan(Measured("images", 0.01, "CPU, 2 threads", memory=2_500_000_000), 360)
    assert lines == [
        "time    0.00100 hours for 360 images, 0.0100 s each, measured on CPU, 2 threads",
        "disk    0 GB",
        "memory  2.50 GB at most",
    ]


@pytest.mark.parametrize(
    ("gpu", "device", "sentence"),
    [("gtx", H100, "Unknown GPU 'gtx': choose one of rtx-3090"), ("h100", "CPU, 1 threads", "cannot be told from CPU")],
)
def test_what_cannot_be_planned_is_one_sentence(gpu, device, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        describe_plan(Measured("pairs", 1.0, device), 10, gpu)


# --- the three commands ----------------------------------------------------------------------------------------------

ON_CPU = ("--device", "cpu")


def test_a_benchmark_is_planned_from_one_batch_and_writes_nothing(tiny_embedded_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["--limit", "5", "--num-seeds", "2", "--arms", "standard", "npnet", "--num-inference-steps", "2"]
    assert run_benchmark.main([*short, "--judges", "none", "--batch-size", "6", "--plan", *ON_CPU]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["time", "disk", "memory"]
    assert "hours for 20 images" in lines[-3]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidInput, match="Hours on h100 cannot be told from CPU"):
        run_benchmark.main([*short, "--judges", "none", "--plan", "--gpu", "h100", *ON_CPU])


def test_collection_and_training_are_planned(tiny_embedded_model, tmp_path, capsys):
    pairs = tmp_path / "pairs"
    quick = ["--shard-size", "16", "--num-inference-steps", "2", "--targets", "10x1", *ON_CPU]
    collect_pairs.main([str(pairs), "--num-pairs", "480", "--plan", *quick])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["480", "time", "disk", "memory", "kept", "by"]
    options = ["--filter", "all", "--num-epochs", "50", "--batch-size", "16", "--out", str(tmp_path / "npnet")]
    assert train_npnet.main([str(pairs), *options, "--plan", *ON_CPU]) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = int(re.search(r"(\d+) steps of 16", lines[-4])[1])
    assert steps % 50 == 0
    assert f"for {steps} steps" in lines[-3]
    assert float(lines[-2].split()[1]) > 0, "a checkpoint takes space"
    assert not (tmp_path / "npnet").exists()
    for command, others in ((collect_pairs, quick), (train_npnet, [*options, *ON_CPU])):
        with pytest.raises(InvalidInput, match="Unknown GPU"):
            command.main([str(pairs), "--plan", "--gpu", "none", *others])
