"""What one person did in one sitting: comparisons made, votes given; searched, counted, and written to CSV and ZIP."""

import csv
import io
import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from .compare import CompareRequest, Comparison
from .drawing import to_png
from .models import ModelSpec
from .scoreboard import describe_scores
from .settings import NAMES, describe, label_images

MAX_RECORDS = 200
MAX_RECORD_BYTES = 64 * 2**20
VOTES = ("left", "right", "tie", "both bad")


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Record:
    """A finished comparison as a history keeps it: PNG bytes by arm, and everything else as `described` for JSON."""

    number: int
    created: str
    request: CompareRequest
    described: dict[str, Any]
    pictures: dict[str, bytes]

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.pictures.values()))


def add_record(records: Sequence[Record], comparison: Comparison, spec: ModelSpec) -> list[Record]:
    """The records with a new one at the end; the oldest fall out beyond MAX_RECORDS or MAX_RECORD_BYTES."""
    pictures = {arm: to_png(image) for arm, image in label_images(comparison, spec).items()}
    number = records[-1].number + 1 if records else 1
    kept = [*records, Record(number, now(), comparison.request, describe(comparison, spec), pictures)][-MAX_RECORDS:]
    while len(kept) > 1 and sum(record.num_bytes for record in kept) > MAX_RECORD_BYTES:
        kept = kept[1:]
    return kept


def add_scores(records: Sequence[Record], comparison: Comparison, weights: str) -> list[Record]:
    """The records, the last of which is of this comparison, once its judges (of the set `weights`) have scored."""
    *others, last = records
    return [*others, replace(last, described=last.described | describe_scores(comparison, weights))]


def open_picture(png: bytes) -> Image.Image:
    """A kept picture."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def search(records: Sequence[Record], words: Any) -> list[Record]:
    """The records, newest first, whose prompt, sampler or seed hold every one of the words."""
    wanted = words.lower().split()[:20] if isinstance(words, str) else []

    def holds(record: Record) -> bool:
        request = record.request
        text = f"{request.prompt} {request.sampler} {request.seed}".lower()
        return all(word in text for word in wanted)

    return [record for record in reversed(records) if holds(record)]


def records_to_csv(records: Iterable[Record]) -> str:
    """One row a comparison."""
    rows = []
    for record in records:
        row: dict[str, Any] = {"number": record.number, "created": record.created}
        row |= {name: getattr(record.request, name) for name in NAMES}
        for arm, verdict in record.described["verdicts"].items():
            row |= {f"{arm}_right": verdict["correct"], f"{arm}_reasons": "; ".join(verdict["reasons"])}
        row |= {name: record.described[name] for name in ("npnet_seconds", "total_seconds", "overhead")}
        rows.append(row | _score_cells(record.described))
    return write_csv(rows)


def _score_cells(described: dict[str, Any]) -> dict[str, Any]:
    """The scores of a comparison and whose they are; nothing where no judges were asked."""
    if "scores" not in described:
        return {}
    cells = {"judges": described["judges"]}
    for judge, by_arm in described["scores"].items():
        cells |= {f"{judge}_{arm}": score for arm, score in by_arm.items()}
    return cells | {f"MPS_probability_{arm}": share for arm, share in described["mps_probability"].items()}


def records_to_zip(records: Sequence[Record]) -> bytes:
    """`comparisons.csv`, and for each comparison its pictures (PNG with their settings inside) and its JSON."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("comparisons.csv", records_to_csv(records))
        for record in records:
            for arm, png in record.pictures.items():
                archive.writestr(f"{record.number:04d}_{arm}.png", png)
            archive.writestr(f"{record.number:04d}.json", json.dumps(record.described, indent=2, ensure_ascii=False))
    return data.getvalue()


def write_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV text with a header; cells that a spreadsheet would run as a formula are made text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _inert(value) for name, value in row.items()})
    return text.getvalue()


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


# --- votes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vote:
    """A vote on two unlabelled pictures; `winner` is the arm preferred, or "tie" or "both bad"."""

    created: str
    request: CompareRequest
    left_arm: str
    vote: str
    winner: str


def count_vote(request: CompareRequest, arms: tuple[str, str], vote: str) -> Vote:
    """The vote on pictures of `arms`, (left, right)."""
    winner = {"left": arms[0], "right": arms[1]}.get(vote, vote)
    return Vote(now(), request, arms[0], vote, winner)


def votes_to_csv(votes: Iterable[Vote]) -> str:
    """One row a vote."""
    return write_csv(
        [
            {"created": vote.created}
            | {name: getattr(vote.request, name) for name in NAMES}
            | {"left_arm": vote.left_arm, "vote": vote.vote, "winner": vote.winner}
            for vote in votes
        ]
    )


def win_rate(wins: int, decided: int, z: float = 1.96) -> tuple[float, float, float]:
    """(share, low, high): wins among decided votes, with the 95 % interval of Wilson (1927), which holds for few votes.

    Without a vote the share is unknown: 0.5 with the interval from 0 to 1.
    """
    if not decided:
        return 0.5, 0.0, 1.0
    share = wins / decided
    centre = (share + z * z / (2 * decided)) / (1 + z * z / decided)
    reach = z / (1 + z * z / decided) * math.sqrt(share * (1 - share) / decided + z * z / (4 * decided**2))
    return share, max(0.0, centre - reach), min(1.0, centre + reach)
