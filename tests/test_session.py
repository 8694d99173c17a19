"""A session's records: kept, found, written, and handed from one visit to the next."""

import base64
import csv
import io
import json
import struct
import zipfile

import pytest
from PIL import Image

from golden import settings
from golden.compare import run_comparison
from golden.request import CompareRequest
from golden.ui import session
from golden.ui.naming import NamedImage, write_name
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
        png = archive.read("0002-golden-two-blue-hearts-22-npnet.png")
    assert len(names) == 1 + 3 * 3
    assert [row["prompt"] for row in rows] == ["a red star", "two blue hearts", "a red circle"]
    assert rows[0]["standard_correct"] in ("True", "False")
    assert names[1] == "0001-golden-a-red-star-1-standard.png"
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


# --- from one visit to the next --------------------------------------------------------------------------------------


def test_what_the_browser_keeps_comes_back_as_the_same_requests(records, tiny_shapes):
    kept = json.loads(json.dumps([session.record_to_json(record) for record in records]))
    found = session.records_from_json(kept, tiny_shapes.spec)
    assert [(record.number, record.created, record.request) for record in found] == [
        (record.number, record.created, record.request) for record in records
    ]
    for record, earlier in zip(found, records, strict=True):
        assert record.images == {}
        assert session.draw_thumbnail(record).height == session.THUMBNAIL_SIDE
        assert {arm: verdict["correct"] for arm, verdict in record.described["verdicts"].items()} == {
            arm: verdict["correct"] for arm, verdict in earlier.described["verdicts"].items()
        }
    assert len(json.dumps(kept)) * session.MAX_KEPT / len(kept) < 2e6  # a browser stores some 5 MB, encrypted


def test_earlier_comparisons_are_found_and_written_without_images(records, tiny_shapes):
    found = session.records_from_json([session.record_to_json(record) for record in records], tiny_shapes.spec)
    assert [record.number for record in session.search(found, "red star")] == [1]
    with zipfile.ZipFile(io.BytesIO(session.records_to_zip(found))) as archive:
        assert archive.namelist() == ["comparisons.csv", "0001.json", "0002.json", "0003.json"]
        row = next(csv.DictReader(io.StringIO(archive.read("comparisons.csv").decode())))
    assert (row["prompt"], row["seed"], row["standard_reasons"]) == ("a red star", "1", "")


def test_of_another_model_nothing_is_shown(records, tiny_shapes, tiny_model):
    kept = [session.record_to_json(record) for record in records]
    assert session.records_from_json(kept, tiny_model.spec) == []


@pytest.mark.parametrize(
    "change",
    [
        {"settings": None},
        {"settings": {"prompt": "a dragon"}},
        {"settings": {"prompt": "a star", "seed": -1}},
        {"settings": {"prompt": "a star", "unknown": 1}},
        {"arms": []},
        {"arms": "npnet"},
        {"arms": ["standard", {"a": 1}]},
        {"arms": ["bogus"]},
        {"correct": None},
        {"created": 3},
        {"thumbnail": None},
        {"thumbnail": "no base64"},
        {"thumbnail": base64.b64encode(b"GIF89a").decode()},
        {"thumbnail": "A" * 100_000},
    ],
)
def test_what_a_browser_sends_may_be_anything(records, tiny_shapes, change):
    good = session.record_to_json(records[0])
    found = session.records_from_json([good, good | change, None, [], 7], tiny_shapes.spec)
    assert [record.request.prompt for record in found] == ["a red star"]
    for kept in (None, {}, "x", 3, [[[]]]):
        assert session.records_from_json(kept, tiny_shapes.spec) == []


def test_a_thumbnail_of_a_giant_image_is_never_decoded(records, tiny_shapes):
    data = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(data, "WEBP", quality=1)
    giant = session.record_to_json(records[0]) | {"thumbnail": base64.b64encode(data.getvalue()).decode()}
    assert session.records_from_json([giant], tiny_shapes.spec) == []


@pytest.mark.parametrize("side", [10_000, 16_384], ids=["warned of", "refused"])
def test_a_few_bytes_that_claim_to_be_a_giant_are_no_thumbnail(records, tiny_shapes, side):
    frame = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14) + bytes(9)
    chunk = b"WEBPVP8L" + struct.pack("<I", len(frame)) + frame
    data = b"RIFF" + struct.pack("<I", len(chunk)) + chunk
    bomb = session.record_to_json(records[0]) | {"thumbnail": base64.b64encode(data).decode()}
    assert session.records_from_json([bomb], tiny_shapes.spec) == []


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red circle left of a blue square", "golden-a-red-circle-left-of-a-blue-square-7-npnet.png"),
        ("../../etc/passwd", "golden-etc-passwd-7-npnet.png"),
        ('<img src="x">', "golden-img-src-x-7-npnet.png"),
        ("猫 on a Straße", "golden-猫-on-a-straße-7-npnet.png"),
        ("!!!", "golden-image-7-npnet.png"),
        ("word " * 100, f"golden-{'word-' * 23}word-7-npnet.png"),
        ("猫" * 100, f"golden-{'猫' * 40}-7-npnet.png"),
    ],
)
def test_a_download_is_named_after_prompt_seed_and_arm(prompt, name):
    assert write_name(prompt, 7, "npnet") == name


def test_an_image_carries_its_name(records, tiny_shapes):
    comparison = run_comparison(CompareRequest(prompt="a star", seed=5, num_inference_steps=1), tiny_shapes)
    labelled = settings.label_images(comparison, tiny_shapes.spec)
    shown = NamedImage(format="png")
    assert shown.postprocess(labelled["npnet"]).orig_name == "golden-a-star-5-npnet.png"
    assert not shown.postprocess(comparison.images["npnet"]).orig_name.startswith("golden")
    assert shown.get_block_name() == "image"
    assert shown.postprocess(None) is None
