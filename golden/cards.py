"""Model cards: what a weight file records about itself, in words and in the form that the Hugging Face Hub reads."""

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

PAPER = "https://arxiv.org/abs/2411.09502"
UNKNOWN_LICENSE = "unknown"
MAX_CELL = 200


def make_card(
    *,
    title: str,
    summary: str,
    usage: str,
    license: str,
    tables: Mapping[str, Mapping[str, Any]],
    measured: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> ModelCard:
    """A card.

    Args:
        title, summary: its heading and first paragraph.
        usage: Python code that uses the weights.
        license: an identifier of the Hub.
        tables: heading -> name -> value; empty ones are left out.
        measured: Markdown of what was measured, "" for nothing.
        metadata: more of the fields that the Hub reads, such as `base_model` and `tags`.
    """
    data = ModelCardData(license=license, library_name="golden", **(metadata or {}))
    parts = [f"# {title}", summary, "## Use", f"```python\n{usage.strip()}\n```"]
    parts += [f"## {heading}\n\n{_table(rows)}" for heading, rows in tables.items() if rows]
    parts.append(f"## Measured\n\n{measured or 'No figures were given with these weights.'}")
    parts.append(f"## Licence\n\n{_license_sentence(license)}\n\nMethod: [Golden Noise for Diffusion Models]({PAPER}).")
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _license_sentence(license: str) -> str:
    if license == UNKNOWN_LICENSE:
        return "Whoever published these weights has not stated a licence."
    return f"{cell(license)}."


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {cell(name)} | {cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def intervals_table(figures: Mapping[str, Any]) -> str:
    """Name -> [value, low, high] as a table; entries of another form are left out."""
    rows = {
        name: f"{value[0]:.4g} [{value[1]:.4g}, {value[2]:.4g}]"
        for name, value in figures.items()
        if isinstance(value, list) and len(value) == 3 and all(isinstance(number, int | float) for number in value)
    }
    lines = [f"| {cell(name)} | {text} |" for name, text in rows.items()]  # whose brackets are no link
    return "\n".join(["| | value and 95 % interval |", "|---|---|", *lines]) if rows else ""


def cell(value: Any) -> str:
    """A value in a cell: one line of plain text, whoever wrote it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL].rstrip(chr(92))}..."


def read_record(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """A record in a weight file, which anybody may have written: a dictionary, empty for whatever is none."""
    try:
        record = json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def part_of(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A dictionary inside a record, empty for whatever is none."""
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def last_name(place: Any) -> Any:
    """A path without its folders, which are its owner's business; ids on the Hub as they are."""
    if not isinstance(place, str) or place.count("/") + place.count("\\") < 2:
        return place
    return place.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
