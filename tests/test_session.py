"""A session's records and votes: kept, found, counted, written."""

import csv
import io
import json
import zipfile

import pytest
from statsmodels.stats.proportion import proportion_confint

from golden import settings
from golden.compare import run_comparison
from golden.request import CompareRequest
from golden.ui import session
from tests.conftest import break_judge


@pytest.fixture(scope="module")
def records(tiny_shapes) -> list[session.Record]:
    kept: list[session.Record] = []
    for prompt, seed in (("a red star", 1), ("two blue hearts", 22), ("a red circle", 3)):
        request = CompareRequest(prompt=prompt, seed=seed, num_inference_steps=1)
        kept = session.add_record(kept, run_comparison(request, tiny_shapes), tiny_shapes.spec)
    return kept


def test_records_are_numbered_and_found_by_every_word(records):
    assert [record.number for record in records] == [1, 2, 3]
    assert [record.number for record in session.search(records, "")] == [3, 2, 1]
    assert [record.number for record in session.search(records, "RED")] == [3, 1]
    assert [record.number for record in session.search(records, "red star")] == [1]
    assert [record.number for record in session.search(records, "22")] == [2]
    assert session.search(records, "dragon") == []
    assert len(session.search(records, None)) == 3


def test_old_records_fall_out(records, monkeypatch, tiny_shapes):
    comparison = run_comparison(CompareRequest(prompt="a star", seed=5, num_inference_steps=1), tiny_shapes)
    monkeypatch.setattr(session, "MAX_RECORDS", 3)
    assert [r.number for r in session.add_record(records, comparison, tiny_shapes.spec)] == [2, 3, 4]
    monkeypatch.setattr(session, "MAX_RECORD_BYTES", records[0].num_bytes + 1)
    assert [r.number for r in session.add_record(records, comparison, tiny_shapes.spec)] == [4]


def test_the_zip_holds_a_table_and_every_image(records, tiny_shapes):
    with zipfile.ZipFile(io.BytesIO(session.records_to_zip(records))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        rows = list(csv.DictReader(io.StringIO(archive.read("comparisons.csv").decode())))
        png = archive.read("0002_npnet.png")
    assert len(names) == 1 + 3 * 3
    assert [row["prompt"] for row in rows] == ["a red star", "two blue hearts", "a red circle"]
    assert rows[0]["standard_correct"] in ("True", "False")
    assert settings.from_png(png, tiny_shapes.spec) == records[1].request
    assert session.open_png(png).mode == "RGB"


def test_scores_are_kept_and_written_with_whose_they_are(records, tiny_shapes, tiny_judges):
    break_judge(tiny_judges, "AES", "There is no AES here.")
    comparison = run_comparison(
        CompareRequest(prompt="a star", seed=5, num_inference_steps=1), tiny_shapes, tiny_judges
    )
    kept = session.add_scores(session.add_record(records, comparison, tiny_shapes.spec), comparison, "embedded")
    assert [record.number for record in kept] == [1, 2, 3, 4]
    assert kept[:3] == records
    *unscored, row = csv.DictReader(io.StringIO(session.records_to_csv(kept)))
    assert row["judges"] == "embedded"
    assert float(row["PickScore_npnet"]) == comparison.scores["PickScore"]["npnet"]
    assert float(row["MPS_probability_standard"]) + float(row["MPS_probability_npnet"]) == pytest.approx(1)
    assert "AES_npnet" not in row
    assert {other["judges"] for other in unscored} == {""}
    with zipfile.ZipFile(io.BytesIO(session.records_to_zip(kept))) as archive:
        described = json.loads(archive.read("0004.json"))
    assert described["scores"] == comparison.scores
    assert described["unavailable"] == {"AES": "There is no AES here."}


def test_a_cell_never_runs_as_a_formula():
    text = session.write_csv([{"prompt": "=1+1", "x": -3}, {"prompt": "@cmd", "x": 2}, {"prompt": 'a "b", c', "y": 1}])
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["prompt", "x", "y"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'@cmd", 'a "b", c']
    assert rows[1][1] == "-3"


@pytest.mark.parametrize(("wins", "decided"), [(0, 1), (1, 1), (3, 10), (50, 100), (200, 201)])
def test_the_interval_is_wilsons(wins, decided):
    share, low, high = session.win_rate(wins, decided)
    assert share == wins / decided
    assert (low, high) == pytest.approx(proportion_confint(wins, decided, method="wilson"), abs=1e-9)


def test_without_votes_nothing_is_known():
    assert session.win_rate(0, 0) == (0.5, 0.0, 1.0)


def test_a_vote_names_the_arm_that_was_on_its_side():
    request = CompareRequest(prompt="a star")
    winners = [session.cast_vote(request, ("npnet", "standard"), vote).winner for vote in session.VOTES]
    assert winners == ["npnet", "standard", "tie", "both bad"]
    row = next(
        csv.DictReader(io.StringIO(session.votes_to_csv([session.cast_vote(request, ("standard", "npnet"), "right")])))
    )
    assert (row["left_arm"], row["vote"], row["winner"]) == ("standard", "right", "npnet")
