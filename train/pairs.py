"""The shard format of noise pairs: write, verify, read.

A data set is a folder of `manifest.json` and, for each shard, three files that appear in this order:

    shard-00007.safetensors   source_noise, target_noise: (n, C, h, w) in half precision
    shard-00007.parquet       n rows: index, prompt, seed, scores and verdicts of both pictures
    shard-00007.sha256        the SHA-256 of both; a shard without it is not there

Rejected pairs stay in, so that another filter needs no new rendering.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load as load_safetensors_bytes
from safetensors.torch import save as save_safetensors_bytes
from torch import Tensor

from eval.statistics import bootstrap_mean
from golden.errors import BadWeights, InvalidInput
from golden.files import sha256, write_bytes


@dataclass(frozen=True)
class Shard:
    """Pairs of one batch: noises (n, C, h, w) and one row of `rows` each."""

    source_noise: Tensor
    target_noise: Tensor
    rows: pd.DataFrame


def shard_paths(folder: Path, index: int) -> tuple[Path, Path, Path]:
    """(tensors, rows, hashes) of a shard."""
    stem = folder / f"shard-{index:05d}"
    return stem.with_suffix(".safetensors"), stem.with_suffix(".parquet"), stem.with_suffix(".sha256")


def write_shard(folder: Path, index: int, shard: Shard) -> None:
    """Write a shard; it exists from the moment its hash file does."""
    tensors_path, rows_path, hashes_path = shard_paths(folder, index)
    tensors = {"source_noise": shard.source_noise.half(), "target_noise": shard.target_noise.half()}
    write_bytes(tensors_path, save_safetensors_bytes({name: value.contiguous() for name, value in tensors.items()}))
    write_bytes(rows_path, shard.rows.to_parquet(index=False))
    lines = [f"{sha256(path)}  {path.name}\n" for path in (tensors_path, rows_path)]
    write_bytes(hashes_path, "".join(lines).encode())


def is_intact(folder: Path, index: int) -> bool:
    """Whether a shard is complete and its bytes are those that were written."""
    tensors_path, rows_path, hashes_path = shard_paths(folder, index)
    if not all(path.is_file() for path in (tensors_path, rows_path, hashes_path)):
        return False
    expected = [f"{sha256(path)}  {path.name}" for path in (tensors_path, rows_path)]
    return hashes_path.read_bytes().decode(errors="replace").splitlines() == expected


def quarantine(folder: Path, index: int) -> None:
    """Move what there is of a damaged shard out of the way, to be looked at and never read."""
    (folder / "quarantine").mkdir(exist_ok=True)
    for path in shard_paths(folder, index):
        if path.exists():
            path.replace(folder / "quarantine" / path.name)


def finished_shards(folder: Path) -> list[int]:
    """Indices of the shards that have a hash file, in order."""
    return sorted(int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.sha256"))


def read_shard(folder: Path, index: int) -> Shard:
    """Read and verify one shard. Raises: BadWeights if its bytes are not those that were written."""
    if not is_intact(folder, index):
        raise BadWeights(f"Shard {index} of {folder} is damaged or incomplete: run the collection again to mend it.")
    tensors_path, rows_path, _ = shard_paths(folder, index)
    tensors = load_safetensors_bytes(tensors_path.read_bytes())
    return Shard(tensors["source_noise"], tensors["target_noise"], pd.read_parquet(rows_path))


def read_shards(folder: Path, indices: Sequence[int] | None = None) -> Iterator[Shard]:
    """The shards of a data set, one at a time. Raises: InvalidInput if there is none."""
    indices = finished_shards(folder) if indices is None else indices
    if not indices:
        raise InvalidInput(f"There are no pairs in {folder}: collect some with train/collect_pairs.py.")
    for index in indices:
        yield read_shard(folder, index)


def read_rows(folder: Path) -> pd.DataFrame:
    """The rows of all finished shards, without their noises."""
    return pd.concat([pd.read_parquet(shard_paths(folder, index)[1]) for index in finished_shards(folder)])


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write the manifest, or check that the one that is there says the same.

    Raises: InvalidInput naming the first setting that differs, so that no data set is of two minds.
    """
    path = folder / "manifest.json"
    if path.is_file():
        existing = json.loads(path.read_text())
        for name, value in manifest["settings"].items():
            if existing["settings"].get(name) != value:
                raise InvalidInput(
                    f"{folder} was collected with {name}={existing['settings'].get(name)!r}, not {value!r}: "
                    "give the same settings to go on with it, or another folder."
                )
        return
    write_bytes(path, json.dumps(manifest, indent=2).encode())


def read_manifest(folder: Path) -> dict:
    """The manifest of a data set. Raises: InvalidInput if there is none."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise InvalidInput(f"{folder} is no folder of pairs: it has no manifest.json.")
    return json.loads(path.read_text())


def stack_shards(shards: Sequence[Shard]) -> Shard:
    """Several shards as one, in fp32."""
    return Shard(
        torch.cat([shard.source_noise for shard in shards]).float(),
        torch.cat([shard.target_noise for shard in shards]).float(),
        pd.concat([shard.rows for shard in shards], ignore_index=True),
    )


def describe_gains(rows: pd.DataFrame) -> list[str]:
    """By kind of target, a line on each figure of its pictures against the source's: mean gain and 95 % interval.

    The verdict `right` counts in percent, every other figure in its own units. Rows without figures give no lines.
    """
    figures = [
        column.removeprefix("target_")
        for column in rows.columns
        if column.startswith("target_") and pd.api.types.is_numeric_dtype(rows[column])
    ]
    lines = []
    for kind, group in rows.groupby("target", sort=False):
        for name in figures if kind != "source" else ():
            scale = 100 if name == "right" else 1
            source, target = (scale * group[f"{side}_{name}"].astype(float) for side in ("source", "target"))
            gain = bootstrap_mean(target - source, group["prompt"].astype("category").cat.codes)
            lines.append(
                f"{kind:10} {name:12} {source.mean():8.3f} -> {target.mean():8.3f}  {gain.value:+.3f} "
                f"[{gain.low:+.3f}, {gain.high:+.3f}]  {len(group)} pairs"
            )
    return lines
