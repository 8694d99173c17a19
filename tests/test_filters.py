"""Filters keep what they promise, and give reasons for what they reject."""

import numpy as np
import pandas as pd
import pytest

from golden.errors import InvalidInput
from train.filters import FILTERS, default_filter, explain_rejections, find_filter, is_best


def make_rows() -> pd.DataFrame:
    rows = pd.DataFrame({"source_score": [0.5, 1.0, 1.0, 0.0], "target_score": [1.0, 1.0, 0.5, 0.5]})
    rows["target_right"] = rows["target_score"] == 1
    return rows


def make_judged(**gains: list[float]) -> pd.DataFrame:
    rows = pd.DataFrame({f"source_{name}": [5.0] * 3 for name in gains})
    for name, gain in gains.items():
        rows[f"target_{name}"] = 5 + np.array(gain)
    return rows


def test_filters_keep_what_they_promise():
    kept = {name: FILTERS[name](make_rows()).tolist() for name in ("all", "improved", "not_worse", "right")}
    assert kept == {
        "all": [True, True, True, True],
        "improved": [True, False, False, True],
        "not_worse": [True, True, False, True],
        "right": [True, True, False, False],
    }


def test_the_best_target_of_each_source_is_kept_where_they_differ():
    rows = pd.DataFrame({"index": [0, 1, 2, 0, 1, 2, 0, 1, 2], "target_score": [0.5, 1, 1, 1, 1, 0, 1, 1, 0.5]})
    assert is_best(rows).tolist() == [False, False, True, True, False, False, True, False, False]


def test_judges_filter_one_by_one_together_and_by_vote():
    rows = make_judged(HPSv2=[1.0, 0.1, 1.0], AES=[1.0, 1.0, -1.0], MPS=[0.0, 1.0, -1.0])

    def kept(name: str, margin: float = 0.0) -> list[bool]:
        return find_filter(name, [*rows.columns], margin)(rows).tolist()

    assert kept("HPSv2") == [True, True, True]
    assert kept("HPSv2", 0.5) == [True, False, True]
    assert kept("MPS") == [False, True, False]  # a tie is no gain
    assert kept("HPSv2+AES") == [True, True, False]
    assert kept("vote") == [True, True, False]


@pytest.mark.parametrize("name", ["nope", "", "PickScore", "HPSv2+nope", "HPSv2+", "vote+HPSv2"])
def test_an_unknown_filter_lists_what_there_is(name):
    with pytest.raises(InvalidInput, match=r"all, improved, .*, HPSv2, vote"):
        find_filter(name, ["target_HPSv2", "source_HPSv2", "target_score"])


def test_judges_that_were_not_recorded_cannot_filter():
    with pytest.raises(InvalidInput, match="no filter 'vote'"):
        find_filter("vote", ["target_score"])


@pytest.mark.parametrize("name", ["right", "improved", "best", "HPSv2"])
def test_unjudged_pairs_have_one_filter(name):
    with pytest.raises(InvalidInput, match=f"no filter '{name}': choose one of all;"):
        find_filter(name, ["index", "prompt", "target"])
    assert find_filter("all", [])(pd.DataFrame(index=range(2))).tolist() == [True, True]


@pytest.mark.parametrize("name", ["HPSv2", "HPSv2+AES", "vote", "improved", "not_worse", "right", "all"])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_a_reason_is_given_where_a_pair_is_rejected_and_nowhere_else(name, margin):
    rows = make_judged(HPSv2=[1.0, 0.1, -1.0], AES=[-1.0, 1.0, -1.0], MPS=[-0.5, 0.6, 0.0]).join(make_rows())
    kept = find_filter(name, [*rows.columns], margin)(rows).tolist()
    assert [not reason for reason in explain_rejections(name, rows, margin)] == kept


def test_a_reason_names_the_judges_that_reject_a_pair():
    rows = make_judged(HPSv2=[1.0, 0.1, -1.0], AES=[-1.0, 1.0, -1.0])
    reasons = explain_rejections("HPSv2+AES", rows, 0.5)
    assert reasons == ["AES 5.000 -> 4.000", "HPSv2 5.000 -> 5.100", "HPSv2 5.000 -> 4.000, AES 5.000 -> 4.000"]
    assert explain_rejections("improved", make_rows())[1:3] == ["score 1.000 -> 1.000", "score 1.000 -> 0.500"]


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (["target_score", "target_HPSv2"], "right"),
        (["target_AES", "target_HPSv2"], "HPSv2"),
        (["target_AES"], "vote"),
        (["prompt", "target"], None),
    ],
)
def test_the_default_is_the_checker_then_hpsv2_then_a_vote(columns, name):
    assert default_filter(columns) == name


def test_collection_and_training_mean_the_same_pairs_by_default():
    rows = make_rows()
    kept = find_filter(default_filter([*rows.columns]), [*rows.columns])(rows)
    assert kept.tolist() == rows["target_right"].tolist()
