"""Collection on the embedded model: determinism, resume, workers, several targets, bad input."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from golden.arms import ARMS, Conditions
from golden.checkers import FAULTS, find_checker
from golden.errors import GoldenError, InvalidInput, run_command
from golden.judges import JudgeSet, load_judges
from golden.model import Model, load_model
from golden.models import Redenoise, find_model
from golden.noise import redenoise, source_noise
from golden.pipelines import encode_prompts, latent_shape
from golden.shapes import load_test_prompts
from train.collect_pairs import main
from train.collection import describe_sources, open_collection, read_prompts, resolve_settings, show_progress
from train.collection_plan import describe_kept, plan_collection
from train.make_shard import Collection, collect_shard, shard_inputs
from train.pairs import finished_shards, read_manifest, read_shard, write_manifest, write_shard
from train.settings import CollectionSettings
from train.targets import default_target, make_target

ROOT = Path(__file__).resolve().parents[1]
QUICK = CollectionSettings(shard_size=3, num_inference_steps=2, targets=("source", "10x1", "20x2@3"))
OPTIONS = ["--shard-size", "2", "--num-inference-steps", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("shapes")


def test_a_shards_inputs_depend_on_the_seed_and_the_index_alone():
    captions, seeds = shard_inputs(QUICK, 4, None)
    assert (captions, seeds) == shard_inputs(replace(QUICK, targets=("10x1",)), 4, None)
    assert captions != shard_inputs(QUICK, 5, None)[0]
    assert captions != shard_inputs(replace(QUICK, seed=1), 4, None)[0]
    assert min(seeds) >= 2**16


def test_test_prompts_are_not_collected():
    tested = {row["prompt"] for row in load_test_prompts()}
    for index in range(20):
        assert not tested.intersection(shard_inputs(replace(QUICK, shard_size=64), index, None)[0])


def test_own_prompts_go_round(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a star\n\n  a heart \n")
    prompts = read_prompts(path)
    assert shard_inputs(QUICK, 0, prompts)[0] == ["a star", "a heart", "a star"]
    assert shard_inputs(QUICK, 1, prompts)[0] == ["a heart", "a star", "a heart"]
    path.write_text("\n \n")
    with pytest.raises(InvalidInput, match="no prompts"):
        read_prompts(path)
    for unreadable, reason in (("nowhere.txt", "No such file"), ("", "Is a directory")):
        with pytest.raises(InvalidInput, match=f"cannot be read: {reason}"):
            read_prompts(tmp_path / unreadable)


def test_a_mark_of_the_encoding_is_no_part_of_the_first_prompt(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a star\na heart\n", encoding="utf-8-sig")
    assert read_prompts(path) == ["a star", "a heart"]


def test_a_prompts_file_is_checked_whole_and_names_the_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a star\n\na photo of a cat\n")
    assert read_prompts(path) == ["a star", "a photo of a cat"]
    with pytest.raises(InvalidInput, match=r"prompts\.txt, line 3: .*photo"):
        read_prompts(path, find_checker("shapes"))
    with pytest.raises(InvalidInput, match="line 3"):
        open_collection(tmp_path / "pairs", QUICK, path, 3, "cpu")
    assert not (tmp_path / "pairs").exists()
    unjudged = open_collection(tmp_path / "pairs", replace(QUICK, judged=False), path, 3, "cpu")
    assert unjudged.prompts == ["a star", "a photo of a cat"]
    path.write_bytes(b"a star\n\xff\n")
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_prompts(path)


def test_a_model_without_a_checker_needs_prompts(tmp_path, tiny_sdxl_folder):
    settings = replace(QUICK, model=tiny_sdxl_folder, judges=("AES",))
    with pytest.raises(InvalidInput, match="--prompts"):
        open_collection(tmp_path / "pairs", settings, None, 3, "cpu")
    with pytest.raises(InvalidInput, match="--prompts"):
        shard_inputs(settings, 0, None)
    with pytest.raises(InvalidInput, match="choose --judges"):
        resolve_settings(replace(settings, judges=()))


@pytest.mark.parametrize("name", ["sdxl-turbo", "sdxl-lightning", "flux-schnell", "flux2-klein", "z-image-turbo"])
def test_a_model_without_guidance_has_no_redenoise_pairs(name):
    with pytest.raises(
        InvalidInput, match="--objective reward, or choose among noises with the arms select_4"
    ) as caught:
        resolve_settings(CollectionSettings(model=name, targets=("source", "10x1")))
    assert "\n" not in str(caught.value)
    assert resolve_settings(CollectionSettings(model=name, targets=("source", "npnet"), judges=("HPSv2",))).targets


def test_a_flows_target_is_that_of_its_own_settings(tiny_sd3):
    source = source_noise([1, 2], latent_shape(tiny_sd3.pipeline))
    embeddings = encode_prompts(tiny_sd3.pipeline, ["a star", "a heart"])
    spec = replace(tiny_sd3.spec, redenoise=replace(tiny_sd3.spec.redenoise, sigma_down=0.9))
    target = make_target("10x1", replace(tiny_sd3, spec=spec), CollectionSettings(), source, embeddings)
    assert torch.equal(target, redenoise(tiny_sd3.pipeline, source, embeddings, spec.redenoise))


def test_settings_name_their_defaults(tmp_path):
    settings = resolve_settings(CollectionSettings(judges=("all",)))
    assert (settings.targets, settings.filter, len(settings.judges)) == (("20x5",), "right", 6)
    assert resolve_settings(CollectionSettings(judged=False)).filter is None
    open_collection(tmp_path, QUICK, None, 3, "cpu")
    manifest = read_manifest(tmp_path)
    assert manifest["settings"]["filter"] == "right"
    assert {"versions", "commit", "device"} < manifest.keys()


def test_a_data_set_from_before_the_filter_was_named_goes_on_as_it_began(tmp_path):
    before = {"model": "shapes", "filter": None, "judged": True}
    write_manifest(tmp_path, {"settings": before})
    assert open_collection(tmp_path, QUICK, None, 3, "cpu").settings.filter == "improved"
    with pytest.raises(InvalidInput, match="filter=None, not 'right'"):
        open_collection(tmp_path, replace(QUICK, filter="right"), None, 3, "cpu")
    assert read_manifest(tmp_path) == {"settings": before}


def test_a_shard_holds_every_target_of_every_source(model):
    shard = collect_shard(model, QUICK, 0)
    captions, seeds = shard_inputs(QUICK, 0, None)
    assert shard.source_noise.shape == shard.target_noise.shape == (9, 4, 16, 16)
    assert shard.rows["target"].tolist() == [name for name in QUICK.targets for _ in range(3)]
    assert shard.rows["prompt"].tolist() == captions * 3
    assert shard.rows["index"].tolist() == [0, 1, 2] * 3
    source = source_noise(seeds, (4, 16, 16))
    assert torch.equal(shard.source_noise, source.repeat(3, 1, 1, 1))
    assert torch.equal(shard.target_noise[:3], source)
    expected = redenoise(
        model.pipeline,
        source,
        encode_prompts(model.pipeline, captions),
        Redenoise(guidance_scale=3.0, num_inference_steps=20, num_steps_down=2),
    )
    assert torch.allclose(shard.target_noise[6:], expected, atol=1e-4)
    own = shard.rows[shard.rows["target"] == "source"]
    assert own["source_score"].tolist() == own["target_score"].tolist()
    assert shard.rows["source_score"].tolist() == own["source_score"].tolist() * 3


def test_unjudged_pairs_have_the_same_noises_and_no_scores(model):
    judged, unjudged = (collect_shard(model, replace(QUICK, judged=side), 1) for side in (True, False))
    assert torch.equal(judged.target_noise, unjudged.target_noise)
    assert [*unjudged.rows.columns] == ["index", "prompt", "seed", "target"]


def test_each_verdict_is_recorded_with_its_main_fault(model):
    rows = collect_shard(model, replace(QUICK, shard_size=6, num_inference_steps=1, targets=("source",)), 0).rows
    for side in ("source", "target"):
        assert (rows[f"{side}_fault"] == "").tolist() == rows[f"{side}_right"].tolist()
        assert set(rows[f"{side}_fault"]) <= {"", *FAULTS}
    assert (rows["source_fault"] != "").any()


def test_every_judges_scores_are_recorded(model):
    judges = load_judges(["AES", "CLIPScore"])
    settings = replace(QUICK, targets=("source", "10x1"))
    rows = collect_shard(model, settings, 0, judges=judges).rows
    own, other = (rows[rows["target"] == name] for name in settings.targets)
    for name in judges.names:
        assert own[f"source_{name}"].tolist() == own[f"target_{name}"].tolist()
        assert other[f"source_{name}"].tolist() == own[f"source_{name}"].tolist()
        assert other[f"target_{name}"].tolist() != own[f"source_{name}"].tolist()


def test_a_judge_that_fails_stops_the_collection(model):
    judges = JudgeSet({"AES": lambda: 1 / 0})
    with pytest.raises(GoldenError, match="AES failed"):
        collect_shard(model, QUICK, 0, judges=judges)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "10",
            "x",
            "10x",
            "-1x1",
            "10x1@",
            "10x1@-2",
            "10x1 ",
            "source2",
            "1e3x1",
            "npnet*",
            "npnet*-1",
            "npnet2",
        ),
        *("ascent0", "ascent*2", "ascent1.5", "ascent-1", "ascent1000", "6ascent"),
    ],
)
def test_what_is_not_the_name_of_a_target_is_refused(model, name):
    with pytest.raises(InvalidInput, match="STEPSxDOWN"):
        make_target(name, model, QUICK, source_noise([0], (4, 16, 16)), {})


@pytest.mark.parametrize("name", ["source", "npnet*2", "20x1@9"])
def test_a_target_of_another_norm_starts_from_a_smaller_source(model, name):
    source, embeddings = source_noise([3], (4, 16, 16)), encode_prompts(model.pipeline, ["a star"])
    whole = make_target(name, model, QUICK, 0.7 * source, embeddings)
    assert torch.equal(make_target(f"{name}:0.7", model, QUICK, source, embeddings), whole)


def test_an_npnet_makes_targets_of_any_strength(model):
    embeddings = encode_prompts(model.pipeline, ["a star", "a heart"])
    source = source_noise([1, 2], (4, 16, 16))
    with torch.no_grad():  # as targets are made: a gain multiplies what kernels with gradients round differently
        golden = model.npnet(source, embeddings["prompt_embeds"])
    assert torch.allclose(make_target("npnet", model, QUICK, source, embeddings), golden, atol=1e-6)
    doubled = make_target("npnet*2", model, QUICK, source, embeddings)
    assert torch.allclose(doubled - source, 2 * (golden - source), atol=1e-5)


@pytest.mark.parametrize("name", ["1x1", "10x10", "10x0"])
def test_a_target_beyond_its_schedule_is_refused(model, name):
    source = source_noise([0], (4, 16, 16))
    with pytest.raises(InvalidInput, match="step"):
        make_target(name, model, QUICK, source, encode_prompts(model.pipeline, ["a star"]))


def test_the_default_target_is_the_models_own_label(model):
    source, embeddings = source_noise([0, 1], (4, 16, 16)), encode_prompts(model.pipeline, ["a star", "a heart"])
    label = ARMS["inversion"](source, Conditions(model, model.npnet, embeddings, [0, 1]))
    assert torch.equal(make_target(default_target(model.spec), model, QUICK, source, embeddings), label)
    assert default_target(find_model("sdxl")) == "10x1"


def test_a_shard_does_not_depend_on_what_was_made_before_it(model):
    # Encoded alone or beside others, a prompt is rounded otherwise.
    prompts = ["a star"] * 3 + ["a star", "a heart", "a red circle"]
    settings = replace(QUICK, targets=("10x1",))
    judges = load_judges(["HPSv2", "CLIPScore"])
    collect_shard(model, settings, 0, prompts, judges)
    after = collect_shard(model, settings, 1, prompts, judges)
    fresh = collect_shard(load_model("shapes"), settings, 1, prompts, load_judges(["HPSv2", "CLIPScore"]))
    assert torch.equal(after.target_noise, fresh.target_noise)
    pd.testing.assert_frame_equal(after.rows, fresh.rows, check_exact=True)


def test_what_the_filter_rejects_stays_with_the_reason(model):
    rows = collect_shard(model, QUICK, 0).rows
    assert rows["kept"].tolist() == rows["target_right"].tolist()  # as training does by default
    assert (rows["reason"] == "").tolist() == rows["target_right"].tolist()
    rows = collect_shard(model, replace(QUICK, filter="improved"), 0).rows
    improved = rows["target_score"] > rows["source_score"]
    assert rows["kept"].tolist() == improved.tolist()
    assert (rows["reason"] == "").tolist() == improved.tolist()
    assert not rows["kept"][rows["target"] == "source"].any()
    judges = load_judges(["AES"])
    settings = replace(QUICK, judges=("AES",), filter="AES", margin=100.0)
    rows = collect_shard(model, settings, 0, judges=judges).rows
    assert not rows["kept"].any()
    assert rows["reason"].str.match(r"AES -?\d+\.\d{3} -> -?\d+\.\d{3}$").all()


def test_a_plan_makes_the_first_shards_and_estimates_all(tmp_path, model):
    lines = plan_collection(Collection(tmp_path, replace(QUICK, targets=("10x1",)), None, 100, "cpu"))
    assert finished_shards(tmp_path) == [0, 1, 2]
    assert torch.equal(
        read_shard(tmp_path, 2).target_noise,
        collect_shard(model, replace(QUICK, targets=("10x1",)), 2).target_noise.half(),
    )
    assert lines[0].startswith("300 sources in 100 shards, targets 10x1; measured on cpu: shards of 3 took ")
    assert [line.split()[0] for line in lines[1:]] == ["time", "disk", "memory", "kept"]
    shard_bytes = sum(path.stat().st_size for path in tmp_path.iterdir()) / 3
    assert float(lines[2].split()[1]) == pytest.approx(shard_bytes * 100 / 1e9, abs=0.006)


def test_expected_pairs_come_with_an_interval():
    rows = pd.DataFrame({"index": range(100), "kept": [True] * 30 + [False] * 70})
    # Wilson's interval of 30 of 100, as any statistics text has it.
    assert describe_kept(rows, 1000) == "kept  30.0% [21.9%, 39.6%] of 100 pairs: expect 300 [219, 396] of 1000"
    twice = pd.concat([rows, rows], ignore_index=True)
    assert describe_kept(twice, 1000) == "kept  30.0% [21.9%, 39.6%] of 200 pairs: expect 600 [438, 792] of 2000"
    assert "not judged" in describe_kept(rows[["index"]], 1000)


def test_the_bar_counts_what_all_workers_made_and_tells_the_share_kept(tmp_path, model, capsys):
    shard = collect_shard(model, replace(QUICK, targets=("10x1",)), 0)
    write_shard(tmp_path, 0, shard)
    with show_progress(Collection(tmp_path, QUICK, None, 4, "cpu"), hidden=False) as on_shard:
        for index in (1, 2):  # 2 by another worker
            write_shard(tmp_path, index, shard)
        on_shard(shard)
        assert f"kept={shard.rows['kept'].mean():.1%}" in capsys.readouterr().err
        on_shard(shard)
    assert "9/12" in capsys.readouterr().err


def test_the_files_that_decide_a_data_set_are_known_by_their_hashes(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a star")
    before = describe_sources(replace(QUICK, judges=("AES",)), prompts)
    assert before["npnet"] is None
    assert describe_sources(replace(QUICK, targets=("npnet*2",)), None)["npnet"]
    prompts.write_text("a heart")
    after = describe_sources(replace(QUICK, judges=("AES",)), prompts)
    assert [name for name in before if before[name] != after[name]] == ["prompts"]
    assert len(before["judges"]["AES"]) == 64


def collect(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "train/collect_pairs.py", str(folder), *OPTIONS, *options]
    variables = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables, timeout=300)


@pytest.mark.slow
def test_two_workers_make_what_one_makes_and_damage_is_mended(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert collect(one, "--num-pairs", "4").returncode == 0
    for rank in ("1", "0"):
        done = collect(two, "--num-pairs", "4", RANK=rank, WORLD_SIZE="2", LOCAL_RANK=rank)
        assert done.returncode == 0, done.stderr
    assert finished_shards(one) == finished_shards(two) == [0, 1]
    for index in (0, 1):
        left, right = read_shard(one, index), read_shard(two, index)
        assert torch.equal(left.target_noise, right.target_noise)
        pd.testing.assert_frame_equal(left.rows, right.rows)

    before = read_shard(one, 1)
    (one / "shard-00001.safetensors").write_bytes(b"damaged")
    assert collect(one, "--num-pairs", "4").returncode == 0
    assert torch.equal(read_shard(one, 1).target_noise, before.target_noise)
    assert [path.name for path in (one / "quarantine").iterdir() if path.suffix == ".safetensors"]

    other = collect(one, "--num-pairs", "4", "--seed", "9")
    assert other.returncode == 2
    assert "seed=0, not 9" in other.stderr


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed")
def test_what_a_ray_actor_refuses_is_reported_in_one_line(tmp_path):
    done = collect(tmp_path, "--engine", "ray", "--targets", "10x10", "--num-pairs", "2", RAY_worker_niceness="0")
    assert done.returncode == 2
    assert "Of 10 steps 1 to 9 can be taken back, got 10." in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--num-pairs", "0"],
        ["--shard-size", "0"],
        ["--targets", "10x1", "10x1"],
        ["--targets", "ten"],
        ["--filter", "nope"],
        ["--num-workers", "0"],
        ["--device", "nope"],
        ["--judges", "nope"],
        ["--redenoise-solver", "euler"],
        ["--model", "nope"],
        ["--model", "sdxl+a/b"],
    ],
)
def test_bad_arguments_end_in_one_line(tmp_path, monkeypatch, capsys, options):
    monkeypatch.setattr("sys.argv", ["collect_pairs.py", str(tmp_path / "pairs"), *OPTIONS, *options])
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
