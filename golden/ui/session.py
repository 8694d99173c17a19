"""The comparisons of one person: kept, also by the browser between visits; searched, written to CSV and ZIP."""

import base64
import binascii
import csv
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..arms import ARMS
from ..compare import Comparison
from ..drawing import side_by_side, to_png, to_webp
from ..errors import InvalidInput
from ..models import ModelSpec
from ..request import CompareRequest
from ..settings import NAMES, describe, from_dict, label_images
from .naming import name_image
from .scoreboard import describe_scores

MAX_RECORDS = 200
MAX_RECORD_BYTES = 64 * 2**20
MAX_SEARCH_WORDS = 20
MAX_TIME_CHARS = 40
MAX_KEPT = 100  # comparisons that the browser keeps, of which a page of its storage holds some 5 MB
MAX_THUMBNAIL_BYTES = 12_000
THUMBNAIL_SIDE = 96  # pixels of a kept image


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Record:
    """A finished comparison in the history: PNG bytes by arm, and everything else as `described` for JSON.

    One from an earlier visit has no images but a `thumbnail`, the bytes of a WebP file; opening it makes them again.
    """

    number: int
    created: str
    request: CompareRequest
    described: dict[str, Any] = field(hash=False)  # gradio hashes what it keeps to see whether it has changed
    images: dict[str, bytes] = field(hash=False)
    thumbnail: bytes = b""

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
            row |= {f"{arm}_correct": verdict["correct"], f"{arm}_reasons": "; ".join(verdict.get("reasons", ()))}
        times = ("npnet_seconds", "total_seconds", "overhead")
        row |= {name: record.described[name] for name in times if name in record.described}
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
    """`comparisons.csv`, and for each comparison its images (PNG with their settings inside) and its JSON.

    Comparisons of earlier visits have no images here.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("comparisons.csv", records_to_csv(records))
        for record in records:
            for arm, png in record.images.items():
                archive.writestr(f"{record.number:04d}-{name_image(record.request, arm)}", png)
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


# --- from one visit to the next --------------------------------------------------------------------------------------


def draw_thumbnail(record: Record) -> Image.Image:
    """The images of a record beside each other, small."""
    if not record.images:
        return Image.open(io.BytesIO(record.thumbnail), formats=["WEBP"]).convert("RGB")
    return side_by_side([open_png(png) for png in record.images.values()], 160)


def record_to_json(record: Record) -> dict[str, Any]:
    """What the browser keeps of a comparison, plain JSON: how to make it again, and how it turned out."""
    small = side_by_side([open_png(png) for png in record.images.values()], THUMBNAIL_SIDE)
    return {
        "created": record.created,
        "settings": record.described["settings"],
        "arms": list(record.request.arms),
        "correct": {arm: verdict["correct"] for arm, verdict in record.described["verdicts"].items()},
        "thumbnail": base64.b64encode(to_webp(small, quality=70)).decode(),
    }


def records_from_json(kept: Any, spec: ModelSpec) -> list[Record]:
    """The comparisons that a browser kept, the oldest first, from what it sent, which may be anything.

    What is no comparison, or one of another model, is left out.
    """
    entries = kept[-MAX_KEPT:] if isinstance(kept, list) else []
    found = [record for entry in entries if (record := _read_record(entry, spec))]
    return [replace(record, number=number) for number, record in enumerate(found, start=1)]


def _read_record(entry: Any, spec: ModelSpec) -> Record | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("settings"), dict):
        return None
    arms, correct, created = entry.get("arms"), entry.get("correct"), entry.get("created")
    if not isinstance(arms, list) or not arms or not all(isinstance(arm, str) and arm in ARMS for arm in arms):
        return None
    thumbnail = _read_thumbnail(entry.get("thumbnail"))
    if not isinstance(correct, dict) or not isinstance(created, str) or thumbnail is None:
        return None
    try:
        request = replace(from_dict(entry["settings"], spec), arms=tuple(dict.fromkeys(arms)))
    except InvalidInput:
        return None
    verdicts = {arm: {"correct": correct[arm]} for arm in request.arms if isinstance(correct.get(arm), bool)}
    described = {"settings": entry["settings"], "verdicts": verdicts}
    return Record(0, created[:MAX_TIME_CHARS], request, described, {}, thumbnail)


def _read_thumbnail(text: Any) -> bytes | None:
    """The bytes of a small WebP file, given in base64; None for anything else."""
    if not isinstance(text, str) or len(text) > MAX_THUMBNAIL_BYTES * 4 / 3:
        return None
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            if image.height > THUMBNAIL_SIDE or image.width > 8 * THUMBNAIL_SIDE:
                return None
            image.load()
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # a few bytes that claim to be a giant
        return None
    return data
