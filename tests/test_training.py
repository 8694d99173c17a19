"""Networks that a suite trains: from the pairs that are there, once each, and found again."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from eval import benchmark, networks
from eval.benchmark import prepare
from eval.networks import NetworkRecipe, check_networks, open_pairs, prepare_networks, take_pairs, train_network
from eval.settings import BenchmarkSettings
from golden.errors import GoldenError, InvalidInput
from golden.models import MODELS
from golden.npnet import load_npnet
from train.pairs import Shard, finished_shards, read_shard, write_manifest, write_shard
from train.settings import Architecture, TrainingSettings

SHAPES = MODELS["shapes"]


def make_pairs(folder: Path, num_shards: int = 2, size: int = 6, targets: tuple[str, ...] = ("10x1", "20x1")) -> Path:
    """A folder of judged pairs as the collector leaves it: every shard has each target of its sources."""
    folder.mkdir()
    settings = {"model": "shapes", "targets": list(targets), "judges": ["HPSv2"], "judged": True}
    write_manifest(folder, {"settings": settings})
    for index in range(num_shards):
        generator = torch.Generator().manual_seed(index)
        source = torch.randn(size, 4, 16, 16, generator=generator)
        rows = pd.concat(
            pd.DataFrame(
                {
                    "index": range(index * size, (index + 1) * size),
                    "prompt": [f"{number} circles" for number in ("two", "three", "four")] * (size // 3),
                    "seed": range(size),
                    "target": target,
                    "source_right": False,
                    "source_score": 0.5,
                    "source_HPSv2": 1.0,
                    "target_right": True,
                    "target_score": 1.0,
                    "target_HPSv2": 2.0,
                }
            )
            for target in targets
        )
        noises = torch.cat([0.9 * source for _ in targets])
        write_shard(folder, index, Shard(source.repeat(len(targets), 1, 1, 1), noises, rows))
    return folder


def test_a_folder_of_pairs_is_inspected_before_anything_is_trained(tmp_path):
    folder = make_pairs(tmp_path / "pairs")
    pairs = open_pairs(folder, SHAPES)
    assert (pairs.targets, pairs.judges, pairs.num_sources) == (("10x1", "20x1"), ("HPSv2",), 12)
    assert pairs == open_pairs(folder, SHAPES)
    other = make_pairs(tmp_path / "other", num_shards=1)
    assert open_pairs(other, SHAPES).sha256 != pairs.sha256
    with pytest.raises(InvalidInput, match="are of the model 'shapes', not of 'sdxl'"):
        open_pairs(folder, MODELS["sdxl"])
    with pytest.raises(InvalidInput, match="is not a folder of pairs"):
        open_pairs(tmp_path / "nowhere", SHAPES)
    for path in folder.glob("shard-*"):
        path.unlink()
    with pytest.raises(InvalidInput, match="There are no pairs"):
        open_pairs(folder, SHAPES)


def test_unjudged_pairs_are_refused(tmp_path):
    folder = make_pairs(tmp_path / "pairs", num_shards=1)
    shard = read_shard(folder, 0)
    kept = [name for name in shard.rows if not name.startswith(("source_", "target_"))]
    write_shard(folder, 0, replace(shard, rows=shard.rows[kept]))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["judges"] = []
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match="are not judged"):
        open_pairs(folder, SHAPES)


@pytest.mark.parametrize(("number", "shards"), [(3, 1), (6, 1), (8, 2), (100, 2)])
def test_the_first_sources_come_with_all_their_targets(tmp_path, number, shards):
    folder = make_pairs(tmp_path / "pairs")
    taken = take_pairs(folder, number, tmp_path / "some")
    assert len(finished_shards(taken)) == shards
    rows = pd.concat([read_shard(taken, index).rows for index in finished_shards(taken)])
    assert sorted(rows["index"].unique()) == list(range(min(number, 12)))
    assert (rows.groupby("index").size() == 2).all()
    first, whole = read_shard(taken, 0), read_shard(folder, 0)
    assert torch.equal(first.source_noise[0], whole.source_noise[0])
    assert len(first.source_noise) == len(first.rows)


def test_a_training_that_fails_is_one_sentence(tmp_path):
    pairs = open_pairs(make_pairs(tmp_path / "pairs", num_shards=1), SHAPES)
    with pytest.raises(GoldenError, match=r"^Training 'x' failed: [^\n]+$"):
        train_network(NetworkRecipe(TrainingSettings(filter="nonsense")), pairs, SHAPES, tmp_path / "x")


def test_a_training_is_not_one_of_torchruns_workers(tmp_path, monkeypatch):
    pairs = open_pairs(make_pairs(tmp_path / "pairs", num_shards=1), SHAPES)
    seen = []

    def pretend(options, settings, architecture) -> None:
        seen.append({name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")})
        (options.out / "npnet.safetensors").parent.mkdir(parents=True, exist_ok=True)
        (options.out / "npnet.safetensors").write_bytes(b"")

    monkeypatch.setattr(networks, "run_training", pretend)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    train_network(NetworkRecipe(), pairs, SHAPES, tmp_path / "x")
    assert seen == [{"RANK": None, "WORLD_SIZE": None, "LOCAL_RANK": None}]
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "2")


def test_a_recipe_is_described_by_what_differs_from_the_defaults():
    assert NetworkRecipe().describe() == "defaults"
    recipe = NetworkRecipe(
        TrainingSettings(filter="HPSv2", targets=("10x1", "20x1"), bf16=True),
        Architecture(text=False),
        num_pairs=600,
        fine_tunes=True,
        alpha_scale=2.0,
    )
    assert recipe.describe() == "fine-tuned 600 pairs filter HPSv2 targets 10x1 20x1 bf16 no-text"
    assert recipe.folder == "fine-tuned-600-pairs-filter-HPSv2-targets-10x1-20x1-bf16-no-text"
    assert replace(recipe, alpha_scale=1.0).folder == recipe.folder


def test_a_finished_file_needs_no_training_and_a_missing_one_is_reported(tmp_path):
    file = str(SHAPES.npnet)
    assert prepare_networks({"own": NetworkRecipe(file=file)}, None, SHAPES, tmp_path)["own"].training is False
    check_networks({"own": NetworkRecipe(file=file)}, None, SHAPES)
    with pytest.raises(GoldenError, match="nowhere"):
        check_networks({"own": NetworkRecipe(file="nowhere.safetensors")}, None, SHAPES)
    pairs = open_pairs(make_pairs(tmp_path / "pairs", num_shards=1), SHAPES)
    with pytest.raises(InvalidInput, match="no NPNet of 'shapes' to fine-tune"):
        check_networks({"a": NetworkRecipe(fine_tunes=True)}, pairs, replace(SHAPES, npnet=None))


def test_a_suite_trains_scales_renders_and_goes_on_where_it_was(tmp_path):
    folder = make_pairs(tmp_path / "pairs")
    settings = BenchmarkSettings(
        suite="branch-weights", limit=1, num_seeds=1, num_inference_steps=2, judges=(), num_epochs=1
    )
    settings = replace(settings, pairs=folder)
    run = prepare(settings)
    results = benchmark.run_benchmark(run, tmp_path / "run")
    assert results is not None
    assert list(results.rows["variant"]) == ["standard", *run.plan.networks]
    assert results.pairs is not None
    (weights,) = (tmp_path / "run" / "networks").glob("*/npnet.safetensors")  # trained once, however it is scaled
    trained, doubled = load_npnet(weights), run.renderer.npnets["alpha x 2"]
    factor, twice = (2 * network.alpha.sigmoid() - 1 for network in (trained, doubled))
    assert torch.allclose(twice, 2 * factor, atol=1e-6)
    assert torch.allclose(run.renderer.npnets["beta x 2"].beta, 2 * trained.beta)
    before = (tmp_path / "run" / "rows.parquet").read_bytes()
    written = weights.stat().st_mtime_ns
    benchmark.run_benchmark(prepare(settings), tmp_path / "run")
    assert weights.stat().st_mtime_ns == written
    assert (tmp_path / "run" / "rows.parquet").read_bytes() == before
    shutil.rmtree(folder)
    other = make_pairs(folder, num_shards=1)
    with pytest.raises(InvalidInput, match="holds a run with networks"):
        benchmark.run_benchmark(prepare(replace(settings, pairs=other)), tmp_path / "run")
