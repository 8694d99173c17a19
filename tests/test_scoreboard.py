"""The scoreboard: who wins and by how much, whose scores they are, and a panel that says so to everyone."""

import json
import re
from dataclasses import replace

import pytest
import torch

from golden.checkers import Verdict
from golden.compare import Comparison
from golden.errors import InvalidInput
from golden.judges import ALL_JUDGES, JUDGES, JudgeSet, loading
from golden.models import MODELS
from golden.request import CompareRequest
from golden.ui.scoreboard import (
    NO_JUDGES,
    Judging,
    choose_judging,
    count_wins,
    describe_scores,
    find_disagreement,
    find_preferred,
    format_score,
    pair_probability,
    read_spreads,
    show_scoreboard,
)

ARMS = ("standard", "npnet")
SHAPES, SDXL = MODELS["shapes"], MODELS["sdxl"]


def pair(standard: float, golden: float) -> dict[str, float]:
    return {"standard": standard, "npnet": golden}


def verdict(*held: bool) -> Verdict:
    return Verdict(
        all(held), ("asked: 1 star; found: 1 star",), tuple((f"attribute {i}", ok) for i, ok in enumerate(held))
    )


def compared(scores: dict, verdicts: tuple[Verdict, ...] = (), **more) -> Comparison:
    """A comparison without images, as far as a scoreboard looks at one."""
    by_arm = dict(zip(ARMS, verdicts, strict=False))
    return Comparison(CompareRequest(prompt="a star"), {}, {}, by_arm, 0.1, 1.0, scores, **more)


SCORES = {
    "PickScore": pair(21.69, 21.86),
    "HPSv2": pair(28.68, 28.48),
    "AES": pair(6.0373, 6.054),
    "ImageReward": pair(-0.5, 0.25),
    "CLIPScore": pair(0.82, 0.82),
    "MPS": pair(10.0, 10.0866),
}
NOBODY = JudgeSet({name: lambda: 1 / 0 for name in ALL_JUDGES})  # names alone: none of them is ever loaded
JUDGING = Judging(NOBODY, "embedded", dict.fromkeys(ALL_JUDGES, 0.5))


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [(0.0, 0.0), (21.3, 22.9), (-4.0, 7.0), (500.0, -500.0), (1e-9, 0.0)])
def test_the_probabilities_of_a_pair_are_a_softmax(scores):
    shares = pair_probability(pair(*scores))
    assert sum(shares.values()) == 1
    expected = torch.tensor(scores, dtype=torch.float64).softmax(0)
    assert list(shares.values()) == pytest.approx(expected.tolist(), abs=1e-12)
    other_way = pair_probability({"npnet": scores[1], "standard": scores[0]})
    assert other_way["npnet"] == pytest.approx(shares["npnet"], abs=1e-12)


@pytest.mark.parametrize(
    ("judge", "by_arm", "shown"),
    [
        ("PickScore", pair(21.694, 21.857), ("21.69", "21.86", "+0.17")),
        ("AES", pair(6.0373, 6.0101), ("6.037", "6.010", "−0.027")),
        ("ImageReward", pair(-0.25, 0.5), ("−0.250", "0.500", "+0.750")),
        ("HPSv2", pair(28.001, 28.0), ("28.00", "28.00", "0.00")),
        ("MPS", pair(10.0, 10.0866), ("47.8 %", "52.2 %", "+4.4")),
    ],
)
def test_scores_as_they_are_shown(judge, by_arm, shown):
    assert tuple(format_score(judge, by_arm)[name] for name in (*ARMS, "difference")) == shown


def test_an_image_alone_has_a_score_and_no_probability():
    assert format_score("MPS", {"standard": 10.0}) == {"standard": "10.00"}
    assert find_preferred("MPS", {"standard": 10.0}) is None
    assert describe_scores(compared({"MPS": {"standard": 10.0}}), "embedded")["mps_probability"] == {}


def test_wins_are_counted_by_what_is_shown():
    assert count_wins(SCORES) == 4
    assert count_wins(SCORES, "standard") == 1
    assert find_preferred("CLIPScore", SCORES["CLIPScore"]) is None
    assert find_preferred("AES", pair(6.00001, 6.00002)) is None  # equal images differ by rounding


@pytest.mark.parametrize(
    ("scores", "verdicts", "sentence"),
    [
        (SCORES, (verdict(True, True), verdict(True, False)), "Most scores went up, yet fewer"),
        (SCORES, (verdict(True, False), verdict(True, True)), ""),
        (SCORES, (verdict(True, True), verdict(True, True)), ""),
        (SCORES, (), ""),
        ({}, (verdict(True, True), verdict(True, False)), ""),
        ({"AES": pair(6.0, 5.0)}, (verdict(False, False), verdict(True, False)), "Most scores went down, yet more"),
        ({"AES": pair(6.0, 5.0), "HPSv2": pair(1.0, 2.0)}, (verdict(False), verdict(True)), ""),
    ],
)
def test_a_hint_where_scores_and_attributes_disagree(scores, verdicts, sentence):
    found = find_disagreement(compared(scores, verdicts))
    assert found.startswith(sentence) if sentence else found == ""


def test_scores_as_json_say_whose_they_are():
    described = describe_scores(compared(SCORES, unavailable={"AES": "No."}, scoring_seconds=0.2), "embedded")
    assert json.loads(json.dumps(described)) == described
    assert described["judges"] == "embedded"
    assert described["scores"] == SCORES
    assert described["unavailable"] == {"AES": "No."}
    assert described["mps_probability"]["npnet"] == pytest.approx(0.5216, abs=1e-4)


# --- whose judges -----------------------------------------------------------------------------------------------------


def test_embedded_judges_by_default_for_the_world_that_they_know(tiny_judges_folder, monkeypatch):
    monkeypatch.setattr(loading, "ASSETS", tiny_judges_folder)
    judging = choose_judging(None, None, "auto", SHAPES)
    assert judging.weights == "embedded"
    assert judging.judges.names == ALL_JUDGES
    assert judging.spreads == dict.fromkeys(ALL_JUDGES, 0.5)
    assert choose_judging(None, None, "auto", SDXL) is NO_JUDGES
    assert choose_judging(("none",), None, "auto", SHAPES) is NO_JUDGES
    assert choose_judging(("all",), None, "rotating", SDXL).judges.mode == "rotating"
    assert choose_judging(("AES", "MPS"), None, "auto", SHAPES).judges.names == ("AES", "MPS")
    for names in (None, ("all",)):
        published = choose_judging(names, "published", "resident", SDXL)
        assert (published.weights, published.spreads, len(published.judges.names)) == ("published", {}, len(ALL_JUDGES))
    for names, mode, sentence in (
        (None, "fast", "Unknown mode 'fast'"),
        (("FID",), "auto", "Unknown judge 'FID'"),
        (("none", "AES"), "auto", "either none or"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            choose_judging(names, None, mode, SHAPES)


def test_without_embedded_weights_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "ASSETS", tmp_path)
    judging = choose_judging(None, None, "auto", SHAPES)
    assert judging.judges is None
    panel = words_of(show_scoreboard(judging, ARMS))
    assert panel == "Scores The embedded judges are missing from assets/judges, so images are not scored."
    assert "--judges all" in show_scoreboard(NO_JUDGES, ARMS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"AES": {"mean": 5, "std": 0.25}}', {"AES": 0.25}),
        ('{"AES": {"mean": 5, "std": 0}, "MPS": {"std": NaN}, "HPSv2": {"std": -1}, "other": {"std": 1}}', {}),
        ('{"AES": {"mean": 5}}', {}),
        ('{"AES": 3}', {}),
        ("[]", {}),
        ("{", {}),
        ("", {}),
    ],
)
def test_spreads_are_read_where_they_are_sound(tmp_path, monkeypatch, text, found):
    monkeypatch.setattr(loading, "ASSETS", tmp_path)
    assert read_spreads() == {}
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges" / "spread.json").write_text(text)
    assert read_spreads() == found


# --- the panel --------------------------------------------------------------------------------------------------------


def words_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def rows_of(html: str) -> dict[str, str]:
    rows = (words_of(row) for row in re.findall(r"<tr.*?</tr>", html, re.S))
    return {row.split()[0]: row for row in rows}


def test_the_panel_before_during_and_after():
    waiting = rows_of(show_scoreboard(JUDGING, ARMS))
    assert waiting["PickScore"] == "PickScore – – –"
    some = {name: SCORES[name] for name in ("PickScore", "HPSv2")}
    during = show_scoreboard(JUDGING, ARMS, compared(some))
    assert rows_of(during)["PickScore"] == "PickScore 21.69 21.86 wins +0.17"
    assert rows_of(during)["HPSv2"] == "HPSv2 28.68 wins 28.48 −0.20"
    assert rows_of(during)["MPS"] == "MPS – – –"
    assert "golden won" not in during
    after = show_scoreboard(JUDGING, ARMS, compared(SCORES, (verdict(True, True), verdict(True, False))))
    assert rows_of(after)["MPS"] == "MPS 47.8 % 52.2 % wins +4.4"
    assert rows_of(after)["exact"] == "exact check ✓ correct, 2/2 ✗ incorrect, 1/2 −1"
    assert "golden won 4 of 6" in words_of(after)
    assert "Embedded judges" in after
    assert "Most scores went up, yet fewer" in after


def test_a_judge_that_fails_shows_as_unavailable():
    scores = {name: by_arm for name, by_arm in SCORES.items() if name != "AES"}
    panel = show_scoreboard(JUDGING, ARMS, compared(scores, unavailable={"AES": "<b>No</b> AES here."}))
    assert rows_of(panel)["AES"] == "AES unavailable &lt;b&gt;No&lt;/b&gt; AES here."
    assert "golden won 3 of 5 , 1 unavailable" in words_of(panel)
    nobody = show_scoreboard(JUDGING, ARMS, compared({}, unavailable=dict.fromkeys(ALL_JUDGES, "No.")))
    assert words_of(nobody).count("unavailable") == 6


def test_four_noises_have_a_column_each_and_the_best_is_marked():
    arms = ("standard", "npnet", "norm", "mismatched")
    scores = {name: dict(zip(arms, (1.0, 2.0, 4.0, 3.0), strict=True)) for name in ALL_JUDGES}
    scores["AES"] = dict.fromkeys(arms, 5.0)
    verdicts = {arm: verdict(True, arm == "npnet") for arm in arms}
    comparison = Comparison(CompareRequest(prompt="a star", arms=arms), {}, {}, verdicts, 0.1, 1.0, scores)
    panel = show_scoreboard(JUDGING, arms, comparison)
    assert rows_of(panel)["HPSv2"] == "HPSv2 1.000 2.000 4.000 wins 3.000"
    assert "wins" not in rows_of(panel)["AES"]
    assert rows_of(panel)["exact"].count("incorrect") == 3
    assert "shorter won 5 , of 6" in words_of(panel)
    assert "track" not in panel
    for row in re.findall(r"<tr.*?</tr>", panel, re.S):
        assert len(re.findall(r"<t[hd]", row)) == 5


def test_every_judge_says_what_it_reads_and_what_it_may_miss():
    panel = show_scoreboard(JUDGING, ARMS)
    for name, judge in ((name, JUDGES[name]) for name in ALL_JUDGES):
        assert judge.reads in panel
        assert f"It may miss {judge.misses}." in panel
        assert name in panel


def test_bars_are_in_standard_deviations_of_each_judge():
    panel = show_scoreboard(JUDGING, ARMS, compared(SCORES))
    bars = re.findall(
        r'aria-label="([^"]*)" title="[^"]*"><i class="(\w+)" style="left:([\d.]+)%;width:([\d.]+)%"', panel
    )
    assert [bar[0] for bar in bars[:4]] == [
        f"{size} standard deviations" for size in ("+0.34", "−0.40", "+0.03", "+1.50")
    ]
    assert bars[0][1:] == ("npnet", "50.0", "8.5")  # the largest bar is 1.5, so the chart goes to 2
    assert bars[1][1:] == ("standard", "40.0", "10.0")
    assert "−2 0 +2" in words_of(panel)
    for _, _, left, width in bars:
        assert 0 <= float(left) <= float(left) + float(width) <= 100
    huge = show_scoreboard(JUDGING, ARMS, compared({"AES": pair(-1e9, 1e9)}))
    assert 'left:50.0%;width:50.0%"' in huge


def test_without_standard_deviations_there_is_a_table_and_no_chart():
    panel = show_scoreboard(replace(JUDGING, spreads={}), ARMS, compared(SCORES))
    assert "golden won 4 of 6" in words_of(panel)
    assert "track" not in panel
    assert "deviation" not in panel
    partly = show_scoreboard(replace(JUDGING, spreads={"AES": 0.5}), ARMS, compared(SCORES))
    assert partly.count('class="track"') == 1


def test_every_row_has_as_many_cells_as_the_head():
    complete = compared(SCORES, (verdict(True), verdict(False)))
    failing = compared({}, unavailable=dict.fromkeys(ALL_JUDGES, "No."))
    alone = compared({name: {"standard": 1.0} for name in ALL_JUDGES}, (verdict(True),))
    for spreads in ({}, JUDGING.spreads):
        judging = replace(JUDGING, spreads=spreads)
        for arms, comparison in ((ARMS, complete), (ARMS, None), (ARMS, failing), (ARMS[:1], alone), (ARMS[:1], None)):
            rows = re.findall(r"<tr.*?</tr>", show_scoreboard(judging, arms, comparison), re.S)
            widths = {len(re.findall(r"<t[hd]\b(?! colspan)", row)) + _spanned(row) for row in rows}
            assert len(widths) == 1


def _spanned(row: str) -> int:
    return sum(map(int, re.findall(r'colspan="(\d+)"', row)))


def test_published_judges_are_never_called_embedded():
    panel = show_scoreboard(replace(JUDGING, weights="published", spreads={}), ARMS)
    assert "<h3>Published judges</h3>" in panel
    assert panel.count("<h3>") == 1
