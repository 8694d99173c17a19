"""How often judges agree with people: files of choices, ties, intervals, and the checker as the human."""

import csv

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval.judge_agreement import (
    AgreementOptions,
    Choice,
    agreement_table,
    count_points,
    main,
    measure_agreement,
    read_benchmark,
    read_choices,
    render_pairs,
    score_pairs,
    tie_margin,
)
from golden.errors import GoldenError, InvalidInput


@pytest.fixture
def images(tmp_path):
    for name in ("one.png", "two.png", "deep/three.png", "0a-1b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), "red" if "one" in name else "blue").save(tmp_path / name)
    return tmp_path


def write_csv(folder, *rows: dict):
    with open(folder / "choices.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "choices.csv"


LAYOUTS = {
    "own": [
        {"prompt": "a, b", "image_a": "one.png", "image_b": "two.png", "preferred": "a"},
        {"prompt": "c", "image_a": "two", "image_b": "deep/three.png", "preferred": "B"},
        {"prompt": "c", "image_a": "two.png", "image_b": "one.png", "preferred": " tie "},
    ],
    "MMRB2": [
        {"prompt": "a, b", "response_a": "one.png", "response_b": "two.png", "human_preference": "A"},
        {"prompt": "c", "response_a": "two.png", "response_b": "deep/three.png", "human_preference": "B"},
        {"prompt": "c", "response_a": "two.png", "response_b": "one.png", "human_preference": "tie"},
    ],
    "MMRB2, merged": [
        {"prompt": "a, b", "response_a": "one.png", "response_b": "two.png", "chosen": "A"},
        {"prompt": "c", "response_a": "two.png", "response_b": "deep/three.png", "chosen": "B"},
        {"prompt": "c", "response_a": "two.png", "response_b": "one.png", "chosen": "Tie"},
    ],
    "Pick-a-Pic": [
        {"caption": "a, b", "image_0_uid": "one", "image_1_uid": "two", "label_0": 1, "label_1": 0, "has_label": True},
        {"caption": "x", "image_0_uid": "one", "image_1_uid": "two", "label_0": 1, "label_1": 0, "has_label": False},
        {"caption": "c", "image_0_uid": "two", "image_1_uid": "0a-1b", "label_0": 0.0, "label_1": 1.0, "has_label": 1},
        {"caption": "c", "image_0_uid": "two", "image_1_uid": "one", "label_0": 0.5, "label_1": 0.5, "has_label": 1},
    ],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(images, layout):
    pairs = read_choices(write_csv(images, *LAYOUTS[layout]))
    assert [(pair.prompt, pair.choice) for pair in pairs] == [("a, b", 1), ("c", -1), ("c", 0)]
    assert [pair.first.name for pair in pairs] == ["one.png", "two.png", "two.png"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"preferred": "c"}, "Row 2 of choices.csv has no choice: preferred must be a, b, tie"),
        ({"preferred": ""}, "Row 2 of choices.csv has no choice"),
        ({"image_a": "../secret.png"}, "named by their files below"),
        ({"image_a": "/etc/passwd"}, "named by their files below"),
        ({"image_a": "https://x.org/a.png"}, "named by their files below"),
        ({"image_b": "none.png"}, "There is no image 'none.png'"),
        ({"image_b": ""}, "named by their files below"),
    ],
)
def test_a_bad_row_is_one_sentence(images, change, sentence):
    with pytest.raises(InvalidInput) as error:
        read_choices(write_csv(images, LAYOUTS["own"][0] | change))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "none of the columns"), ("a,b\n1,2\n", "none of the columns prompt, caption"),
     ("prompt,image_a,image_b\nx,one.png,two.png\n", "preferred, human_preference, chosen, label_0 and label_1"),
     ("caption,image_0,image_1,label_0,label_1\nx,one.png,two.png,2,0\n", "must be two numbers from 0 to 1"),
     ("caption,image_0,image_1,label_0,label_1,has_label\nx,one.png,two.png,1,0,0\n", "no choices")],
)  # fmt: skip
def test_a_bad_file_is_one_sentence(images, text, sentence):
    (images / "choices.csv").write_text(text)
    with pytest.raises(InvalidInput) as error:
        read_choices(images / "choices.csv")
    assert sentence in str(error.value)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_choices(images / "absent.csv")


# --- points and ties -------------------------------------------------------------------------------------------------


def test_points_of_each_kind():
    choices = np.array([1, 1, 1, -1, 0, 0])
    differences = np.array([2.0, -2.0, 0.1, -3.0, 0.05, 5.0])
    assert count_points(choices, differences, 0.2).tolist() == [1, 0, 0.5, 1, 1, 0.5]
    assert count_points(choices, differences, -1.0).tolist() == [1, 0, 1, 1, 0.5, 0.5]
    assert count_points(choices[:1], np.zeros(1), 0.0).tolist() == [0.5]


def test_a_judge_has_as_many_ties_as_people():
    rng = np.random.default_rng(0)
    differences = rng.normal(size=200)
    for num_ties in (0, 1, 50, 200):
        assert (np.abs(differences) <= tie_margin(differences, num_ties)).sum() == num_ties


def pairs_of(choices) -> list[Choice]:
    return [Choice(f"prompt {index // 4}", None, None, float(choice)) for index, choice in enumerate(choices)]


def test_agreement_of_a_perfect_a_random_and_an_opposite_judge():
    rng = np.random.default_rng(1)
    choices = rng.choice([-1, 0, 1], 800, p=[0.4, 0.2, 0.4])
    perfect = choices + 0.01 * rng.normal(size=800)
    found = {"PickScore": perfect, "HPSv2": rng.normal(size=800), "AES": -perfect}
    means = {name: measure_agreement(pairs_of(choices), values) for name, values in found.items()}
    assert means["PickScore"].decided.mean() == 1
    assert means["PickScore"].with_ties.mean() == 1
    assert means["AES"].decided.mean() == 0
    assert means["AES"].with_ties.mean() == pytest.approx((choices == 0).mean())
    assert 0.45 < means["HPSv2"].decided.mean() < 0.55
    table = agreement_table(pairs_of(choices), found | {"MPS": "No weights."})
    assert [row[0] for row in table.body] == ["PickScore", "HPSv2", "AES"]
    assert table.body[0][1] == "100.0 % [100.0, 100.0]"
    low, high = (float(end) for end in table.body[1][1].split("[")[1].rstrip("]").split(","))
    assert low < 50 < high
    assert "MPS: No weights." in table.note
    assert f"{(choices == 0).sum()} ties" in table.header[2]
    with pytest.raises(GoldenError, match="not a number"):
        measure_agreement(pairs_of(choices[:2]), np.array([np.nan, 1]))


def test_intervals_count_prompts_and_not_pairs():
    """Four copies of each pair make no interval narrower: a prompt is drawn with all of them."""
    rng = np.random.default_rng(2)
    choices, differences = rng.choice([-1, 1], 100), rng.normal(size=100)
    once = [Choice(str(index), None, None, float(choice)) for index, choice in enumerate(choices)]
    single = agreement_table(once, {"AES": differences}).body[0][1]
    fourfold = agreement_table(once * 4, {"AES": np.tile(differences, 4)}).body[0][1]
    assert single == fourfold


# --- the shapes world ------------------------------------------------------------------------------------------------


def test_rendered_pairs_have_all_outcomes_and_are_the_same_again():
    pairs = render_pairs(60, seed=3)
    assert {pair.choice for pair in pairs} == {-1.0, 0.0, 1.0}
    again = render_pairs(60, seed=3)
    assert [pair.choice for pair in again] == [pair.choice for pair in pairs]
    assert np.array_equal(np.asarray(again[0].first), np.asarray(pairs[0].first))


def test_a_judge_that_is_unavailable_costs_nothing_else(tiny_judges_folder, monkeypatch):
    monkeypatch.setattr("golden.judges.loading.ASSETS", tiny_judges_folder)
    (options, pairs) = AgreementOptions(judges=("AES", "HPSv3", "PickScore")), render_pairs(20, seed=0)
    found = dict(score_pairs(pairs, options, "cpu"))
    assert list(found) == ["AES", "HPSv3", "PickScore"]
    assert "no embedded weights" in found["HPSv3"]
    assert found["AES"].shape == found["PickScore"].shape == (20,)
    assert (found["AES"] != 0).any()
    with pytest.raises(InvalidInput, match="Unknown judge"):
        dict(score_pairs(pairs, AgreementOptions(judges=("nobody",)), "cpu"))


def benchmark_rows() -> pd.DataFrame:
    rows = [
        {"prompt_index": p, "prompt": f"p{p}", "seed": s, "variant": v, "score": (p + s + (v == "npnet")) % 3 / 2,
         "AES": float((p + s + (v == "npnet")) % 3)}
        for p in range(4) for s in range(2) for v in ("standard", "npnet")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_benchmark_s_rows_are_pairs(tmp_path, capsys):
    rows = benchmark_rows()
    rows.to_parquet(tmp_path / "rows.parquet")
    pairs, differences = read_benchmark(tmp_path / "rows.parquet")
    assert len(pairs) == 8
    assert np.sign(differences["AES"]).tolist() == [pair.choice for pair in pairs]
    assert main(["--rows", str(tmp_path / "rows.parquet")]) == 0
    assert "100.0 %" in capsys.readouterr().out
    for column, lacks in (("score", "lacks score"), ("AES", "a judge's scores")):
        rows.drop(columns=column).to_parquet(tmp_path / "rows.parquet")
        with pytest.raises(InvalidInput, match=lacks):
            read_benchmark(tmp_path / "rows.parquet")
    (tmp_path / "rows.parquet").write_bytes(b"no")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_benchmark(tmp_path / "rows.parquet")


def test_the_command(images, tiny_judges_folder, monkeypatch, capsys):
    monkeypatch.setattr("golden.judges.loading.ASSETS", tiny_judges_folder)
    path = write_csv(images, *LAYOUTS["own"])
    assert main([str(path), "--judges", "AES", "--device", "cpu"]) == 0
    assert "Agreement on 3 pairs of 2 prompts" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match="not both"):
        main([str(path), "--rows", "x"])
    assert main([str(path), "--judges", "VQAScore", "--device", "cpu"]) == 1
