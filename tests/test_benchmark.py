"""The benchmark: rows that do not depend on interruptions, no prompt dropped silently, clear errors."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from eval import benchmark, prompt_sets, runs
from eval.answer import describe_answer
from eval.benchmark import prepare
from eval.prompt_sets import COMPBENCH, PROTOCOLS, Prompt, describe_dropped, list_names, load_prompt_set, read_rows
from eval.rendering import SEEDS_APART, Variant, plan_batches
from eval.run_benchmark import main
from eval.runs import RunFolder
from eval.sections import how_it_was_made
from eval.settings import BenchmarkSettings
from eval.suites import RANGES, SUITES
from eval.summary import (
    add_clusters,
    compare_all,
    compare_faults,
    compare_variant,
    fault_shares,
    find_faults,
    find_metrics,
    mean_of,
    means_by_category,
    preference,
)
from golden.checkers import FAULTS
from golden.errors import BadWeights, GoldenError, InvalidInput, MissingWeights, run_command
from golden.models import MODELS
from golden.noise import source_noise
from golden.shapes import HARD_CATEGORIES

ROOT = Path(__file__).resolve().parents[1]
SHARED_PROMPTS = ROOT.parent / "shared" / "prompts"

pytestmark = pytest.mark.usefixtures("tiny_embedded_model")


ARMS = ["standard", "npnet", "mismatched"]


def settings(**changes) -> BenchmarkSettings:
    """Of a small run: 5 prompts, 2 seeds, 3 arms, 2 steps, batches of 3 prompts, no judges."""
    small = BenchmarkSettings(limit=5, arms=tuple(ARMS), num_inference_steps=2, batch_size=9, judges=())
    return replace(small, **changes)


def finish(settings: BenchmarkSettings, out: Path) -> pd.DataFrame:
    result = benchmark.run_benchmark(prepare(settings), out)
    assert result is not None
    return result.rows


@pytest.fixture(scope="module")
def finished(tiny_embedded_model, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("run")
    finish(settings(), out)
    return out


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_run_has_one_row_per_prompt_seed_and_variant(finished):
    rows = pd.read_parquet(finished / "rows.parquet")
    assert len(rows) == 5 * 2 * 3
    assert rows[["prompt_index", "seed", "variant"]].duplicated().sum() == 0
    assert rows["variant"].tolist()[:3] == ARMS
    assert sorted(rows["seed"].unique()) == [0, 1]
    assert rows["category"].nunique() == 5
    assert (rows.loc[rows["variant"] == "standard", "distance"] == 0).all()
    assert (rows.loc[rows["variant"] != "standard", "distance"] > 0).all()
    assert rows["right"].dtype == bool
    assert rows["reason"].str.startswith("asked: ").all()
    assert (rows["fault"].isin(FAULTS) == ~rows["right"]).all()
    assert (rows.loc[rows["right"], "fault"] == "").all()
    assert "cluster" not in rows  # computed when they are read
    written = pd.read_csv(finished / "rows.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(written, rows, check_dtype=False)


def test_the_manifest_says_what_was_measured(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    identity, start = manifest["identity"], manifest["starts"][0]
    assert identity["model"] == "shapes"
    assert identity["prompts"]["num"] == 5
    assert identity["seeds"] == {"first": 0, "num": 2, "noise_per_prompt": True}
    assert any(name.startswith("unet/") and len(value) == 64 for name, value in identity["weights"].items())
    assert len(identity["npnet"]) == 64
    assert start["versions"]["torch"]
    assert "CPU" in start["device"]
    assert set(manifest["seconds"]["noise"]) == set(ARMS)
    assert manifest["seconds"]["sampling"].keys() == {"ddim 2 5.5"}
    assert {result["variant"] for result in manifest["results"]} == {"npnet", "mismatched"}


def test_a_finished_run_is_not_rendered_again(finished, monkeypatch):
    monkeypatch.setattr(benchmark.Renderer, "measure_batch", None)
    before = (finished / "rows.parquet").read_bytes()
    finish(settings(), finished)
    assert (finished / "rows.parquet").read_bytes() == before


def test_lost_and_damaged_parts_are_rendered_again_alike(finished, tmp_path):
    finish(settings(), tmp_path)
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) == 4  # 10 units, 3 at a time
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-20])
    pd.read_parquet(parts[3]).iloc[:-1].to_parquet(parts[3])
    with open(tmp_path / "timings-0.jsonl", "a") as file:
        file.write('\n{"part": 9, "un')  # torn by a kill
    finish(settings(), tmp_path)
    assert (tmp_path / "rows.parquet").read_bytes() == (finished / "rows.parquet").read_bytes()


def test_two_workers_make_the_rows_of_one(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert benchmark.run_benchmark(prepare(settings()), tmp_path) is None
    assert [path.stem for path in sorted((tmp_path / "parts").iterdir())] == ["00001", "00003"]
    monkeypatch.setenv("RANK", "0")
    finish(settings(), tmp_path)
    assert (tmp_path / "rows.parquet").read_bytes() == (finished / "rows.parquet").read_bytes()


LAUNCHER = """
import sys
from dataclasses import replace
import torch
from eval.run_benchmark import main
from golden.errors import run_command
from golden.models import MODELS
torch.set_num_threads(1)
MODELS["shapes"] = replace(MODELS["shapes"], repo={repo!r}, npnet={npnet!r})
run_command(lambda: main(sys.argv[1:]))
"""


def launch(folder: Path, prelude: str = "") -> list[str]:
    """The command that makes `finished`'s rows in folder/run, in a process of its own that first does `prelude`."""
    spec, launcher = MODELS["shapes"], folder / "launch.py"
    launcher.write_text(prelude + LAUNCHER.format(repo=spec.repo, npnet=spec.npnet))
    command = [sys.executable, str(launcher), "--out", str(folder / "run"), "--limit", "5", "--batch-size", "9"]
    return [*command, "--arms", *ARMS, "--num-inference-steps", "2", "--judges", "none", "--device", "cpu"]


@pytest.mark.slow
def test_a_disk_that_is_full_in_earnest_loses_no_finished_part(finished, tmp_path):
    out = tmp_path / "run"
    finish(settings(), out)
    lost = sorted((out / "parts").iterdir())[2:]
    kept = {path: path.read_bytes() for path in sorted((out / "parts").iterdir())[:2]}
    for path in [*lost, out / "rows.parquet", out / "rows.csv"]:
        path.unlink()
    limit = max(path.stat().st_size for path in (out / "manifest.json", *out.glob("timings*"))) + 1500
    assert limit < min(map(len, kept.values())), "a part must be what does not fit"
    full = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    ended = subprocess.run(launch(tmp_path, full), capture_output=True, text=True)
    assert ended.returncode == 2
    assert (
        ended.stderr.splitlines()[-1]
        == f"Cannot write to {out}: File too large. Finished parts are kept; run again to resume."
    )
    assert {path: path.read_bytes() for path in kept} == kept
    assert sorted((out / "parts").iterdir()) == [*kept]  # no half a file either
    finish(settings(), out)
    assert (out / "rows.parquet").read_bytes() == (finished / "rows.parquet").read_bytes()


@pytest.mark.slow
def test_killed_five_times_a_run_ends_with_the_same_rows(finished, tmp_path):
    command, out = launch(tmp_path), tmp_path / "run"
    rng, duration = random.Random(0), 300.0
    for index in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        if index == 0:  # the first start tells how long the others take before they render
            while not (out / "parts").exists() and time.monotonic() - started < duration:
                time.sleep(0.02)
            duration = time.monotonic() - started
        time.sleep(rng.random() * (0.5 if index == 0 else 1.3 * duration))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert (out / "rows.parquet").read_bytes() == (finished / "rows.parquet").read_bytes()


@pytest.mark.parametrize("changes", [{"num_inference_steps": 3}, {"limit": 4}, {"num_seeds": 3}, {"batch_size": 12}])
def test_other_settings_do_not_go_into_the_same_folder(finished, changes):
    with pytest.raises(InvalidInput, match=r"holds a run with .* another folder"):
        benchmark.run_benchmark(prepare(settings(**changes)), finished)


def test_images_are_kept_on_request(tmp_path):
    run = prepare(settings(limit=1, num_seeds=1, arms=("standard", "npnet")))
    benchmark.run_benchmark(run, tmp_path, keep_images=True)
    names = [path.name for path in sorted((tmp_path / "images").iterdir())]
    assert names == ["0000-0-npnet.png", "0000-0-standard.png"]


def test_batches_mix_prompts_and_go_seed_by_seed():
    prompts = [Prompt(str(index)) for index in range(5)]
    variants = [Variant(name, "standard", 20, 5.5, "ddim") for name in "ab"]
    plan = plan_batches(prompts, [3, 4], variants, batch_size=6)
    assert [len(units) for units in plan] == [3, 3, 3, 1]
    assert [(unit.prompt_index, unit.seed) for units in plan for unit in units] == [
        (index, seed) for seed in (3, 4) for index in range(5)
    ]
    slow = [*variants, Variant("c", "standard", 40, 5.5, "ddim")]  # goes through the model on its own
    assert len(plan_batches(prompts, [3, 4], slow, batch_size=6)) == 4


def test_no_two_prompts_share_a_noise(tmp_path):
    results = benchmark.run_benchmark(prepare(settings(limit=2, num_seeds=2, arms=("standard", "npnet"))), tmp_path)
    assert results.rows.groupby(["prompt_index", "seed"])["noise_seed"].unique().map(list).tolist() == [
        [0], [1], [SEEDS_APART], [SEEDS_APART + 1],
    ]  # fmt: skip
    assert "noises of its own" in str(how_it_was_made(results))
    assert describe_answer(results)["noise_per_prompt"]


@pytest.mark.parametrize("seed", [0, SEEDS_APART])
def test_the_noise_is_that_of_its_seed(seed, tmp_path):
    """The first prompt's first noise and the second's are those that the app and the library draw from these seeds."""
    run = prepare(settings(limit=2, num_seeds=1, arms=("standard",)))
    units = [unit for batch in run.batches for unit in batch.units if unit.noise_seed == seed]
    start = run.renderer.start(units)
    assert len(units) == 1
    assert torch.equal(start.source, source_noise([seed], start.source.shape[1:]))


def test_ranges_of_seeds_stay_ranges():
    """Prompts take the seeds of a range one after the other."""
    run = prepare(settings(suite="seeds", limit=3))
    seeds = [unit.noise_seed for batch in run.batches for unit in batch.units]
    assert seeds == [start + place for start in RANGES for place in range(3)]


def test_a_run_whose_prompts_shared_noises_is_not_continued(tmp_path):
    """Such as those of version 0.10 and earlier."""
    few = settings(limit=2, num_seeds=2, arms=("standard", "npnet"))
    benchmark.run_benchmark(prepare(few), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["identity"]["seeds"]["noise_per_prompt"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match="seeds"):
        benchmark.run_benchmark(prepare(few), tmp_path)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    write_bytes, written = runs.write_bytes, []

    def write_until_full(path: Path, data: bytes) -> None:
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write_bytes(path, data)

    monkeypatch.setattr(runs, "write_bytes", write_until_full)
    with pytest.raises(GoldenError, match=r"No space left on device\. Finished parts are kept"):
        benchmark.run_benchmark(prepare(settings()), tmp_path)
    assert len(list((tmp_path / "parts").iterdir())) == 2
    assert RunFolder(tmp_path).read_manifest()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GoldenError, match="Cannot write to"):
        benchmark.run_benchmark(prepare(settings()), tmp_path / "file" / "run")


def test_a_damaged_manifest_is_not_overwritten(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InvalidInput, match="is damaged"):
        benchmark.run_benchmark(prepare(settings()), tmp_path)
    assert (tmp_path / "manifest.json").read_text() == "{"


def test_a_judge_without_weights_is_reported_before_the_first_image(monkeypatch, tmp_path):
    monkeypatch.setattr("golden.judges.loading.ASSETS", tmp_path)
    monkeypatch.setattr(benchmark, "load_model", None)
    with pytest.raises(GoldenError, match="PickScore"):
        prepare(settings(judges=("PickScore",)))
    with pytest.raises(InvalidInput, match="Unknown judge 'Bob'"):
        prepare(settings(judges=("Bob",)))


def test_an_npnet_that_is_missing_is_reported_before_the_first_image(monkeypatch, tmp_path):
    (tmp_path / "npnet.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadWeights, match="npnet"):
        prepare(settings(npnet=str(tmp_path / "npnet.safetensors")))
    monkeypatch.setitem(MODELS, "shapes", replace(MODELS["shapes"], npnet=None))
    with pytest.raises(MissingWeights, match="no NPNet"):
        prepare(settings())


def test_a_model_without_a_checker_needs_judges(tiny_sdxl_folder, tmp_path):
    (tmp_path / "p.txt").write_text("a dog\n")
    with pytest.raises(InvalidInput, match="choose judges with --judges"):
        prepare(settings(model=tiny_sdxl_folder, prompts=tmp_path / "p.txt"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--suite", "nope"],
        ["--arms", "standard", "nope"],
        ["--arms", "npnet"],
        ["--suite", "steps", "--arms", "standard", "random"],
        ["--model", "nope"],
        ["--num-seeds", "0"],
        ["--num-seeds", "two"],
        ["--first-seed", "-1"],
        ["--batch-size", "0"],
        ["--limit", "0"],
        ["--num-inference-steps", "100000"],
        ["--guidance-scale", "nan"],
        ["--sampler", "nope"],
        ["--prompts", "nowhere.txt"],
        ["--prompt-set", "drawbench"],
        ["--prompt-set", "nope"],
        ["--prompt-set", "shapes-553", "--prompts", "nowhere.txt"],
        ["--device", "toaster"],
        ["--memory", "some"],
        ["--judges", "nope"],
    ],
)
def test_bad_arguments_end_with_one_line_and_code_2(arguments, tmp_path, capsys):
    base = ["--limit", "2", "--device", "cpu"]
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: main([*base, "--out", str(tmp_path / "run"), *arguments]))
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_command_line_prints_the_table(tmp_path, capsys):
    arguments = ["--limit", "2", "--device", "cpu", "--out", str(tmp_path)]
    arguments += ["--num-inference-steps", "2", "--arms", "standard", "npnet", "--judges", "none"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "2 prompts x 2 seeds x 2 variants = 8 images" in printed
    assert "npnet against standard" in printed
    assert "win rate" in printed
    assert "takes at least 8 different prompts" in printed
    assert {path.name for path in tmp_path.iterdir()} >= {"report.html", "report.md", "tables.tex", "rows.csv", "plots"}


def test_an_arm_without_a_baseline_is_refused_in_one_sentence():
    with pytest.raises(InvalidInput, match=r"^Every arm is compared with standard: add it to --arms, got npnet\.$"):
        prepare(settings(arms=("npnet",)))


def test_without_arguments_the_suites_are_listed_and_nothing_starts(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "prepare", None)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed and suite.source in printed for name, suite in SUITES.items())


# --- prompts ----------------------------------------------------------------------------------------------------------


def read(tmp_path: Path, name: str, content: str | bytes) -> list[str]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row.text for row in read_rows(path)]


def test_prompts_are_read_from_every_kind_of_file(tmp_path):
    assert read(tmp_path, "a.txt", "a cat\n\na dog\r\n") == ["a cat", "", "a dog"]
    assert read(tmp_path, "a.csv", '\ufeffPrompts,Category\n"a cat, sitting",x\n') == ["a cat, sitting"]
    assert read(tmp_path, "b.csv", "no,caption,zh\n0,a cat, sitting, there\n1,a dog\n") == [
        "a cat, sitting, there",
        "a dog",
    ]
    assert read(tmp_path, "a.jsonl", '{"prompt": "a cat", "tag": "x"}\n\n{"prompt": null}\n') == ["a cat", "", ""]
    assert read_rows(tmp_path / "a.jsonl")[0].category == "x"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "name,age\nx,1\n", "no column of prompts"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("a.jsonl", "{\n", "Line 1 of a.jsonl is not JSON"),
        ("a.jsonl", "[1]\n", "must be an object"),
        ("a.jsonl", '{"prompt": 3}\n', "must be text, got int"),
        ("a.jsonl", '{"words": "x"}\n', "no column of prompts"),
        ("a.jsonl", "[" * 100_000, "is not JSON"),
        ("a.parquet", "x", "are read from .csv"),
        ("a.csv", "prompt\n" + "x" * 200_000, "not a readable CSV"),
    ],
)
def test_a_broken_prompt_file_is_one_sentence(tmp_path, name, content, message):
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, name, content)


def test_dropped_rows_are_counted_and_listed(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("a red circle\n\n a  red circle\na dog\n" + "a " * 1001 + "\na star\n")
    chosen = load_prompt_set("own", path, MODELS["shapes"])
    assert [prompt.text for prompt in chosen.prompts] == ["a red circle", "a star"]
    assert [(row.row, row.reason) for row in chosen.dropped] == [
        (1, "empty"),
        (2, "repeated"),
        (3, "outside the shapes world"),
        (4, "over 2000 characters"),
    ]
    assert describe_dropped(chosen.dropped).startswith("4 rows dropped: 1 empty")
    path.write_text("a dog\n")
    with pytest.raises(InvalidInput, match=r"No prompt of .* can be used: 1 row dropped: 1 outside"):
        load_prompt_set("own", path, MODELS["shapes"])


def test_a_limit_keeps_the_share_of_each_category():
    prompts = load_prompt_set("shapes-553", None, MODELS["shapes"])
    assert len(prompts.prompts) == 553
    counts = pd.Series([prompt.category for prompt in prompts.limit(55).prompts]).value_counts()
    assert counts.to_dict() == pytest.approx(
        {"single_object": 8, "two_object": 10, "counting": 8, "colors": 9, "position": 10, "color_attr": 10}, abs=1
    )
    assert prompts.limit(None) is prompts
    assert prompts.limit(9999) is prompts


def test_the_hard_set_is_listed_if_it_is_there(monkeypatch, tmp_path):
    path = tmp_path / "hard.jsonl"
    monkeypatch.setitem(prompt_sets.TEST_SETS, "shapes-hard-400", path)
    assert "shapes-hard-400" not in list_names()
    with pytest.raises(InvalidInput, match="Unknown prompt set 'shapes-hard-400'"):
        load_prompt_set("shapes-hard-400", None, MODELS["shapes"])
    path.write_text('{"prompt": "three stars and two hearts", "category": "two_counting"}\n')
    assert list_names()[:2] == ("shapes-553", "shapes-hard-400")
    assert load_prompt_set("shapes-hard-400", None, MODELS["shapes"]).categories == ("two_counting",)


@pytest.mark.skipif("shapes-hard-400" not in list_names(), reason="the hard set is not embedded here")
def test_the_hard_set_has_the_hard_categories_in_equal_shares():
    prompts = load_prompt_set("shapes-hard-400", None, MODELS["shapes"])
    counts = pd.Series([prompt.category for prompt in prompts.prompts]).value_counts()
    assert counts.to_dict() == dict.fromkeys(HARD_CATEGORIES, 100)


@pytest.mark.skipif(not SHARED_PROMPTS.is_dir(), reason=f"no public prompt files at {SHARED_PROMPTS}")
@pytest.mark.parametrize(
    ("name", "file", "first", "num_dropped"),
    [
        ("pick-a-pic", "pickscore.csv", "A curious cat exploring a haunted mansion", 1),
        ("drawbench", "drawbench.csv", "A red colored car.", 0),
        (
            "hpd",
            "HPD_prompt.csv",
            "Dwayne the Rock Johnson wrestles Jesus Christ in a WWE match in a hell in a cell.",
            0,
        ),
        ("geneval", "geneval.jsonl", "a photo of a bench", 0),
    ],
)
def test_public_prompt_sets_are_used_as_the_paper_does(name, file, first, num_dropped):
    chosen = load_prompt_set(name, SHARED_PROMPTS / file, MODELS["sdxl"])
    assert chosen.prompts[0].text == first
    assert len(chosen.prompts) == PROTOCOLS[name].num_prompts
    assert len(chosen.dropped) == num_dropped


def test_compbench_has_a_file_for_each_category(tmp_path):
    for category in COMPBENCH:
        (tmp_path / f"{category}_val.txt").write_text(f"a {category} lamp\na lamp\n")
    (tmp_path / "color_train.txt").write_text("not this one\n")
    chosen = load_prompt_set("t2i-compbench", tmp_path, MODELS["sdxl"])
    assert {prompt.category: prompt.text for prompt in chosen.prompts[1:]} == {
        category: "a lamp" if category == "color" else f"a {category} lamp" for category in COMPBENCH
    }
    assert describe_dropped(chosen.dropped) == "5 rows dropped: 5 repeated"
    (tmp_path / "complex_val.txt").unlink()
    with pytest.raises(InvalidInput, match=r"There is no file of prompts at .*complex_val\.txt"):
        load_prompt_set("t2i-compbench", tmp_path, MODELS["sdxl"])


# --- figures ----------------------------------------------------------------------------------------------------------


def make_rows(gain: float = 0.1, num_prompts: int = 200, num_seeds: int = 3) -> pd.DataFrame:
    """Rows of two variants, of which `npnet` is right more often by `gain`, and a judge that agrees with the check."""
    rng = np.random.default_rng(1)
    rows = [
        {
            "prompt_index": prompt,
            "category": "even" if prompt % 2 == 0 else "odd",
            "prompt": str(prompt),
            "seed": seed,
            "variant": variant,
            "arm": variant,
            "distance": 0.0,
            "right": bool(rng.random() < 0.5 + gain * (variant == "npnet")),
            "score": 1.0,
            "reason": "",
        }
        for prompt in range(num_prompts)
        for seed in range(num_seeds)
        for variant in ("standard", "npnet")
    ]
    table = pd.DataFrame(rows)
    return table.assign(Judge=table["right"] + rng.normal(0, 0.1, len(table)))


VARIANTS = [Variant(name, name, 20, 5.5, "ddim") for name in ("standard", "npnet")]


def test_effects_are_paired_by_prompt_and_seed():
    rows = make_rows().sample(frac=1, random_state=0)  # whatever the order
    right, judge = compare_all(rows, VARIANTS)
    wide = rows.pivot(index=["prompt_index", "seed"], columns="variant", values="right").astype(int)
    difference = wide["npnet"] - wide["standard"]
    assert right.difference.value == pytest.approx(difference.mean())
    assert right.difference.low < 0.1 < right.difference.high
    assert right.difference.excludes_zero
    assert (right.wins.wins, right.wins.ties, right.wins.losses) == (
        (difference > 0).sum(),
        (difference == 0).sum(),
        (difference < 0).sum(),
    )
    assert right.rate.value == pytest.approx((difference > 0).mean())
    assert right.num_prompts == 200
    assert judge.metric == "Judge"
    assert judge.wins.ties == 0


def test_categories_are_compared_on_their_own():
    rows = make_rows()
    table = means_by_category(rows, "right")
    assert list(table.columns) == ["all", "even", "odd"]
    assert table.loc["npnet", "even"] == pytest.approx(
        rows[(rows["variant"] == "npnet") & (rows["category"] == "even")]["right"].mean()
    )
    (effect, _) = compare_variant(rows, "npnet", "standard", ["right", "Judge"], "odd")
    assert effect.num_prompts == 100


def test_judges_are_corrected_for_being_several_and_the_check_is_not():
    rows = make_rows().assign(Other=lambda table: np.random.default_rng(2).normal(size=len(table)))
    effects = {effect.metric: effect for effect in compare_all(rows, VARIANTS)}
    assert effects["right"].p_holm == effects["right"].p_value
    assert effects["Judge"].p_holm == pytest.approx(min(1, 2 * effects["Judge"].p_value))


def test_a_preference_is_the_mean_probability_of_the_pair():
    rows = make_rows(num_prompts=3, num_seeds=1)
    scores = rows.pivot(index="prompt_index", columns="variant", values="Judge")
    expected = torch.tensor(scores[["npnet", "standard"]].to_numpy()).softmax(dim=1)[:, 0].mean()
    assert preference(rows, "npnet", "standard", "Judge") == pytest.approx(float(expected))
    assert preference(rows, "standard", "standard", "Judge") == 0.5


# --- clusters, few prompts, faults ------------------------------------------------------------------------------------


def test_prompts_that_ask_for_the_same_are_one_cluster():
    prompts = ["a star left of a heart", "a picture of a heart right of a star.", "a heart", "one heart", "a red heart"]
    rows = pd.DataFrame({"prompt_index": range(5), "prompt": prompts}).sample(frac=1, random_state=3)
    shapes = add_clusters(rows, "shapes").sort_values("prompt_index")
    assert shapes["cluster"].tolist() == [0, 0, 1, 1, 2]
    assert add_clusters(rows, None).sort_values("prompt_index")["cluster"].tolist() == [0, 1, 2, 3, 4]


def test_clusters_widen_the_interval_and_prompts_alone_change_nothing():
    rows = make_rows(num_prompts=40)
    right, _ = compare_all(rows, VARIANTS)
    alone, _ = compare_all(add_clusters(rows, None), VARIANTS)
    assert alone == right
    # Every prompt twice in other words: twice the images, no more evidence.
    again = pd.concat([rows, rows.assign(prompt_index=rows["prompt_index"] + 40)])
    doubled, _ = compare_all(again.assign(cluster=again["prompt_index"] % 40), VARIANTS)
    pretended, _ = compare_all(again, VARIANTS)
    width = doubled.difference.high - doubled.difference.low
    assert width == pytest.approx(right.difference.high - right.difference.low, rel=0.1)
    assert width > 1.3 * (pretended.difference.high - pretended.difference.low)
    assert doubled.num_prompts == 80
    assert doubled.p_value == right.p_value


@pytest.mark.parametrize(("num_prompts", "has_interval"), [(7, False), (8, True)])
def test_fewer_than_eight_prompts_give_no_interval(num_prompts, has_interval):
    rows = make_rows(num_prompts=num_prompts)
    for effect in compare_all(rows, VARIANTS):
        assert np.isfinite([effect.difference.low, effect.rate.high]).all() == has_interval
        assert np.isfinite(effect.difference.value)
        assert has_interval or not effect.difference.excludes_zero
    assert np.isfinite(mean_of(rows, "npnet", "Judge").low) == has_interval


def test_wrong_images_are_counted_by_their_main_fault():
    rows = make_rows(num_prompts=100)
    rng = np.random.default_rng(4)
    faults = np.where(rng.random(len(rows)) < 0.7, "count", "colour")
    rows = rows.assign(fault=np.where(rows["right"], "", faults))
    assert "fault" not in find_metrics(rows)
    assert find_faults(rows) == ["count", "colour"]  # the order of FAULTS
    shares = fault_shares(rows)
    right = rows.groupby("variant")["right"].mean()
    assert (shares.sum(axis=1) + right[shares.index]).to_numpy() == pytest.approx(1)
    found = compare_faults(rows, "npnet", "standard")
    for fault, interval in found.items():
        assert interval.value == pytest.approx(shares.loc["npnet", fault] - shares.loc["standard", fault])
        assert interval.low < interval.value < interval.high
    assert find_faults(make_rows(num_prompts=2)) == []  # of a run before there were faults


def test_seconds_of_an_earlier_version_are_read(tmp_path):
    (tmp_path / "timings-0.jsonl").write_text(
        '\n{"part": 0, "units": 3, "noise": {"npnet": 1.0}, "denoise": {"ddim 2 5.5": 4.0, "dpm 2 5.5": 2.0}, '
        '"decode": 1.0, "measure": 0.5}\n{"part": 1, "units": 3, "noise": {}, "sampling": {"ddim 2 5.5": 1.0}, '
        '"measuring": 0.5}'
    )
    seconds = benchmark.sum_seconds(RunFolder(tmp_path).read_timings())
    assert seconds == {
        "noise": {"npnet": 1.0},
        "sampling": {"ddim 2 5.5": 5.5, "dpm 2 5.5": 2.5},
        "measuring": 1.0,
    }
