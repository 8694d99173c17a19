"""Filters: which pairs of a data set are trained on, and why the others are rejected."""

from collections.abc import Callable, Sequence

import pandas as pd

from golden.errors import InvalidInput
from golden.judges import JUDGES

Filter = Callable[[pd.DataFrame], pd.Series]
"""n rows -> n booleans. All rows of a source lie in one shard, so that a filter can look at one shard at a time."""


def is_best(rows: pd.DataFrame) -> pd.Series:
    """Whether a row's target is the best of its source's, where they differ; ties are all kept."""
    scores = rows.groupby("index")["target_score"]
    best = scores.transform("max")
    return (rows["target_score"] == best) & (best > scores.transform("min"))


# Source: section 3.2 of the paper keeps pairs that improve according to a judge; these use the checker's verdicts.
FILTERS: dict[str, Filter] = {
    "all": lambda rows: pd.Series(True, rows.index),
    "improved": lambda rows: rows["target_score"] > rows["source_score"],
    "not_worse": lambda rows: rows["target_score"] >= rows["source_score"],
    "right": lambda rows: rows["target_right"],
    "best": is_best,
}


def recorded_judges(columns: Sequence[str]) -> list[str]:
    """The judges whose scores a data set has."""
    names = [column.removeprefix("target_") for column in columns if column.startswith("target_")]
    return [name for name in names if name in JUDGES]


def default_filter(columns: Sequence[str]) -> str | None:
    """The filter of collection and training unless another is given: "right" by the checker, else HPSv2, else a vote.

    A pair is `kept` if this filter keeps it. None for a data set that was not judged.
    Differs from the paper: with a checker every pair whose target image is right is kept, not only those that improve.
    Of the embedded model's pairs 84 % are right and 8 % improve.
    """
    judges = recorded_judges(columns)
    if "target_score" in columns:
        return "right"
    return ("HPSv2" if "HPSv2" in judges else "vote") if judges else None


def find_filter(name: str, columns: Sequence[str], margin: float = 0.0) -> Filter:
    """A filter of FILTERS or of recorded judges: one, several joined by "+" (all must agree), or "vote" (a majority).

    A judge keeps a pair whose target beats its source by more than `margin`, in the judge's units.
    Source: section 3.2 of the paper (HPSv2, margin 0) and its Tables 8 and 9 (other judges, other margins).
    Raises: InvalidInput listing the available filters.
    """
    if name in _available(columns):
        return FILTERS[name]
    names = _judges_of(name, columns)

    def keep(rows: pd.DataFrame) -> pd.Series:
        better = pd.DataFrame({judge: _beats(rows, judge, margin) for judge in names})
        return better.mean(axis=1) > 0.5 if name == "vote" else better.all(axis=1)

    return keep


def explain_rejections(name: str, rows: pd.DataFrame, margin: float = 0.0) -> list[str]:
    """For each row, the figures that reject it, such as "HPSv2 24.310 -> 24.100"; "" if the filter keeps it."""
    kept = find_filter(name, [*rows.columns], margin)(rows)
    reasons = pd.Series("", rows.index)
    for figure in ["score"] if name in FILTERS else _judges_of(name, [*rows.columns]):
        sides = zip(rows[f"source_{figure}"], rows[f"target_{figure}"], strict=True)
        reason = pd.Series([f", {figure} {source:.3f} -> {target:.3f}" for source, target in sides], rows.index)
        reasons += reason.mask(kept | (_beats(rows, figure, margin) & (name not in FILTERS)), "")
    return reasons.str.removeprefix(", ").tolist()


def _judges_of(name: str, columns: Sequence[str]) -> list[str]:
    recorded = recorded_judges(columns)
    names = recorded if name == "vote" else name.split("+")
    if not names or not set(names) <= set(recorded):
        choices = ", ".join([*_available(columns), *recorded, *(["vote"] if recorded else [])])
        raise InvalidInput(f"These pairs have no filter {name[:60]!r}: choose one of {choices}; join judges with '+'.")
    return names


def _available(columns: Sequence[str]) -> list[str]:
    """The names of FILTERS that apply: all but "all" need the checker's verdicts."""
    return [*FILTERS] if "target_score" in columns else ["all"]


def _beats(rows: pd.DataFrame, figure: str, margin: float) -> pd.Series:
    return rows[f"target_{figure}"] > rows[f"source_{figure}"] + margin
