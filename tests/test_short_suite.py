"""The Benchmark tab's short suite and its list of finished reports."""

import math
import os
from dataclasses import astuple, replace
from pathlib import Path

import pandas as pd
import pytest

from eval import short_suite as suites
from eval.prompt_sets import SHAPES, load_prompt_set
from eval.words import COUNTING
from golden.errors import InvalidInput
from golden.models import MODELS
from golden.request import CompareRequest

# Past the 80 single objects, which ask for few different things.
PROMPTS = [prompt.text for prompt in load_prompt_set(SHAPES, None, MODELS["shapes"]).prompts][80:]
BASE = CompareRequest(prompt="a star", seed=5, num_inference_steps=2, guidance_scale=4.0, sampler="euler", strength=0.5)


def test_every_arm_is_measured_against_standard_under_the_same_settings(tiny_shapes, tiny_judges):
    suite = suites.plan_suite(BASE, ["npnet", "random"], 4, 2, tiny_shapes.spec)
    parts = list(suites.run_suite(suite, tiny_shapes, tiny_judges))
    rows = pd.concat(parts)
    assert len(parts) == len(suite.batches) == 2
    assert len(rows) == 4 * 2 * 3
    assert sorted(rows["seed"].unique()) == [5, 6]
    assert list(rows["variant"].unique()) == ["standard", "golden", "random change"]
    assert {astuple(variant.sampling) for variant in suite.variants} == {("euler", 2, 4.0)}
    assert all(variant.strength == 0.5 for variant in suite.variants)
    assert {"right", "fault", *tiny_judges.names} <= set(rows)
    assert not {"thumbnail", "features"} & set(rows)
    outcome = suites.summarise(rows, suite)
    assert [table.title for table in outcome.tables] == ["golden against standard", "random change against standard"]
    assert [len(table.body) for table in outcome.tables] == 2 * [1 + len(tiny_judges.names)]
    assert [gain.arm for gain in outcome.gains] == ["golden", "random change"]


def test_the_model_is_free_between_two_batches(tiny_shapes):
    suite = suites.plan_suite(BASE, ["npnet"], 8, 1, tiny_shapes.spec)
    for _ in suites.run_suite(suite, tiny_shapes):
        assert not tiny_shapes.lock.locked()


@pytest.mark.parametrize(
    ("arms", "num_prompts", "num_seeds", "words"),
    [
        ([], 4, 1, "Choose 1 to 4 arms"),
        (["standard"], 4, 1, "Choose 1 to 4 arms"),
        ("npnet", 4, 1, "Choose 1 to 4 arms"),
        (["npnet", "npnet"], 4, 1, "Each arm can be compared only once"),
        (["bogus"], 4, 1, "Unknown arm 'bogus'"),
        ([{"a": 1}], 4, 1, "Unknown arm"),
        (["npnet"], 2**40, 1, "number of prompts must be"),
        (["npnet"], 4.5, 1, "number of prompts must be"),
        (["npnet"], 4, float("nan"), "number of seeds must be"),
        (["npnet"], 4, True, "number of seeds must be"),
    ],
)
def test_bad_plans_are_refused(tiny_shapes, arms, num_prompts, num_seeds, words):
    with pytest.raises(InvalidInput, match=words):
        suites.plan_suite(BASE, arms, num_prompts, num_seeds, tiny_shapes.spec)


def test_the_last_seed_is_checked_too(tiny_shapes):
    with pytest.raises(InvalidInput, match="The seed must be"):
        suites.plan_suite(replace(BASE, seed=2**32 - 1), ["npnet"], 4, 2, tiny_shapes.spec)


def test_only_the_shapes_world_has_a_short_suite(tiny_model):
    with pytest.raises(InvalidInput, match="no short suite"):
        suites.plan_suite(BASE, ["npnet"], 4, 1, tiny_model.spec)


def make_rows(num_prompts: int, prompts_won: int) -> pd.DataFrame:
    """Two seeds a prompt; golden noise alone is right with both seeds of the prompts it wins."""
    names = {"standard": lambda index: False, "golden": lambda index: index < prompts_won}
    return pd.DataFrame(
        {
            "prompt_index": index,
            "category": "c",
            "prompt": prompt,
            "seed": seed,
            "variant": name,
            "right": is_right(index),
        }
        for index, prompt in enumerate(PROMPTS[:num_prompts])
        for seed in (0, 1)
        for name, is_right in names.items()
    )


def test_the_outcome_is_in_the_reports_words_and_counts_prompts(tiny_shapes):
    suite = suites.plan_suite(BASE, ["npnet"], 16, 2, tiny_shapes.spec)
    outcome = suites.summarise(make_rows(16, 4), suite)
    (gain,) = outcome.gains
    assert (gain.arm, gain.points.value) == ("golden", 25.0)
    assert 0 < gain.points.low < 25 < gain.points.high
    assert "over 16 prompts. The interval excludes zero." in gain.sentence
    assert COUNTING in outcome.note
    cells = dict(zip(outcome.tables[0].header, outcome.tables[0].body[0], strict=True))
    assert (cells["wins"], cells["ties"], cells["losses"]) == ("8", "24", "0")
    assert cells["sign test p"] == "0.125"  # 4 prompts won and none lost, not 8 images


def test_a_gain_without_enough_prompts_has_no_interval(tiny_shapes):
    suite = suites.plan_suite(BASE, ["npnet"], 4, 2, tiny_shapes.spec)
    (gain,) = suites.summarise(make_rows(4, 1), suite).gains
    assert math.isnan(gain.points.low)
    assert "An interval takes at least 8 different prompts." in gain.sentence


# --- reports ----------------------------------------------------------------------------------------------------------


def write_report(folder: Path, text: str = "<p>fine</p>", age: int = 0) -> None:
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(text)
    os.utime(folder / "report.html", (1e9 - age, 1e9 - age))


def test_reports_are_listed_by_folder_the_newest_first(tmp_path):
    write_report(tmp_path / "old", age=10)
    write_report(tmp_path / "new")
    write_report(tmp_path / ".hidden")
    (tmp_path / "unfinished").mkdir()
    assert suites.list_reports(tmp_path) == ["new", "old"]
    assert suites.read_report(tmp_path, "new") == "<p>fine</p>"


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../../secret", "/etc", "", ".", "..", None, 3, ["new"], {"path": "new"}, "new/", "new\x00", "~"],
)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    write_report(tmp_path / "runs" / "new")
    write_report(tmp_path / "secret", "secret")
    with pytest.raises(InvalidInput, match="no such report"):
        suites.read_report(tmp_path / "runs", name)


def test_a_stored_report_is_for_a_registered_model_alone(tmp_path, tiny_shapes, monkeypatch):
    monkeypatch.setattr(suites, "STORED", tmp_path)
    assert suites.read_stored_report(MODELS["shapes"]) is None
    (tmp_path / "shapes.html").write_text("<p>fine</p>")
    assert suites.read_stored_report(MODELS["shapes"]) == "<p>fine</p>"
    assert suites.read_stored_report(MODELS["sdxl"]) is None
    assert suites.read_stored_report(replace(tiny_shapes.spec, name="../shapes")) is None
    with pytest.raises(InvalidInput, match="no such report"):
        suites.read_report(None, "shapes")
