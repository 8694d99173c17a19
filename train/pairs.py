"""The shard format of noise pairs: write, verify, read.

    python train/pairs.py verify runs/pairs                # list damaged shards; exit code 1 if there are any
    python train/pairs.py verify runs/pairs --quarantine   # and move them aside: collecting again replaces them

A data set is a folder with `manifest.json` and three files per shard, written in this order:

    shard-00007.safetensors   source_noise, target_noise: (n, C, h, w) in half precision
    shard-00007.parquet       n rows: index, prompt, seed, target; of both images (`source_`, `target_`) the checker's
                              right, score and fault ("" if right) and the judges' scores; kept, reason
    shard-00007.sha256        the SHA-256 of both; a shard without this file does not exist

Rejected pairs are kept in the data set, so that another filter needs no new images. Prompt embeddings are not stored:
the model computes them from the prompts.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load as load_safetensors_bytes
from safetensors.torch import save as save_safetensors_bytes
from torch import Tensor
from tqdm import tqdm

from golden.errors import ArgumentParser, BadWeights, InvalidInput, run_command
from golden.files import write_bytes
from golden.flags import add_flags, flag, read_flags
from golden.statistics import bootstrap_mean


@dataclass(frozen=True)
class Shard:
    """The pairs of one batch: noises (n, C, h, w) with one row of `rows` each."""

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
    tensor_bytes = save_safetensors_bytes({name: value.contiguous() for name, value in tensors.items()})
    row_bytes = shard.rows.to_parquet(index=False)
    write_bytes(tensors_path, tensor_bytes)
    write_bytes(rows_path, row_bytes)
    write_bytes(hashes_path, _hash_lines(folder, index, tensor_bytes, row_bytes))


def _hash_lines(folder: Path, index: int, *parts: bytes) -> bytes:
    """The contents of a shard's hash file, in the format of `sha256sum --check`."""
    names = [path.name for path in shard_paths(folder, index)]
    digests = [hashlib.sha256(part).hexdigest() for part in parts]
    return "".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=False)).encode()


def find_fault(folder: Path, index: int) -> str:
    """What is wrong with a shard; "" if it is complete and its bytes are those that were written."""
    return _read_verified(folder, index)[1]


def is_intact(folder: Path, index: int) -> bool:
    """Whether a shard is complete and its bytes are those that were written."""
    return not find_fault(folder, index)


def _read_verified(folder: Path, index: int) -> tuple[list[bytes], str]:
    """The bytes of a shard's tensors and rows, and what is wrong with them, "" if nothing is."""
    paths = shard_paths(folder, index)
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        return [], f"incomplete: {' and '.join(absent)} missing"
    *parts, hashes = (path.read_bytes() for path in paths)
    return parts, "" if hashes == _hash_lines(folder, index, *parts) else "damaged: its SHA-256 differs"


def quarantine(folder: Path, index: int) -> None:
    """Move the files of a damaged shard to FOLDER/quarantine, and delete temporary files of a killed worker."""
    for path in folder.glob(f".shard-{index:05d}.*"):
        path.unlink(missing_ok=True)
    for path in shard_paths(folder, index):
        if path.exists():
            (folder / "quarantine").mkdir(exist_ok=True)
            path.replace(folder / "quarantine" / path.name)


def find_faults(folder: Path) -> dict[int, str]:
    """Every shard that has any file, with what is wrong with it; "" if nothing is."""
    names = (re.fullmatch(r"shard-(\d+)\.(safetensors|parquet|sha256)", path.name) for path in folder.iterdir())
    indices = {int(name[1]) for name in names if name}
    return {index: find_fault(folder, index) for index in tqdm(sorted(indices), "shards", mininterval=1, disable=None)}


def finished_shards(folder: Path) -> list[int]:
    """Indices of the shards that have a hash file, in order."""
    return sorted(int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.sha256"))


def hash_shards(folder: Path, indices: Iterable[int]) -> str:
    """One SHA-256 of what finished shards hold, from the hashes that are recorded of them."""
    return hashlib.sha256(b"".join(shard_paths(folder, index)[2].read_bytes() for index in indices)).hexdigest()


def hash_json(value: Any) -> str:
    """A short hash of what JSON can hold, for the name of a folder that is valid for these values alone."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def read_shard(folder: Path, index: int) -> Shard:
    """Read and verify one shard. Raises: BadWeights if its bytes are not those that were written."""
    parts, fault = _read_verified(folder, index)
    if fault:
        raise BadWeights(f"Shard {index} of {folder} is {fault}. Run the collection again to replace it.")
    tensors = load_safetensors_bytes(parts[0])
    return Shard(tensors["source_noise"], tensors["target_noise"], pd.read_parquet(io.BytesIO(parts[1])))


def read_shards(folder: Path, indices: Sequence[int] | None = None) -> Iterator[Shard]:
    """The shards of a data set, one at a time. Raises: InvalidInput if there are none."""
    indices = finished_shards(folder) if indices is None else indices
    if not indices:
        raise InvalidInput(f"There are no pairs in {folder}: collect some with train/collect_pairs.py.")
    for index in indices:
        yield read_shard(folder, index)


def read_rows(folder: Path) -> pd.DataFrame:
    """The rows of all finished shards, without noises."""
    return pd.concat([pd.read_parquet(shard_paths(folder, index)[1]) for index in finished_shards(folder)])


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write the manifest, or check that an existing one has the same `settings` and `sources`.

    Settings that an existing manifest lacks are newer than the data set and did not affect it.

    Raises: InvalidInput naming the first setting that differs, so that a data set has one meaning.
    """
    path = folder / "manifest.json"
    manifest = json.loads(json.dumps(manifest))  # tuples become lists, as they will when read back
    if not path.is_file():
        write_bytes(path, json.dumps(manifest, indent=2).encode())
        return
    existing = read_manifest(folder)
    for part in ("settings", "sources"):
        there = existing.get(part, {})
        for name, value in manifest.get(part, {}).items():
            if there.get(name, value) != value:
                raise InvalidInput(
                    f"{folder} was collected with {name}={there[name]!r}, not {value!r}: "
                    "use the same settings to continue it, or another folder."
                )


def read_manifest(folder: Path) -> dict:
    """The manifest of a data set. Raises: InvalidInput if there is none or it is damaged."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise InvalidInput(f"{folder} is not a folder of pairs: it has no manifest.json.")
    try:
        manifest = json.loads(path.read_text())
        if isinstance(manifest["settings"], dict):
            return manifest
    except (ValueError, KeyError, TypeError):
        pass
    raise InvalidInput(f"{path} is damaged: it should be a JSON object with settings.")


def stack_shards(shards: Sequence[Shard]) -> Shard:
    """Several shards as one, in fp32."""
    return Shard(
        torch.cat([shard.source_noise for shard in shards]).float(),
        torch.cat([shard.target_noise for shard in shards]).float(),
        pd.concat([shard.rows for shard in shards], ignore_index=True),
    )


def describe_gains(rows: pd.DataFrame) -> list[str]:
    """For each kind of target and each figure of its images, a line with the mean gain over the source and its 95 % CI.

    `right` is in percent, every other figure in its own units. Rows without figures give no lines.
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


@dataclass(frozen=True)
class VerifyOptions:
    """The options of `pairs.py`."""

    command: str = flag(help="verify: check the SHA-256 of every shard", choices=("verify",), positional=True)
    folder: Path = flag(help="folder made by train/collect_pairs.py", positional=True)
    quarantine: bool = flag(False, "move damaged and incomplete shards aside")


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add_flags(parser, VerifyOptions)
    options = read_flags(VerifyOptions, parser.parse_args())
    read_manifest(options.folder)
    faults = find_faults(options.folder)
    damaged = {index: fault for index, fault in faults.items() if fault}
    for index, fault in damaged.items():
        print(f"shard {index} is {fault}")
        if options.quarantine:
            quarantine(options.folder, index)
    moved = f", damaged ones moved to {options.folder / 'quarantine'}" if damaged and options.quarantine else ""
    print(f"{len(faults) - len(damaged)} of {len(faults)} shards are whole{moved}")
    return 1 if damaged else 0


if __name__ == "__main__":
    run_command(main)
