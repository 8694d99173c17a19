"""The judges' scores of a comparison: who scores, who wins, for JSON and as a panel of the page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..checkers import Verdict
from ..compare import Comparison
from ..errors import InvalidInput
from ..judges import ALL_JUDGES, JUDGES, MPS, JudgeSet, embedded_path, load_judges
from ..models import ModelSpec
from .arms import describe_arm
from .html import render

TITLES = {"embedded": "Embedded judges", "published": "Published judges"}
NOTES = {
    "embedded": "Small judges of this world, not the published ones.",
    "published": "Published weights; not comparable with the embedded judges.",
}
LIMITS = (1.0, 2.0, 4.0, 8.0)  # of the chart, in standard deviations: the smallest that fits every bar


@dataclass(frozen=True)
class Judging:
    """Who scores a page's comparisons.

    Attributes:
        judges: None if nobody does, and then `notice` says why in one sentence.
        weights: "embedded" or "published", shown beside every score; "none" without judges.
        spreads: by judge, the standard deviation of its scores over the test set; empty if unknown.
    """

    judges: JudgeSet | None = None
    weights: str = "none"
    spreads: Mapping[str, float] = field(default_factory=dict)
    notice: str = "No judges are loaded: start the app with --judges all for scores."


NO_JUDGES = Judging()


def choose_judging(
    names: Sequence[str] | None, weights: str | None, mode: str, spec: ModelSpec, device: str = "cpu"
) -> Judging:
    """The judges of a page.

    Args:
        names: "all", "none", or names of JUDGES; None for all on a model that the embedded judges know, else none.
        weights: "embedded" or "published"; None for embedded.
        mode: of golden.judges.MODES.
        spec: the model whose images are scored.
        device: where the judges run.

    Raises: InvalidInput for an unknown name or mode. Missing weights are no error: the page says so.
    """
    if names is None:
        names = ("all",) if weights or spec.checker else ("none",)
    if tuple(names) == ("none",):
        return NO_JUDGES
    if "none" in names:
        raise InvalidInput("Give --judges either none or the judges that you want.")
    weights = weights or "embedded"
    if weights == "embedded" and not any(embedded_path(JUDGES[name]).is_file() for name in ALL_JUDGES):
        return Judging(notice="The embedded judges are missing from assets/judges, so images are not scored.")
    judges = load_judges(None if "all" in names else names, weights=weights, mode=mode, device=device)
    return Judging(judges, weights, read_spreads() if weights == "embedded" else {})


def read_spreads() -> dict[str, float]:
    """By judge, the standard deviation of the embedded set's scores; values that are not sound are left out."""
    try:
        figures = json.loads(embedded_path(MPS).with_name("spread.json").read_text(encoding="utf-8"))
        found = {name: float(figures[name]["std"]) for name in JUDGES if name in figures}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: std for name, std in found.items() if math.isfinite(std) and std > 0}


# --- figures ---------------------------------------------------------------------------------------------------------


def find_winner(verdicts: Mapping[str, Verdict]) -> str | None:
    """The arm that alone is correct, or in more attributes; None if neither leads or nothing was checked."""
    if len(verdicts) < 2:
        return None
    ranked = sorted(verdicts, key=lambda arm: (verdicts[arm].correct, verdicts[arm].score))
    best, other = verdicts[ranked[-1]], verdicts[ranked[-2]]
    return ranked[-1] if (best.correct, best.score) != (other.correct, other.score) else None


def pair_probability(by_arm: Mapping[str, float]) -> dict[str, float]:
    """By arm of two, the probability that it is preferred: the softmax of MPS's scores."""
    (first, a), (second, b) = by_arm.items()
    share = MPS.preference(torch.tensor([b], dtype=torch.float64), torch.tensor([a], dtype=torch.float64)).item()
    return {first: 1 - share, second: share}


def describe_scores(comparison: Comparison, weights: str) -> dict[str, Any]:
    """The scores ready for JSON, and whose they are."""
    by_arm = comparison.scores.get("MPS", {})
    return {
        "judges": weights,
        "scores": comparison.scores,
        "unavailable": comparison.unavailable,
        "mps_probability": pair_probability(by_arm) if len(by_arm) == 2 else {},
        "scoring_seconds": comparison.scoring_seconds,
    }


def format_score(judge: str, by_arm: Mapping[str, float]) -> dict[str, str]:
    """By arm, the score as shown; of a pair under "difference" the second minus the first, and MPS in percent."""
    unit, decimals, values = "", 2 if max(map(abs, by_arm.values())) >= 10 else 3, dict(by_arm)
    if judge == "MPS" and len(by_arm) == 2:
        unit, decimals = " %", 1
        values = {arm: 100 * share for arm, share in pair_probability(by_arm).items()}
    shown = {arm: f"{value:.{decimals}f}{unit}" for arm, value in values.items()}
    if len(values) == 2:
        first, second = values.values()
        # Of the rounded scores, so that the row adds up.
        change = round(round(second, decimals) - round(first, decimals), decimals)
        shown["difference"] = f"{change:+.{decimals}f}" if change else f"{0:.{decimals}f}"
    return {name: _with_minus(text) for name, text in shown.items()}


def find_preferred(judge: str, by_arm: Mapping[str, float]) -> str | None:
    """The arm with the highest score; None for one arm, or if two share it as shown: rounding is no win."""
    shown = format_score(judge, by_arm)
    best = max(by_arm, key=lambda arm: by_arm[arm])
    alone = sum(shown[arm] == shown[best] for arm in by_arm) == 1
    return best if alone and len(by_arm) > 1 else None


def count_wins(scores: Mapping[str, Mapping[str, float]], arm: str = "npnet") -> int:
    """How many judges prefer the arm."""
    return sum(find_preferred(judge, by_arm) == arm for judge, by_arm in scores.items())


def find_disagreement(comparison: Comparison) -> str:
    """A sentence if most scores go one way and the checked attributes the other, else nothing."""
    verdicts, scores = comparison.verdicts, comparison.scores
    if not {"standard", "npnet"} <= set(verdicts):
        return ""
    change = verdicts["npnet"].score - verdicts["standard"].score
    if change < 0 and 2 * count_wins(scores, "npnet") > len(scores):
        return "Most scores went up, yet fewer attributes are correct: the judges prefer the less accurate image."
    if change > 0 and 2 * count_wins(scores, "standard") > len(scores):
        return "Most scores went down, yet more attributes are correct: the judges prefer the less accurate image."
    return ""


def _with_minus(text: str) -> str:
    return text.replace("-", "−")


# --- the panel -------------------------------------------------------------------------------------------------------


def show_scoreboard(judging: Judging, arms: Sequence[str], comparison: Comparison | None = None) -> str:
    """The panel of scores: a row per judge, filled as the scores come in, and the exact check below them."""
    if judging.judges is None:
        return render("no_scores", notice=judging.notice)
    scores = comparison.scores if comparison else {}
    is_pair = len(arms) == 2
    limit = _chart_limit(judging, scores) if is_pair and judging.spreads else None
    finished = None
    if comparison is not None and len(scores) + len(comparison.unavailable) == len(judging.judges.names):
        finished = comparison
    return render(
        "scoreboard",
        title=TITLES[judging.weights],
        arms=[(arm, describe_arm(arm).short) for arm in arms],
        is_pair=is_pair,
        limit=limit,
        counts=count_all(finished, arms) if finished else {},
        num_scores=len(scores),
        num_missing=len(finished.unavailable) if finished else 0,
        rows=[_make_row(judging, name, comparison, limit) for name in judging.judges.names],
        check=_make_check(comparison, arms),
        disagreement=find_disagreement(finished) if finished else "",
        note=NOTES[judging.weights],
        seconds=finished.scoring_seconds if finished and finished.scores else None,
    )


def count_all(comparison: Comparison, arms: Sequence[str]) -> dict[str, int]:
    """By the short name of each arm but the first of a pair, how many judges prefer it; nothing for one image."""
    if len(arms) < 2 or not comparison.scores:
        return {}
    counted = arms[1:] if len(arms) == 2 else arms
    return {describe_arm(arm).short: count_wins(comparison.scores, arm) for arm in counted}


def _make_row(judging: Judging, judge: str, comparison: Comparison | None, limit: float | None) -> dict[str, Any]:
    """A judge's row: `unavailable` has a sentence, or `shown` its scores by arm, or both are None while it waits."""
    by_arm = comparison.scores.get(judge) if comparison else None
    return {
        "judge": judge,
        "help": explain_judge(judge),
        "unavailable": comparison.unavailable.get(judge) if comparison else None,
        "shown": format_score(judge, by_arm) if by_arm is not None else None,
        "winner": find_preferred(judge, by_arm) if by_arm is not None else None,
        "bar": _make_bar(judging, judge, by_arm, limit) if by_arm is not None and limit else None,
    }


def explain_judge(judge: str) -> str:
    """What a judge's score is, what it reads, and what it may miss."""
    known = JUDGES[judge]
    blind_to = f" It may miss {known.misses}." if known.misses else ""
    return f"Unit: {known.unit}. Higher is better. It reads {known.reads}.{blind_to}"


def _make_check(comparison: Comparison | None, arms: Sequence[str]) -> dict[str, Any] | None:
    """The exact checker's row: whether each image is correct, and how many of its attributes are."""
    verdicts = comparison.verdicts if comparison else {}
    if not set(arms) <= set(verdicts):
        return None
    num_right = {arm: sum(ok for _, ok in verdicts[arm].attributes) for arm in arms}
    change = num_right[arms[1]] - num_right[arms[0]] if len(arms) == 2 else 0
    return {
        "correct": {arm: verdicts[arm].correct for arm in arms},
        "held": {arm: f"{num_right[arm]}/{len(verdicts[arm].attributes)}" for arm in arms},
        "winner": find_winner(verdicts),
        "difference": _with_minus(f"{change:+d}") if change else "0",
    }


# --- the chart: in every judge's row a bar from the middle, to the right if the second image is better ----------------


def _in_spreads(judging: Judging, judge: str, by_arm: Mapping[str, float]) -> float | None:
    """Of a pair, the second minus the first in the judge's standard deviations; of MPS its raw scores."""
    if judge not in judging.spreads or len(by_arm) != 2:
        return None
    first, second = by_arm.values()
    return (second - first) / judging.spreads[judge]


def _chart_limit(judging: Judging, scores: Mapping[str, Mapping[str, float]]) -> float:
    sizes = [abs(_in_spreads(judging, judge, by_arm) or 0.0) for judge, by_arm in scores.items()]
    return next((limit for limit in LIMITS if max(sizes, default=0.0) <= limit), LIMITS[-1])


def _make_bar(judging: Judging, judge: str, by_arm: Mapping[str, float], limit: float) -> dict[str, Any] | None:
    """A bar in percent of the track; `arm` is None if it would be too short to see. None if the spread is unknown."""
    change = _in_spreads(judging, judge, by_arm)
    if change is None:
        return None
    width = 50 * min(1.0, abs(change) / limit)
    first, second = by_arm
    arm, left = (second, 50.0) if change >= 0 else (first, 50 - width)
    size = f"{change:+.2f}"
    visible = size[1:] != "0.00"
    return {
        "label": _with_minus(f"{size} standard deviations"),
        "arm": arm if visible else None,
        "left": f"{left:.1f}",
        "width": f"{width:.1f}",
    }
