"""The speed benchmark: ratios are of medians, and both forms of every entry do the work that they claim."""

import json
from dataclasses import replace

import pytest
import torch

from eval import bench_speed
from eval.bench_speed import ENTRIES, Bench, Entry, main, measure_entry, processor_seconds
from golden.errors import GoldenError, InvalidInput
from golden.models import MODELS


@pytest.fixture(autouse=True)
def _little_to_do(tiny_embedded_model, tiny_judges_folder, monkeypatch):
    """The tiny pipeline and judges in place of the embedded ones, with few steps."""
    shapes = MODELS["shapes"]
    few_steps = replace(
        shapes,
        sampling=replace(shapes.sampling, num_inference_steps=2),
        redenoise=replace(shapes.redenoise, num_inference_steps=4, num_steps_down=1),
    )
    monkeypatch.setitem(MODELS, "shapes", few_steps)
    monkeypatch.setattr("golden.judges.loading.ASSETS", tiny_judges_folder)


def test_a_ratio_is_of_medians_and_the_first_call_does_not_count():
    now = [0.0]

    def takes(*seconds: float):
        left = list(seconds)

        def work() -> None:
            now[0] += left.pop(0)

        return work

    entry = Entry("x", "unit", takes(100, 1, 2, 9), 2, takes(100, 8, 4, 6), 1)
    result = measure_entry(entry, 3, lambda: now[0])
    assert result["seconds"] == 1.0  # per unit, and ours does two
    assert result["straightforward_seconds"] == 6.0
    assert result["ratio"] == 6.0
    assert result["ratio_low"] == 4 / 4.5
    assert result["ratio_high"] == 8 / 0.5


def test_processor_seconds_count_work_and_not_waiting():
    started = processor_seconds()
    torch.randn(300, 300).matmul(torch.randn(300, 300))
    worked = processor_seconds()
    assert 0 < worked - started < 10


def test_every_entry_runs_both_forms(capsys):
    bench = Bench(batch_size=4, shard_size=4, num_alone=2)
    for name in ENTRIES:
        if name == "first_comparison":  # starts Python anew, which knows nothing of the tiny model
            continue
        result = measure_entry(ENTRIES[name](bench), 1, processor_seconds)
        assert result["seconds"] > 0
        assert result["straightforward_seconds"] > 0


def test_the_figures_are_written_as_json(tmp_path):
    out = tmp_path / "speed.json"
    arguments = ["--only", "npnet", "--repeats", "1", "--batch-size", "3", "--num-alone", "1", "--device", "cpu"]
    assert main([*arguments, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["results"]["npnet"]["ratio"] > 0
    assert report["memory"]["npnet_mb"] > 0
    assert report["machine"]["versions"]["torch"]


def test_a_start_that_fails_is_one_sentence(monkeypatch):
    monkeypatch.setattr(bench_speed, "FIRST_PAIR", "raise ValueError('no model')")
    entry = ENTRIES["first_comparison"](Bench(batch_size=2, shard_size=2, num_alone=1))
    with pytest.raises(GoldenError, match=r"The first comparison failed: ValueError: no model"):
        entry.ours()


def test_bad_values_are_refused_before_any_work(tmp_path):
    with pytest.raises(InvalidInput, match="number of repeats"):
        main(["--repeats", "0"])
    with pytest.raises(InvalidInput, match="Unknown entry 'nope'"):
        main(["--only", "npnet", "nope"])
    (tmp_path / "file").write_text("")
    with pytest.raises(GoldenError, match="Cannot write to"):
        main(["--device", "cpu", "--out", str(tmp_path / "file" / "speed.json")])
