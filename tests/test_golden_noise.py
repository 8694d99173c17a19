"""The suite golden-noise: every noise against standard under every sampling, and choosing among rendered images."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from eval import benchmark
from eval.answer import describe_answer
from eval.benchmark import prepare
from eval.golden_noise import ATOMS, SIGNIFICANT, all_noises, compare_noises, tabulate
from eval.rendering import Variant
from eval.report import write_joint_report, write_report
from eval.results import Results
from eval.run_benchmark import main
from eval.settings import BenchmarkSettings
from eval.suites import SUITES, SuiteSettings
from golden.models import MODELS, RewardSettings
from golden.verifier import make_verifier, save_verifier
from tests.test_report import make_results

LABELS = ("standard", "best_norm", "npnet", "ascent")


def make_variants(sampler: str, steps: int) -> list[Variant]:
    label = f"{sampler} {steps}"
    names = {name: f"{name}, {label}" for name in (*LABELS, "by pairs")}
    made = [Variant(names[arm], arm, steps, 5.5, sampler, baseline=names["standard"]) for arm in LABELS]
    return [*made, replace(made[2], name=names["by pairs"], npnet="by pairs")]


VARIANTS = [*make_variants("ddim", 20), *make_variants("dpm", 4)]


@pytest.fixture(scope="module")
def results() -> Results:
    """12 prompts x 3 seeds; ascent on every other prompt; some seeds of a prompt lie closer together with npnet."""
    with pytest.MonkeyPatch.context() as patch:  # effects take long, and are tested elsewhere
        patch.setattr("tests.test_report.compare_all", lambda *given: [])
        results = make_results("golden-noise", VARIANTS, num_prompts=12)
    limited = [replace(v, num_prompts=6) if v.arm == "ascent" else v for v in VARIANTS]
    missing = results.rows["variant"].str.startswith("ascent") & (results.rows["prompt_index"] % 2 == 1)
    rows = results.rows.assign(score=np.where(results.rows["right"], 1.0, 0.5))
    layouts = np.where(results.rows["variant"].str.startswith("npnet"), '[["star", 0.5, 0.5]]', "")
    layouts = [text or f'[["star", {0.2 * (seed + 1)}, 0.5]]' for text, seed in zip(layouts, rows["seed"], strict=True)]
    extras = results.extras.assign(layout=layouts)
    results = replace(results, variants=limited, rows=rows[~missing], extras=extras[~missing])
    return replace(results, noises=compare_noises(results))


@pytest.fixture(scope="module")
def noises(results):
    return {(noise.label, noise.sampling.sampler): noise for noise in results.noises}


def test_differences_are_those_of_the_pairs(results, noises):
    noise = noises["npnet", "ddim"]
    own, standard = (results.rows[results.rows["variant"] == f"{name}, ddim 20"] for name in ("npnet", "standard"))
    assert noise.differences["right"].value == pytest.approx(own["right"].mean() - standard["right"].mean())
    assert noise.differences[ATOMS].value == pytest.approx(own["score"].mean() - standard["score"].mean())
    assert noise.means["right"] == pytest.approx(own["right"].mean())
    assert sum(noise.faults.values()) == pytest.approx(1 - own["right"].mean())
    assert not noises["standard", "ddim"].differences


def test_a_limited_arm_is_compared_on_its_own_prompts_and_says_so(results, noises):
    noise = noises["ascent", "ddim"]
    assert noise.num_prompts == 6
    standard = results.rows[(results.rows["variant"] == "standard, ddim 20") & (results.rows["prompt_index"] % 2 == 0)]
    assert noise.means["right"] - noise.differences["right"].value == pytest.approx(standard["right"].mean())
    tables = [block for block in all_noises(results).blocks if "gain" in block.title]
    rows = [dict(zip(table.header, row, strict=True)) for table in tables for row in table.body]
    assert {row["prompts"] for row in rows if row["noise"] == "ascent"} == {"6"}


def test_a_gain_over_the_best_norm_is_the_difference_of_two_gains(noises):
    npnet, norm = noises["npnet", "dpm"], noises["best_norm", "dpm"]
    expected = npnet.differences["right"].value - norm.differences["right"].value
    assert npnet.over_norm.value == pytest.approx(expected)
    assert norm.over_norm is None


def test_the_oracle_takes_a_right_image_wherever_there_is_one(results, noises):
    oracle, judged = (noises[f"best of 2 rendered {name}", "ddim"] for name in ("by the checker (oracle)", "by HPSv2"))
    standard = results.rows[results.rows["variant"] == "standard, ddim 20"]
    share = standard.groupby("prompt_index")["right"].mean()
    both_wrong = (3 * (1 - share)) * (3 * (1 - share) - 1) / 6  # of two drawn from three seeds
    assert oracle.means["right"] == pytest.approx((1 - both_wrong).mean())
    assert judged.means["HPSv2"] > oracle.means["HPSv2"]
    assert oracle.means["right"] > judged.means["right"]
    assert oracle.seconds == pytest.approx(2 * noises["standard", "ddim"].seconds)
    assert sum(oracle.faults.values()) == pytest.approx(1 - oracle.means["right"])
    assert ("best of 4 rendered by HPSv2", "ddim") not in noises


def test_p_values_are_corrected_over_all_noises_and_samplings(noises):
    tested = [noise for noise in noises.values() if noise.differences]
    assert len(tested) == 2 * (4 + 2)
    smallest = min(tested, key=lambda noise: noise.p)
    assert smallest.p_holm == pytest.approx(min(1.0, len(tested) * smallest.p))
    assert all(noise.p_holm >= noise.p for noise in tested)


def test_diversity_stands_beside_the_gain(results, noises):
    assert noises["npnet", "ddim"].diversity["layout"].value == 0
    assert noises["best_norm", "ddim"].diversity["layout"].value == 1
    assert 0.5 < noises["npnet", "ddim"].diversity["features"].value < 2


def test_the_overview_has_a_row_a_noise_and_a_column_a_sampling(results, noises):
    overview = all_noises(results).blocks[0]
    assert overview.header == ["noise", "dpm, 4 steps", "ddim, 20 steps"]
    assert [row[0] for row in overview.body][:5] == ["standard", "best_norm", "npnet", "ascent", "by pairs"]
    for i, (label, *_) in enumerate(overview.body):
        for j, sampler in enumerate(("dpm", "ddim"), start=1):
            assert ((i, j) in overview.bold) == (noises[label, sampler].p_holm < SIGNIFICANT)


def test_every_figure_is_in_one_file(results, noises, tmp_path):
    printed = write_report(results, tmp_path)
    assert "best of 2 rendered by the checker (oracle)" in printed
    headings = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[:2] == ["## Every way to better noise", "## The result"]
    assert "| npnet, ddim 20 |" in (tmp_path / "report.md").read_text()
    assert "| npnet, dpm 4 |" not in (tmp_path / "report.md").read_text()  # of the first sampling alone
    table = pd.read_csv(tmp_path / "comparisons.csv")
    assert set(table["noise"]) == {label for label, _ in noises}
    row = table.query("noise == 'npnet' and sampling == 'dpm, 4 steps' and metric == 'HPSv2'").iloc[0]
    assert row["difference"] == pytest.approx(noises["npnet", "dpm"].differences["HPSv2"].value)
    assert row["p_holm"] == pytest.approx(noises["npnet", "dpm"].judges_p["HPSv2"])
    assert {"atoms", "seconds", "right over best norm", "CLIP distance / standard"} <= set(table["metric"])


def test_two_prompt_sets_make_one_report(results, tmp_path):
    write_joint_report([results, replace(results, prompts="hard")], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "## On shapes-553" in text
    assert "## On hard" in text
    assert set(pd.read_csv(tmp_path / "comparisons.csv")["prompts"]) == {"shapes-553", "hard"}


def test_without_a_checker_the_first_judge_leads(results):
    judged = replace(results, rows=results.rows.drop(columns=["right", "score", "fault"]))
    found = compare_noises(judged)
    judged = replace(judged, noises=found)
    assert not any("oracle" in noise.label for noise in found)
    assert any(noise.label == "best of 2 rendered by HPSv2" for noise in found)
    assert all_noises(judged).blocks[0].title == f"{judged.metrics[0]}, difference from standard"
    assert not any(noise.faults or ATOMS in noise.means for noise in found)
    assert "atoms" not in set(tabulate(judged)["metric"])


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan(spec=MODELS["shapes"], **settings):
    bare = replace(spec, verifier=None, best_norm=1.0)
    return SUITES["golden-noise"].make_plan(bare, SuiteSettings(**settings))


def test_what_a_model_lacks_is_left_out_in_a_sentence(tmp_path):
    bare = plan()
    assert {variant.arm for variant in bare.variants} == {
        *("standard", "inversion", "random", "mismatched", "norm", "npnet")
    }
    assert "ascent (there is no verifier)" in bare.left_out
    assert "best_norm (it is 1)" in bare.left_out
    (tmp_path / "verifier").write_bytes(b"")
    spec = replace(MODELS["shapes"], best_norm=0.85, verifier=str(tmp_path / "verifier"))
    whole = SUITES["golden-noise"].make_plan(spec, SuiteSettings())
    assert not whole.left_out
    assert {"best_norm", "ascent", "select_64"} <= {variant.arm for variant in whole.variants}
    turbo = plan(MODELS["sdxl-turbo"])
    assert "inversion (it generates without guidance)" in turbo.left_out
    assert "npnet (there is no NPNet)" in turbo.left_out
    assert "npnet" in {variant.arm for variant in plan(MODELS["sdxl-turbo"], npnet="some.safetensors").variants}


def test_the_models_own_sampling_comes_first_and_one_that_is_given_alone():
    samplings = list(dict.fromkeys((v.sampler, v.num_inference_steps) for v in plan().variants))
    assert samplings == [("ddim", 20), ("dpm", 4), ("dpm", 8), ("ddim", 50)]
    assert {v.num_inference_steps for v in plan(num_inference_steps=7).variants} == {7}
    flow = list(dict.fromkeys((v.sampler, v.num_inference_steps) for v in plan(MODELS["sd3.5-medium"]).variants))
    assert flow == [("flow_euler", 4), ("flow_euler", 8), ("flow_euler", 20), ("flow_euler", 50)]


def test_further_npnets_are_compared_under_their_names():
    made = plan(npnets=(("by pairs", "a.safetensors"), ("by ascent", "b.safetensors")))
    assert {name: recipe.file for name, recipe in made.networks.items()} == {
        "by pairs": "a.safetensors",
        "by ascent": "b.safetensors",
    }
    own = [variant for variant in made.variants if variant.npnet == "by ascent"]
    assert [variant.baseline for variant in own] == [
        f"standard, {label}" for label in ("ddim 20", "dpm 4", "dpm 8", "ddim 50")
    ]


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def verified(tiny_embedded_model, tiny_model, tmp_path, monkeypatch):
    """The tiny embedded model with a file of a verifier and a best norm."""
    save_verifier(tmp_path / "verifier.safetensors", make_verifier(tiny_model.pipeline, hidden=8))
    changed = {"verifier": str(tmp_path / "verifier.safetensors"), "best_norm": 0.8}
    monkeypatch.setitem(MODELS, "shapes", replace(MODELS["shapes"], reward=RewardSettings(num_steps=1), **changed))


def test_a_run_measures_ascent_on_fewer_prompts_and_resumes(verified, tiny_npnet_file, tmp_path):
    settings = BenchmarkSettings(
        suite="golden-noise",
        arms=("standard", "best_norm", "npnet", "ascent", "select_4"),
        npnets=(f"again={tiny_npnet_file}",),
        limit=4,
        limit_costly=2,
        num_seeds=2,
        num_inference_steps=2,
        batch_size=10,
        judges=(),
    )
    results = benchmark.run_benchmark(prepare(settings), tmp_path / "run")
    counts = results.rows["variant"].value_counts().to_dict()
    assert counts == {f"{name}, ddim 2": 8 for name in ("standard", "best_norm", "npnet", "again", "select_4")} | {
        "ascent, ddim 2": 4
    }
    assert results.left_out == "Measured on 2 of the 4 prompts: ascent."
    assert min(results.seconds_per_image().values()) > 0
    rows = results.rows.set_index("variant")
    assert rows.loc["again, ddim 2", "distance"].tolist() == rows.loc["npnet, ddim 2", "distance"].tolist()
    assert rows.loc["best_norm, ddim 2", "distance"].to_numpy() == pytest.approx(0.2, abs=0.05)
    assert results.extras["layout"].str.startswith("[").all()
    identity = results.manifest["identity"]
    assert (len(identity["verifier"]), identity["best_norm"], identity["reward"]["num_steps"]) == (64, 0.8, 1)

    answer = describe_answer(results)
    assert set(answer["arms"]) == {"standard", "best_norm", "npnet", "again", "select_4"}  # ascent saw other prompts
    right = results.rows.groupby("variant")["right"].mean()
    assert answer["arms"]["standard"]["right"] == pytest.approx(right["standard, ddim 2"])
    assert answer["arms"]["npnet"]["right"] == pytest.approx(right["npnet, ddim 2"])

    before = pd.read_parquet(tmp_path / "run" / "rows.parquet")
    for path in sorted((tmp_path / "run" / "parts").iterdir())[::2]:
        path.unlink()
    benchmark.run_benchmark(prepare(settings), tmp_path / "run")
    # Sums in a backward pass are rounded anew, so that ascent's noise may differ in the last digits.
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run" / "rows.parquet"), before, rtol=1e-5)


@pytest.mark.usefixtures("tiny_embedded_model")
def test_one_command_measures_two_prompt_sets(tmp_path):
    arguments = ["--suite", "golden-noise", "--prompt-set", "shapes-553", "shapes-hard-400", "--limit", "2"]
    arguments += ["--num-seeds", "1", "--num-inference-steps", "2", "--arms", "standard", "npnet", "--judges", "none"]
    assert main([*arguments, "--device", "cpu", "--out", str(tmp_path)]) == 0
    for folder in (tmp_path, tmp_path / "shapes-553", tmp_path / "shapes-hard-400"):
        assert (folder / "report.html").is_file()
        assert (folder / "comparisons.csv").is_file()
    answers = [
        json.loads((tmp_path / name / "answer.json").read_text()) for name in (".", "shapes-553", "shapes-hard-400")
    ]
    assert answers[0] == answers[1] | {"others": [answers[2]]}
    assert set(pd.read_csv(tmp_path / "comparisons.csv")["prompts"]) == {"shapes-553", "shapes-hard-400"}


@pytest.mark.usefixtures("tiny_embedded_model")
def test_the_suite_of_norms_scales_the_source_noise(tmp_path):
    settings = BenchmarkSettings(suite="norms", limit=2, num_seeds=1, num_inference_steps=1, judges=())
    results = benchmark.run_benchmark(prepare(settings), tmp_path)
    distances = results.rows.groupby("variant")["distance"].mean()
    assert distances["standard"] == 0
    assert distances["norm 0.6"] == pytest.approx(4 * distances["norm 0.9"], rel=1e-4)
    assert len(distances) == 11
    write_report(results, tmp_path)
    assert "times the source noise" in (tmp_path / "report.md").read_text()
