"""Prompts to measure on: the embedded sets of the shapes world, the paper's sets from a user's files, any other file.

Nothing is dropped silently: every row that is left out is listed with its number and the reason.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from golden.checkers import find_checker
from golden.errors import GoldenError, InvalidInput
from golden.models import ModelSpec
from golden.request import MAX_PROMPT_CHARS
from golden.shapes import TEST_SETS, load_test_prompts

PROMPT_COLUMNS = ("prompt", "prompts", "caption", "text")
CATEGORY_COLUMNS = ("category", "categories", "tag", "challenge")
NO_CATEGORY = "all"


@dataclass(frozen=True)
class Prompt:
    """A prompt and the category under which it is reported."""

    text: str
    category: str = NO_CATEGORY


@dataclass(frozen=True)
class Dropped:
    """A row that is left out: its number in the file (from 0), the reason, and its beginning."""

    row: int
    reason: str
    text: str


@dataclass(frozen=True)
class PromptSet:
    """Distinct prompts in order, and the rows that were left out."""

    name: str
    prompts: tuple[Prompt, ...]
    dropped: tuple[Dropped, ...] = ()

    @property
    def sha256(self) -> str:
        """A hash of prompts and categories in order."""
        lines = [json.dumps([prompt.text, prompt.category]) for prompt in self.prompts]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories in order of first appearance."""
        return tuple(dict.fromkeys(prompt.category for prompt in self.prompts))

    def limit(self, num_prompts: int | None) -> "PromptSet":
        """At most `num_prompts`, spread evenly over the set, so that each category keeps its share."""
        if num_prompts is None or num_prompts >= len(self.prompts):
            return self
        if num_prompts < 1:
            raise InvalidInput(f"--limit must be 1 or more, got {num_prompts}.")
        return replace(
            self, prompts=tuple(self.prompts[index] for index in spread_evenly(len(self.prompts), num_prompts))
        )


def spread_evenly(total: int, num: int) -> list[int]:
    """`num` of the indices below `total`, from the first to the last."""
    return np.linspace(0, total - 1, num).round().astype(int).tolist()


@dataclass(frozen=True)
class Protocol:
    """How the paper uses a public prompt set: its first `num_rows` rows, and where to get it."""

    num_rows: int
    num_prompts: int
    source: str


# Source: the paper's section 5.1. Of the first 101 rows of Pick-a-Pic one is empty, which leaves its 100 prompts.
PROTOCOLS: dict[str, Protocol] = {
    "pick-a-pic": Protocol(101, 100, "the caption column of the Pick-a-Pic v1 test split (yuvalkirstain/pickapic_v1)"),
    "drawbench": Protocol(200, 200, "DrawBench (Saharia et al. 2022, arXiv 2205.11487)"),
    "hpd": Protocol(100, 100, "the HPD v2 benchmark prompts (xswu/HPSv2)"),
    "geneval": Protocol(553, 553, "prompts/evaluation_metadata.jsonl of djghosh13/geneval"),
    "t2i-compbench": Protocol(1800, 1800, "the folder examples/dataset of Karine-Huang/T2I-CompBench"),
}
COMPBENCH = ("color", "shape", "texture", "spatial", "non_spatial", "complex")
"""The categories of T2I-CompBench, 300 validation prompts each. Source: arXiv 2307.06350, section 3."""
SHAPES = "shapes-553"


def default_sets(spec: ModelSpec) -> tuple[str, ...]:
    """The sets that a model is measured on: those it names itself, or the first of the shapes world."""
    return spec.test_sets or (SHAPES,)


def list_names() -> tuple[str, ...]:
    """The names of prompt sets: those embedded here, those of the paper, and "own" for any file."""
    return (*(name for name, path in TEST_SETS.items() if path.is_file()), *PROTOCOLS, "own")


def load_prompt_set(name: str, path: Path | None, spec: ModelSpec) -> PromptSet:
    """A prompt set by name: those of TEST_SETS come with golden, the others are read from the file `path`.

    Raises: InvalidInput for an unknown name, a missing or broken file, or one without a usable prompt.
    """
    if name not in list_names():
        raise InvalidInput(f"Unknown prompt set {name!r}: choose one of {', '.join(list_names())}.")
    if name in TEST_SETS:
        if path is not None:
            raise InvalidInput(
                f"The prompt set {name!r} is embedded: leave out --prompts, or --prompt-set for your own."
            )
        return PromptSet(
            name, tuple(Prompt(row["prompt"], row["category"]) for row in load_test_prompts(TEST_SETS[name]))
        )
    if path is None:
        source = f" from {PROTOCOLS[name].source}" if name in PROTOCOLS else ""
        raise InvalidInput(f"The prompt set {name!r} is not embedded: give its file{source} with --prompts.")
    rows = read_compbench(path) if name == "t2i-compbench" else read_rows(path)
    if name in PROTOCOLS:
        rows = rows[: PROTOCOLS[name].num_rows]
    prompts, dropped = choose(rows, spec)
    if not prompts:
        raise InvalidInput(f"No prompt of {path} can be used: {describe_dropped(dropped)}.")
    return PromptSet(path.stem if name == "own" else name, prompts, dropped)


def choose(rows: Sequence[Prompt], spec: ModelSpec) -> tuple[tuple[Prompt, ...], tuple[Dropped, ...]]:
    """The usable rows with white space normalised, and the others: empty, repeated, too long or beyond the checker."""
    kept: dict[str, Prompt] = {}
    dropped: list[Dropped] = []
    for index, row in enumerate(rows):
        text = " ".join(row.text.split())
        reason = "repeated" if text in kept else _fault(text, spec)
        if reason:
            dropped.append(Dropped(index, reason, text[:80]))
        else:
            kept[text] = Prompt(text, row.category or NO_CATEGORY)
    return tuple(kept.values()), tuple(dropped)


def _fault(text: str, spec: ModelSpec) -> str:
    if not text:
        return "empty"
    if len(text) > MAX_PROMPT_CHARS:
        return f"over {MAX_PROMPT_CHARS} characters"
    if checker := find_checker(spec.checker):
        try:
            checker.validate_prompt(text)
        except GoldenError:
            return f"outside the {checker.name} world"
    return ""


def describe_dropped(dropped: Iterable[Dropped]) -> str:
    """ "3 rows dropped: 2 empty, 1 repeated", or "no row dropped"."""
    counts: dict[str, int] = {}
    for row in dropped:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    total = sum(counts.values())
    if not total:
        return "no row dropped"
    return f"{total} {'row' if total == 1 else 'rows'} dropped: " + ", ".join(f"{n} {why}" for why, n in counts.items())


# --- files ------------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Prompt]:
    """All rows of a .csv, .jsonl or .txt file, including empty ones, so that row numbers match the file's.

    Raises: InvalidInput in one sentence if it is missing, not text, of another kind, or has no column of prompts.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".txt": _read_txt}
    if path.suffix.lower() not in readers:
        raise InvalidInput(f"Prompts are read from .csv, .jsonl and .txt files, got {path.name!r}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InvalidInput(f"There is no file of prompts at {path}.") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path.name} is not UTF-8 text: byte {error.start} cannot be read.") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    if not text.strip():
        raise InvalidInput(f"{path.name} is empty.")
    return readers[path.suffix.lower()](path.name, text)


def read_compbench(folder: Path) -> list[Prompt]:
    """The validation prompts in a folder of T2I-CompBench, one file per category. Raises: as `read_rows`."""
    files = {category: folder / f"{category}_val.txt" for category in COMPBENCH}
    return [replace(row, category=category) for category, path in files.items() for row in read_rows(path)]


def _read_txt(name: str, text: str) -> list[Prompt]:
    return [Prompt(line) for line in text.splitlines()]


def _read_jsonl(name: str, text: str) -> list[Prompt]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            rows.append(Prompt(""))
            continue
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            raise InvalidInput(f"Line {number} of {name} is not JSON.") from None
        if not isinstance(entry, dict):
            raise InvalidInput(f"Line {number} of {name} must be an object like {{'prompt': ...}}, got {line[:40]!r}.")
        column = _find_column(name, list(entry), PROMPT_COLUMNS)
        category = next((key for key in entry if key.lower() in CATEGORY_COLUMNS), None)
        value = entry[column]
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"The prompt in line {number} of {name} must be text, got {type(value).__name__}.")
        rows.append(Prompt(value or "", str(entry[category]) if category else NO_CATEGORY))
    return rows


def _read_csv(name: str, text: str) -> list[Prompt]:
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except csv.Error as error:
        raise InvalidInput(f"{name} is not a readable CSV file: {error}.") from None
    column = header.index(_find_column(name, header, PROMPT_COLUMNS))
    if column == 1 and any(len(row) > len(header) for row in rows):
        return _read_numbered_lines(name, text)
    category = next((i for i, key in enumerate(header) if key.strip().lower() in CATEGORY_COLUMNS), None)
    return [Prompt(_cell(row, column), _cell(row, category) if category is not None else NO_CATEGORY) for row in rows]


def _read_numbered_lines(name: str, text: str) -> list[Prompt]:
    """Rows `number,prompt` whose prompts have commas but no quotes around them, as in the HPD v2 file."""
    rows = []
    for line in text.splitlines()[1:]:
        match = re.fullmatch(r"\s*\d+,(.*)", line)
        if not match:
            raise InvalidInput(f"{name} has more columns in some rows than in its first: put prompts in quotes.")
        prompt = match[1].strip()
        quoted = len(prompt) > 1 and prompt[0] == prompt[-1] == '"'
        rows.append(Prompt(prompt[1:-1].replace('""', '"') if quoted else prompt))
    return rows


def _cell(row: Sequence[str], column: int) -> str:
    return row[column] if column < len(row) else ""


def _find_column(name: str, columns: Sequence[str], wanted: Sequence[str]) -> str:
    for column in columns:
        if str(column).strip().lower() in wanted:
            return column
    listed = ", ".join(str(column)[:30] for column in columns[:6])
    raise InvalidInput(f"{name} has no column of prompts: name one of its columns ({listed}) {' or '.join(wanted)}.")
