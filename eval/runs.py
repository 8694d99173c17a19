"""The folder of a benchmark run: it grows part by part, survives being killed, and ends as one table of rows.

manifest.json           what decides the rows (identity), and their provenance: versions, commit, devices, seconds
parts/00012.parquet     the rows of one batch, complete or absent
timings-0.jsonl         seconds of each batch that worker 0 rendered
rows.parquet, rows.csv  all rows, once every part is complete
"""

import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow

from eval.rendering import BatchPlan, Unit, Variant
from golden.errors import GoldenError, InvalidInput
from golden.files import write_bytes

KEYS = ["prompt_index", "seed", "variant"]
EXTRAS = ["features", "layout", "thumbnail"]  # of each row, kept in the parts but not in the table


@contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one sentence.

    Raises: GoldenError for any OSError in the block.
    """
    try:
        yield
    except OSError as error:
        raise GoldenError(
            f"Cannot write to {folder}: {error.strerror or error}. Finished parts are kept; run again to resume."
        ) from error


class RunFolder:
    """Parts, timings and manifest of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def open(self, identity: dict, record: dict, *, write: bool = True) -> None:
        """Start a run, or resume one with the same identity; `record` describes this start of it.

        Raises: InvalidInput naming the first difference, so that no table mixes two settings; GoldenError if the folder
        cannot be written.
        """
        identity = json.loads(json.dumps(identity))  # tuples become lists, as when read back
        manifest = self.read_manifest() or {"identity": identity, "starts": []}
        for name in dict.fromkeys([*identity, *manifest["identity"]]):
            there, here = manifest["identity"].get(name), identity.get(name)
            if there != here:
                raise InvalidInput(
                    f"{self.folder} holds a run with {name} = {_short(there)}, not {_short(here)}: "
                    "give the same settings to resume it, or another folder with --out."
                )
        with explain_write_errors(self.folder):
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            if write:
                manifest["starts"].append(record)
                self._write_manifest(manifest)

    def read_manifest(self) -> dict | None:
        """The manifest, or None if there is none yet. Raises: InvalidInput if it is damaged."""
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
        with explain_write_errors(self.folder):
            write_bytes(self.manifest_path, json.dumps(manifest, indent=2, ensure_ascii=False).encode())

    def part_path(self, index: int) -> Path:
        return self.folder / "parts" / f"{index:05d}.parquet"

    def has_part(self, index: int, variants: Sequence[Variant], units: Sequence[Unit]) -> bool:
        """Whether a part exists and holds the rows that it should; a damaged one counts as missing."""
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
        """Write the rows of a batch, atomically, and record its seconds."""
        with explain_write_errors(self.folder):
            with open(self.folder / f"timings-{rank}.jsonl", "a") as file:
                # The line break comes first, so that a line torn by a kill does not spoil the next one.
                units, variants = len(rows.drop_duplicates(KEYS[:2])), rows["variant"].drop_duplicates().tolist()
                file.write("\n" + json.dumps({"part": index, "units": units, "variants": variants, **seconds}))
            write_bytes(self.part_path(index), to_parquet(rows))

    def read_timings(self) -> list[dict]:
        """The seconds of every batch, as last rendered; lines torn by a kill are left out."""
        timings: dict[int, dict] = {}
        for path in sorted(self.folder.glob("timings-*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    entry = _update_timing(json.loads(line))
                    timings[entry["part"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue
        return [timings[index] for index in sorted(timings)]

    def merge(self, num_parts: int, variants: Sequence[Variant]) -> pd.DataFrame:
        """All rows, prompt by prompt, seed by seed, variants in their order; written as rows.parquet and rows.csv."""
        rows = self._read_parts(num_parts, variants).drop(columns=EXTRAS, errors="ignore")
        with explain_write_errors(self.folder):
            write_bytes(self.folder / "rows.parquet", to_parquet(rows))
            write_bytes(self.folder / "rows.csv", rows.to_csv(index=False).encode())
        return rows

    def read_extras(self, num_parts: int, variants: Sequence[Variant]) -> pd.DataFrame:
        """Thumbnails, and features and layouts if something could make them, of all rows in the order of `merge`."""
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


def wait_for_parts(run: RunFolder, plan: Sequence[BatchPlan]) -> None:
    """Wait until the other workers of torchrun have written their parts; torchrun ends all of them if one fails."""
    for index, batch in enumerate(plan):
        while not run.has_part(index, batch.variants, batch.units):
            time.sleep(1)


def _update_timing(entry: dict) -> dict:
    """The seconds of a batch in today's form; earlier versions timed denoising and decoding apart."""
    if "denoise" not in entry:
        return entry
    decode = entry["decode"] / max(1, len(entry["denoise"]))
    sampling = {name: seconds + decode for name, seconds in entry["denoise"].items()}
    return {"part": entry["part"], "units": entry["units"], "noise": entry["noise"]} | {
        "sampling": sampling,
        "measuring": entry["measure"],
    }


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
