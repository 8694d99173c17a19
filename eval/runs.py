"""The folder of a benchmark run: it grows part by part, survives being killed, and ends as one table of rows.

manifest.json      what decides the rows (identity), and how they came about: versions, commit, devices, seconds
parts/00012.parquet  the rows of one batch; a part is there whole or not at all
timings-0.jsonl    seconds of each batch that worker 0 rendered
rows.parquet, rows.csv  all rows, once every part is there
"""

import importlib.metadata
import io
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import torch

from eval.rendering import Unit, Variant
from golden.errors import GoldenError, InvalidInput
from golden.files import sha256, write_bytes
from golden.models import ModelSpec

KEYS = ["prompt_index", "seed", "variant"]
EXTRAS = ["features", "thumbnail"]  # of each row, kept in the parts and not in the table
PACKAGES = ("torch", "diffusers", "transformers", "timm", "numpy", "scipy", "pandas", "pyarrow")
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def said_plainly(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one sentence; the parts that are there stay."""
    try:
        yield
    except OSError as error:
        raise GoldenError(
            f"Cannot write to {folder}: {error.strerror or error}. What is finished stays; start again to go on."
        ) from error


class RunFolder:
    """Parts, timings and manifest of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def open(self, identity: dict, record: dict, *, write: bool = True) -> None:
        """Begin a run, or go on with one whose identity is the same; `record` describes this start of it.

        Raises: InvalidInput naming the first thing that differs, so that no table is of two minds; GoldenError if the
        folder cannot be written.
        """
        identity = json.loads(json.dumps(identity))  # tuples become lists, as they will when read back
        manifest = self.read_manifest() or {"identity": identity, "starts": []}
        for name in dict.fromkeys([*identity, *manifest["identity"]]):
            there, here = manifest["identity"].get(name), identity.get(name)
            if there != here:
                raise InvalidInput(
                    f"{self.folder} holds a run with {name} = {_short(there)}, not {_short(here)}: "
                    "give the same settings to go on with it, or another folder with --out."
                )
        with said_plainly(self.folder):
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            if write:
                manifest["starts"].append(record)
                self._write_manifest(manifest)

    def read_manifest(self) -> dict | None:
        """The manifest, or None where there is none yet. Raises: InvalidInput if it is damaged."""
        if not self.manifest_path.is_file():
            return None
        try:
            manifest = json.loads(self.manifest_path.read_text())
            if isinstance(manifest["identity"], dict) and isinstance(manifest["starts"], list):
                return manifest
        except (ValueError, KeyError, TypeError):
            pass
        raise InvalidInput(f"{self.manifest_path} is damaged: give another folder with --out.")

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest, such as the seconds that the run took."""
        manifest = self.read_manifest()
        assert manifest is not None, "the run was not opened"
        self._write_manifest(manifest | facts)

    def _write_manifest(self, manifest: dict) -> None:
        with said_plainly(self.folder):
            write_bytes(self.manifest_path, json.dumps(manifest, indent=2, ensure_ascii=False).encode())

    def part_path(self, index: int) -> Path:
        return self.folder / "parts" / f"{index:05d}.parquet"

    def has_part(self, index: int, variants: Sequence[Variant], units: Sequence[Unit]) -> bool:
        """Whether a part is there and holds the rows that it should; a damaged one counts as missing."""
        path = self.part_path(index)
        if not path.is_file():
            return False
        try:
            keys = pd.read_parquet(path, columns=KEYS)
        except (OSError, ValueError, pyarrow.ArrowException):
            return False
        expected = [(unit.prompt_index, unit.seed, variant.name) for variant in variants for unit in units]
        return list(keys.itertuples(index=False, name=None)) == expected

    def write_part(self, index: int, rows: pd.DataFrame, seconds: dict, rank: int = 0) -> None:
        """Write the rows of a batch, atomically, and note its seconds."""
        with said_plainly(self.folder):
            with open(self.folder / f"timings-{rank}.jsonl", "a") as file:
                # A line begins with its line break, so that one that a kill tore spoils none but itself.
                file.write("\n" + json.dumps({"part": index, "units": len(rows.drop_duplicates(KEYS[:2])), **seconds}))
            write_bytes(self.part_path(index), to_parquet(rows))

    def read_timings(self) -> list[dict]:
        """The seconds of every batch, as last rendered; a line that a kill tore is left out."""
        timings: dict[int, dict] = {}
        for path in sorted(self.folder.glob("timings-*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                    timings[entry["part"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue
        return [timings[index] for index in sorted(timings)]

    def merge(self, num_parts: int, variants: Sequence[Variant]) -> pd.DataFrame:
        """All rows, prompt by prompt, seed by seed, variants in their order; written as rows.parquet and rows.csv."""
        rows = self._read_parts(num_parts, variants).drop(columns=EXTRAS, errors="ignore")
        with said_plainly(self.folder):
            write_bytes(self.folder / "rows.parquet", to_parquet(rows))
            write_bytes(self.folder / "rows.csv", rows.to_csv(index=False).encode())
        return rows

    def read_extras(self, num_parts: int, variants: Sequence[Variant]) -> pd.DataFrame:
        """Thumbnails and, where a CLIP model looked, features of all rows, in the order of `merge`."""
        rows = self._read_parts(num_parts, variants)
        return rows[[*KEYS, *(name for name in EXTRAS if name in rows)]]

    def _read_parts(self, num_parts: int, variants: Sequence[Variant]) -> pd.DataFrame:
        rows = pd.concat([pd.read_parquet(self.part_path(index)) for index in range(num_parts)], ignore_index=True)
        order = {variant.name: rank for rank, variant in enumerate(variants)}
        rows = rows.assign(_rank=rows["variant"].map(order)).sort_values(["prompt_index", "seed", "_rank"])
        return rows.drop(columns="_rank").reset_index(drop=True)


def to_parquet(rows: pd.DataFrame) -> bytes:
    """Rows as Parquet; the same rows give the same bytes."""
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False)
    return buffer.getvalue()


def wait_for_parts(run: RunFolder, plan: Sequence[Sequence[Unit]], variants: Sequence[Variant]) -> None:
    """Wait until the other workers of a torchrun have written their parts; it ends all of them if one fails."""
    for index, units in enumerate(plan):
        while not run.has_part(index, variants, units):
            time.sleep(1)


def describe_machine(device: str) -> dict:
    """Versions, commit, platform and device, for the manifest."""
    cuda = torch.device(device).type == "cuda"
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": find_commit(),
    }


def find_commit() -> str | None:
    """The git commit of the project, with "+" behind it if files differ; None outside a clone."""

    def git(*arguments: str) -> str:
        call = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return call.stdout.strip()

    try:
        commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def hash_model(spec: ModelSpec) -> dict[str, str]:
    """SHA-256 of every weight file of a local model; the repository and revision of one from the hub."""
    folder = Path(spec.repo)
    if not folder.is_dir():
        return {"repo": spec.repo, "revision": spec.revision or "main"}
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*.safetensors"))}


def find_worker() -> tuple[int, int]:
    """(rank, number of workers) as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
