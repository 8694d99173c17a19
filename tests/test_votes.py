"""Votes: cast, counted, ranked, kept by the browser; whom judges and the checker prefer."""

import csv
import io
import json
from dataclasses import replace

import pytest
from statsmodels.stats.proportion import proportion_confint

from golden.checkers import Verdict
from golden.compare import run_comparison
from golden.request import CompareRequest
from golden.ui import votes
from golden.ui.votes import CHECKER, TIE, cast_vote

REQUEST = CompareRequest(prompt="a star", seed=5, num_inference_steps=1, arms=("npnet", "standard"))


@pytest.mark.parametrize(("wins", "decided"), [(0, 1), (1, 1), (3, 10), (50, 100), (200, 201)])
def test_the_interval_is_wilsons(wins, decided):
    share, low, high = votes.win_rate(wins, decided)
    assert share == wins / decided
    assert (low, high) == pytest.approx(proportion_confint(wins, decided, method="wilson"), abs=1e-9)


def test_without_votes_nothing_is_known():
    assert votes.win_rate(0, 0) == (0.5, 0.0, 1.0)


def test_a_vote_names_the_arm_that_was_on_its_side():
    assert [cast_vote(REQUEST, vote).winner for vote in votes.VOTES] == ["npnet", "standard", "tie", "both bad"]
    cast = cast_vote(replace(REQUEST, arms=("standard", "npnet")), "right", preferred={"AES": "standard"})
    row = next(csv.DictReader(io.StringIO(votes.votes_to_csv([cast]))))
    assert (row["left_arm"], row["right_arm"], row["vote"], row["winner"]) == ("standard", "npnet", "right", "npnet")
    assert (row["AES_prefers"], row["HPSv2_prefers"]) == ("standard", "")


def test_judges_and_checker_have_a_preference_each(tiny_shapes, tiny_judges):
    comparison = run_comparison(REQUEST, tiny_shapes, tiny_judges)
    found = votes.find_preferences(comparison)
    assert list(found) == [CHECKER, *tiny_judges.names]
    assert set(found.values()) <= {"standard", "npnet", TIE}
    right, wrong = Verdict(True, (), (("count", True),)), Verdict(False, (), (("count", False),))
    checked = replace(comparison, verdicts={"standard": wrong, "npnet": right}, scores={})
    assert votes.find_preferences(checked) == {CHECKER: "npnet"}


def test_only_votes_on_which_both_decided_count_for_agreement():
    cast = [
        cast_vote(REQUEST, "left", preferred={CHECKER: "npnet", "AES": "standard"}),
        cast_vote(REQUEST, "right", preferred={CHECKER: TIE, "AES": "standard"}),
        cast_vote(REQUEST, "tie", preferred={CHECKER: "npnet", "AES": "npnet"}),
    ]
    assert votes.count_agreement(cast) == {CHECKER: (1, 1), "AES": (1, 2)}


def test_judges_who_are_slower_than_the_visitor_are_counted_later():
    cast = [cast_vote(REQUEST, "left", "one", {CHECKER: TIE}), cast_vote(REQUEST, "left", "two", {CHECKER: TIE})]
    later = votes.add_preferences(cast, {"one": {"AES": "npnet"}, "another": {"AES": "standard"}})
    assert [vote.preferred for vote in later] == [{"AES": "npnet"}, {CHECKER: TIE}]


def test_a_ranking_waits_for_ten_votes():
    cast = [cast_vote(REQUEST, "left")] * 7 + [cast_vote(REQUEST, "both bad")] * 3
    assert votes.rank_arms(cast[:9]) == []
    assert [rating.name for rating in votes.rank_arms(cast)] == ["npnet", "standard"]


def test_votes_come_back_from_the_browser(tiny_shapes):
    cast = [cast_vote(REQUEST, "left", "one", {CHECKER: "npnet"}), cast_vote(REQUEST, "tie", "two")]
    kept = json.loads(json.dumps(votes.votes_to_json(cast, 4, tiny_shapes.spec)))
    assert votes.votes_from_json(kept, tiny_shapes.spec) == (cast, 4)


def test_votes_on_another_model_stay_in_the_browser(tiny_shapes, monkeypatch):
    monkeypatch.setattr(votes, "MAX_VOTES", 2)
    first, second = tiny_shapes.spec, replace(tiny_shapes.spec, name="another")
    ours, theirs = ([cast_vote(REQUEST, "left", f"{model}{number}") for number in range(2)] for model in "ab")
    kept = votes.votes_to_json(ours, 4, first)
    assert votes.votes_from_json(kept, second) == ([], 0)
    kept = json.loads(json.dumps(votes.votes_to_json(theirs, 1, second, kept)))
    assert votes.votes_from_json(kept, first) == (ours, 4)
    assert votes.votes_from_json(kept, second) == (theirs, 1)
    kept = votes.votes_to_json(ours[:1], 5, first, kept)
    assert votes.votes_from_json(kept, first) == (ours[:1], 5)
    assert votes.votes_from_json(kept, second) == (theirs, 1)


def test_skipped_pairs_of_an_older_version_belong_to_the_model_of_its_votes(tiny_shapes):
    first, second = tiny_shapes.spec, replace(tiny_shapes.spec, name="another")
    cast = [cast_vote(REQUEST, "left", "one")]
    kept = votes.votes_to_json(cast, 0, first) | {"skipped": 7}
    assert votes.votes_from_json(kept, first) == (cast, 7)
    assert votes.votes_from_json(kept, second) == ([], 0)
    assert votes.votes_from_json(votes.votes_to_json([], 1, second, kept), first) == (cast, 7)


@pytest.mark.parametrize("before", [None, [], "x", {"votes": 3}, {"votes": [None, {"settings": {"model": {}}}]}])
def test_what_a_browser_kept_before_may_be_anything(tiny_shapes, before):
    kept = votes.votes_to_json([], 2, tiny_shapes.spec, before)
    assert kept == {"votes": [], "skipped": {tiny_shapes.spec.name: 2}}


@pytest.mark.parametrize(
    "change",
    [
        {"vote": "up"},
        {"vote": 3},
        {"arms": ["npnet", "npnet"]},
        {"arms": ["npnet"]},
        {"arms": [{}, []]},
        {"settings": {"prompt": "a dragon"}},
        {"settings": 3},
        {"preferred": None},
        {"id": None},
    ],
)
def test_what_a_browser_sends_may_be_anything(tiny_shapes, change):
    (good,) = votes.votes_to_json([cast_vote(REQUEST, "left", "one")], 0, tiny_shapes.spec)["votes"]
    found, skipped = votes.votes_from_json({"votes": [good, good | change, None], "skipped": "many"}, tiny_shapes.spec)
    assert ([vote.id for vote in found], skipped) == (["one"], 0)
    for kept in (None, [], "x", {"votes": 3}, {"votes": {}}):
        assert votes.votes_from_json(kept, tiny_shapes.spec) == ([], 0)


def test_a_preference_for_what_was_not_shown_is_dropped(tiny_shapes):
    kept = votes.votes_to_json([cast_vote(REQUEST, "left", "one")], 0, tiny_shapes.spec)
    kept["votes"][0]["preferred"] = {CHECKER: "npnet", "AES": "inversion", "<b>": "npnet", "HPSv2": ["npnet"]}
    (vote,), _ = votes.votes_from_json(kept, tiny_shapes.spec)
    assert vote.preferred == {CHECKER: "npnet"}
