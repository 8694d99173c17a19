"""What six judges say of a comparison: who scores, who wins, for JSON and as a piece of the page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch

from .compare import Comparison
from .judges import JUDGES, MPS, JudgeSet, embedded_path, load_judges
from .models import ModelSpec
from .shapes import Verdict

CHOICES = ("embedded", "published", "none")
TITLES = {"embedded": "Embedded judges", "published": "Published judges"}
NOTES = {
    "embedded": "Small judges trained on the shapes world, not the published models.",
    "published": "The published weights; never to be compared with the embedded judges.",
}
ARM_NAMES = {"standard": "standard", "npnet": "golden"}
LIMITS = (1.0, 2.0, 4.0, 8.0)  # of the chart, in spreads: the smallest that holds every bar


@dataclass(frozen=True)
class Judging:
    """Who scores a page's comparisons.

    Attributes:
        judges: None where nobody does, and then `notice` says why in one sentence.
        weights: of CHOICES, shown beside every score.
        spreads: by judge, the standard deviation of its scores over the test set; empty where it is not known.
    """

    judges: JudgeSet | None = None
    weights: str = "none"
    spreads: Mapping[str, float] = field(default_factory=dict)
    notice: str = "No judges score here: start the app with --judges embedded or --judges published for scores."


NO_JUDGES = Judging()


def choose_judging(weights: str | None, mode: str, spec: ModelSpec, device: str = "cpu") -> Judging:
    """The judges for a model: those asked for, by default the embedded ones for the world that they know.

    Raises: InvalidInput for an unknown mode. Weights that cannot be had are no error: the page says so.
    """
    weights = weights or ("embedded" if spec.is_shapes else "none")
    if weights == "none":
        return NO_JUDGES
    if weights == "embedded" and not any(embedded_path(cls).is_file() for cls in JUDGES.values()):
        return Judging(notice="The embedded judges are not in assets/judges, so the pictures get no scores.")
    judges = load_judges(weights=weights, mode=mode, device=device)
    return Judging(judges, weights, read_spreads() if weights == "embedded" else {})


def read_spreads() -> dict[str, float]:
    """By judge, the spread of the embedded set's scores; what the file does not say in sound numbers is left out."""
    try:
        figures = json.loads(embedded_path(MPS).with_name("spread.json").read_text(encoding="utf-8"))
        found = {name: float(figures[name]["std"]) for name in JUDGES if name in figures}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: std for name, std in found.items() if math.isfinite(std) and std > 0}


# --- figures ---------------------------------------------------------------------------------------------------------


def find_winner(verdicts: Mapping[str, Verdict]) -> str | None:
    """The arm that is right alone, or right in more attributes; None if neither leads or nothing is checked."""
    if len(verdicts) < 2:
        return None
    ranked = sorted(verdicts, key=lambda arm: (verdicts[arm].correct, verdicts[arm].score))
    best, other = verdicts[ranked[-1]], verdicts[ranked[-2]]
    return ranked[-1] if (best.correct, best.score) != (other.correct, other.score) else None


def pair_probability(by_arm: Mapping[str, float]) -> dict[str, float]:
    """By arm of two, the probability that it is preferred, of MPS's scores: their softmax."""
    (first, a), (second, b) = by_arm.items()
    share = MPS.preference(torch.tensor(b, dtype=torch.float64), torch.tensor(a, dtype=torch.float64)).item()
    return {first: 1 - share, second: share}


def describe_scores(comparison: Comparison, weights: str) -> dict[str, Any]:
    """The scores ready for JSON, with whose they are."""
    by_arm = comparison.scores.get("MPS", {})
    return {
        "judges": weights,
        "scores": comparison.scores,
        "unavailable": comparison.unavailable,
        "mps_probability": pair_probability(by_arm) if len(by_arm) == 2 else {},
        "scoring_seconds": comparison.scoring_seconds,
    }


def write_score(judge: str, by_arm: Mapping[str, float]) -> dict[str, str]:
    """By arm, the score as it is shown, and under "difference" golden minus standard; MPS of a pair in percent."""
    unit, decimals, values = "", 2 if max(map(abs, by_arm.values())) >= 10 else 3, dict(by_arm)
    if judge == "MPS" and len(by_arm) == 2:
        unit, decimals = " %", 1
        values = {arm: 100 * share for arm, share in pair_probability(by_arm).items()}
    shown = {arm: f"{value:.{decimals}f}{unit}" for arm, value in values.items()}
    if {"standard", "npnet"} <= set(values):
        # Of what is shown, so that the row adds up.
        change = round(round(values["npnet"], decimals) - round(values["standard"], decimals), decimals)
        shown["difference"] = f"{change:+.{decimals}f}" if change else f"{0:.{decimals}f}"
    return {name: text.replace("-", "−") for name, text in shown.items()}


def find_preferred(judge: str, by_arm: Mapping[str, float]) -> str | None:
    """The arm with the higher score; None for one arm, or where the two are equal as shown: rounding is no win."""
    shown = write_score(judge, by_arm)
    if len(by_arm) != 2 or len({shown[arm] for arm in by_arm}) == 1:
        return None
    return max(by_arm, key=lambda arm: by_arm[arm])


def count_wins(scores: Mapping[str, Mapping[str, float]], arm: str = "npnet") -> int:
    """How many judges prefer the arm."""
    return sum(find_preferred(judge, by_arm) == arm for judge, by_arm in scores.items())


def find_disagreement(comparison: Comparison) -> str:
    """A sentence where most scores go one way and the checked attributes the other, else nothing."""
    verdicts, scores = comparison.verdicts, comparison.scores
    if not {"standard", "npnet"} <= set(verdicts):
        return ""
    change = verdicts["npnet"].score - verdicts["standard"].score
    if change < 0 and 2 * count_wins(scores, "npnet") > len(scores):
        return "Most scores rise, yet fewer asked attributes hold: the judges prefer the less right picture."
    if change > 0 and 2 * count_wins(scores, "standard") > len(scores):
        return "Most scores fall, yet more asked attributes hold: the judges prefer the less right picture."
    return ""


# --- the panel -------------------------------------------------------------------------------------------------------
# Text that is not this module's own goes through `escape`.


def show_scoreboard(judging: Judging, arms: Sequence[str], comparison: Comparison | None = None) -> str:
    """The panel of scores: a row for each judge, filled as the scores come, and the exact check below them."""
    if judging.judges is None:
        return f'<section class="scoreboard"><h3>Scores</h3><p class="hint">{escape(judging.notice)}</p></section>'
    scores = comparison.scores if comparison else {}
    limit = _chart_limit(judging, scores) if len(arms) == 2 and judging.spreads else None
    rows = "".join(_show_row(judging, name, arms, comparison, limit) for name in judging.judges.names)
    done = comparison is not None and len(scores) + len(comparison.unavailable) == len(judging.judges.names)
    hint = find_disagreement(comparison) if comparison and done else ""
    return (
        '<section class="scoreboard">'
        f"<header><h3>{TITLES[judging.weights]}</h3>{_show_count(comparison, arms) if done else ''}</header>"
        f"<table>{_show_head(arms, limit)}<tbody>{rows}</tbody>{_show_check(comparison, arms, limit)}</table>"
        + (f'<p class="disagreement">{escape(hint)}</p>' if hint else "")
        + f'<p class="hint">{_explain(judging.weights, limit, comparison if done else None)}</p></section>'
    )


def _show_count(comparison: Comparison | None, arms: Sequence[str]) -> str:
    if comparison is None or len(arms) != 2 or not comparison.scores:
        return ""
    missing = f", {len(comparison.unavailable)} unavailable" if comparison.unavailable else ""
    return f"<p>golden won <b>{count_wins(comparison.scores)} of {len(comparison.scores)}</b>{missing}</p>"


def _show_head(arms: Sequence[str], limit: float | None) -> str:
    names = "".join(f'<th scope="col" class="{arm}">{escape(ARM_NAMES.get(arm, arm))}</th>' for arm in arms)
    difference = (
        '<th scope="col" class="change"><abbr title="golden minus standard">change</abbr></th>'
        if len(arms) == 2
        else ""
    )
    ends = f"<span>−{limit:g}</span><span>0</span><span>+{limit:g}</span>" if limit else ""
    chart = f'<th scope="col" class="axis" aria-label="change in spreads">{ends}</th>' if limit else ""
    judge = '<th scope="col" class="judge"><span class="unseen">judge</span></th>'
    return f"<thead><tr>{judge}{names}{difference}{chart}</tr></thead>"


def _show_row(
    judging: Judging, judge: str, arms: Sequence[str], comparison: Comparison | None, limit: float | None
) -> str:
    title = escape(JUDGES[judge].unit, quote=True) if judge in JUDGES else ""
    name = f'<th scope="row" class="judge" title="{title}">{escape(judge)}</th>'
    if comparison and judge in comparison.unavailable:
        sentence = escape(comparison.unavailable[judge])
        width = len(arms) + (len(arms) == 2) + (limit is not None)
        return f'<tr class="unavailable">{name}<td colspan="{width}"><b>unavailable</b> {sentence}</td></tr>'
    by_arm = comparison.scores.get(judge) if comparison else None
    if by_arm is None:
        blank = "<td>–</td>" * (len(arms) + (len(arms) == 2)) + ("<td></td>" if limit else "")
        return f'<tr class="pending">{name}{blank}</tr>'
    shown, winner = write_score(judge, by_arm), find_preferred(judge, by_arm)
    cells = "".join(_show_cell(shown[arm], arm, arm == winner) for arm in arms)
    cells += f"<td>{shown['difference']}</td>" if "difference" in shown else ""
    return f"<tr>{name}{cells}{_show_bar(judging, judge, by_arm, limit)}</tr>"


def _show_cell(text: str, arm: str, wins: bool) -> str:
    mark = '<span class="unseen"> wins</span>' if wins else ""
    return f'<td class="{arm}{" wins" if wins else ""}">{escape(text)}{mark}</td>'


def _show_check(comparison: Comparison | None, arms: Sequence[str], limit: float | None) -> str:
    """The exact checker's row: right or wrong, and how many of the asked attributes hold."""
    verdicts = comparison.verdicts if comparison else {}
    if not set(arms) <= set(verdicts):
        return ""
    winner, held = find_winner(verdicts), {arm: sum(ok for _, ok in verdicts[arm].attributes) for arm in arms}
    cells = ""
    for arm in arms:
        mark, word = ("✓", "right") if verdicts[arm].correct else ("✗", "wrong")
        text = f'<b class="{word}">{mark}</b><span class="unseen"> {word}, </span> '
        text += f"{held[arm]}/{len(verdicts[arm].attributes)}"
        cells += f'<td class="{arm}{" wins" if arm == winner else ""}">{text}</td>'
    if len(arms) == 2:
        cells += f"<td>{held['npnet'] - held['standard']:+d}</td>".replace("-", "−").replace("+0", "0")
    name = '<th scope="row" class="judge" title="asked attributes that hold in the picture">exact check</th>'
    return f'<tbody class="check"><tr>{name}{cells}{"<td></td>" if limit else ""}</tr></tbody>'


def _explain(weights: str, limit: float | None, finished: Comparison | None) -> str:
    """The small print: whose scores these are, what the bars show, and how long it took."""
    bars = " Bars: change in units of each judge’s spread over the test set." if limit else ""
    took = f" Scored in {finished.scoring_seconds:.1f} s." if finished and finished.scores else ""
    return NOTES[weights] + bars + took


# --- the chart: in every judge's row a bar from the middle, golden to the right, standard to the left ---------------


def _in_spreads(judging: Judging, judge: str, by_arm: Mapping[str, float]) -> float | None:
    """Golden minus standard in units of the judge's spread; of MPS its raw scores, which have one."""
    if judge not in judging.spreads or not {"standard", "npnet"} <= set(by_arm):
        return None
    return (by_arm["npnet"] - by_arm["standard"]) / judging.spreads[judge]


def _chart_limit(judging: Judging, scores: Mapping[str, Mapping[str, float]]) -> float:
    sizes = [abs(_in_spreads(judging, judge, by_arm) or 0.0) for judge, by_arm in scores.items()]
    return next((limit for limit in LIMITS if max(sizes, default=0.0) <= limit), LIMITS[-1])


def _show_bar(judging: Judging, judge: str, by_arm: Mapping[str, float], limit: float | None) -> str:
    if limit is None:
        return ""
    change = _in_spreads(judging, judge, by_arm)
    if change is None:
        return "<td></td>"
    share = 50 * min(1.0, abs(change) / limit)
    kind, left = ("npnet", 50.0) if change >= 0 else ("standard", 50 - share)
    label = f"{change:+.2f} spreads".replace("-", "−")
    bar = f'<i class="{kind}" style="left:{left:.1f}%;width:{share:.1f}%"></i>' if label[1:5] != "0.00" else ""
    return f'<td class="axis"><span class="track" role="img" aria-label="{label}" title="{label}">{bar}</span></td>'
