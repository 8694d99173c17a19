"""What one person did in one session: comparisons made and votes given; searched, counted, written to CSV and ZIP."""

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from PIL import Image
from scipy.stats import binomtest

from ..compare import Comparison
from ..drawing import to_png
from ..models import ModelSpec
from ..request import CompareRequest
from ..settings import NAMES, describe, label_images
from .scoreboard import describe_scores

MAX_RECORDS = 200
MAX_RECORD_BYTES = 64 * 2**20
MAX_SEARCH_WORDS = 20
VOTES = ("left", "right", "tie", "both bad")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Record:
    """A finished comparison in the history: PNG bytes by arm, and everything else as `described` for JSON."""

    number: int
    created: str
    request: CompareRequest
    described: dict[str, Any]
    images: dict[str, bytes]

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.images.values()))


def add_record(records: Sequence[Record], comparison: Comparison, spec: ModelSpec) -> list[Record]:
    """The records with a new one at the end; the oldest are dropped beyond MAX_RECORDS or MAX_RECORD_BYTES."""
    images = {arm: to_png(image) for arm, image in label_images(comparison, spec).items()}
    number = records[-1].number + 1 if records else 1
    kept = [*records, Record(number, now(), comparison.request, describe(comparison, spec), images)][-MAX_RECORDS:]
    while len(kept) > 1 and sum(record.num_bytes for record in kept) > MAX_RECORD_BYTES:
        kept = kept[1:]
    return kept


def add_scores(records: Sequence[Record], comparison: Comparison, weights: str) -> list[Record]:
    """The records, the last of them with the scores that its comparison got from the judges of `weights`."""
    *others, last = records
    return [*others, replace(last, described=last.described | describe_scores(comparison, weights))]


def open_png(png: bytes) -> Image.Image:
    """An image of a record."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def search(records: Sequence[Record], words: Any) -> list[Record]:
    """The records, newest first, whose prompt, sampler or seed contains every one of the words."""
    wanted = words.lower().split()[:MAX_SEARCH_WORDS] if isinstance(words, str) else []

    def matches(record: Record) -> bool:
        request = record.request
        text = f"{request.prompt} {request.sampler} {request.seed}".lower()
        return all(word in text for word in wanted)

    return [record for record in reversed(records) if matches(record)]


def records_to_csv(records: Iterable[Record]) -> str:
    """One row per comparison."""
    rows = []
    for record in records:
        row: dict[str, Any] = {"number": record.number, "created": record.created}
        row |= {name: getattr(record.request, name) for name in NAMES}
        for arm, verdict in record.described["verdicts"].items():
            row |= {f"{arm}_correct": verdict["correct"], f"{arm}_reasons": "; ".join(verdict["reasons"])}
        row |= {name: record.described[name] for name in ("npnet_seconds", "total_seconds", "overhead")}
        rows.append(row | _score_cells(record.described))
    return write_csv(rows)


def _score_cells(described: dict[str, Any]) -> dict[str, Any]:
    """The scores of a comparison and which judges gave them; nothing if it was not scored."""
    if "scores" not in described:
        return {}
    cells = {"judges": described["judges"]}
    for judge, by_arm in described["scores"].items():
        cells |= {f"{judge}_{arm}": score for arm, score in by_arm.items()}
    return cells | {f"MPS_probability_{arm}": share for arm, share in described["mps_probability"].items()}


def records_to_zip(records: Sequence[Record]) -> bytes:
    """`comparisons.csv`, and for each comparison its images (PNG with their settings inside) and its JSON."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("comparisons.csv", records_to_csv(records))
        for record in records:
            for arm, png in record.images.items():
                archive.writestr(f"{record.number:04d}_{arm}.png", png)
            archive.writestr(f"{record.number:04d}.json", json.dumps(record.described, indent=2, ensure_ascii=False))
    return data.getvalue()


def write_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV text with a header; a cell that a spreadsheet would run as a formula becomes text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _defuse(value) for name, value in row.items()})
    return text.getvalue()


def _defuse(value: Any) -> Any:
    if isinstance(value, tuple):  # arms
        return " ".join(value)
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


# --- votes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vote:
    """A vote on two unlabelled images; `winner` is the preferred arm, or "tie" or "both bad"."""

    created: str
    request: CompareRequest
    left_arm: str
    vote: str
    winner: str


def cast_vote(request: CompareRequest, arms: tuple[str, str], vote: str) -> Vote:
    """A vote on the images of `arms`, (left, right)."""
    winner = {"left": arms[0], "right": arms[1]}.get(vote, vote)
    return Vote(now(), request, arms[0], vote, winner)


def votes_to_csv(votes: Iterable[Vote]) -> str:
    """One row per vote."""
    return write_csv(
        [
            {"created": vote.created}
            | {name: getattr(vote.request, name) for name in NAMES}
            | {"left_arm": vote.left_arm, "vote": vote.vote, "winner": vote.winner}
            for vote in votes
        ]
    )


def win_rate(num_wins: int, num_decided: int) -> tuple[float, float, float]:
    """(share, low, high): wins among decided votes, with Wilson's 95 % interval, which holds for few votes, too.

    Without a vote the share is unknown: 0.5 with the interval from 0 to 1.
    """
    if not num_decided:
        return 0.5, 0.0, 1.0
    low, high = binomtest(num_wins, num_decided).proportion_ci(method="wilson")
    return num_wins / num_decided, float(low), float(high)
