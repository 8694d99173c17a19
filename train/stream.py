"""Read a data set as a stream of batches: shuffled with a seed, resumable in mid-epoch, in constant memory.

Only the selection of pairs grows with the data set, by 9 bytes per pair. Noises and prompt embeddings are read shard by
shard when needed, and dropped after their last pair.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from golden.errors import BadWeights, InvalidInput
from golden.families import find_family
from golden.files import load_weights, save_weights
from golden.model import load_model
from golden.models import find_model
from golden.noise import at_norm_of
from golden.pipelines import encode_anew
from golden.provenance import hash_model
from golden.shapes import CATEGORIES, parse_caption
from train.filters import default_filter, find_filter
from train.pairs import finished_shards, hash_json, read_manifest, read_shard, shard_paths

VALIDATION_SHARE = 0.05
SHUFFLED_TOGETHER = 2048
"""Pairs, in randomly drawn shards; half a gigabyte of SDXL's noises."""


class Batch(NamedTuple):
    """n pairs in fp32: source and target noise (n, C, h, w) and the embeddings of each pair's own prompt (n, T, D)."""

    source: Tensor
    prompt_embeds: Tensor
    target: Tensor


@dataclass(frozen=True)
class Rows:
    """Some pairs of a data set, N in all: the shard of each, its row there, and whether only the target's norm is
    learnt (the label is the source noise at that norm)."""

    shard: NDArray[np.int32]
    row: NDArray[np.int32]
    norm_only: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, chosen: NDArray | slice) -> "Rows":
        return Rows(self.shard[chosen], self.row[chosen], self.norm_only[chosen])


# --- which pairs ------------------------------------------------------------------------------------------------------


def find_default_filter(folder: Path) -> str:
    """The filter of a data set unless another is given. Raises: InvalidInput if it is empty or was not judged."""
    columns = [*pd.read_parquet(shard_paths(folder, _shards_of(folder)[0])[1])]
    name = default_filter(columns)
    if name is None:
        raise InvalidInput(f"The pairs in {folder} are not judged: train on all of them with --filter all.")
    return name


def _shards_of(folder: Path) -> list[int]:
    shards = finished_shards(folder)
    if not shards:
        raise InvalidInput(f"There are no pairs in {folder}: collect some with train/collect_pairs.py.")
    return shards


def choose_rows(
    folder: Path, filter_name: str, targets: Sequence[str] = (), margin: float = 0.0, kinds: Sequence[str] = ()
) -> tuple[Rows, Rows]:
    """The pairs to train on and those to validate on, in order; no validation prompt is trained on.

    `targets` selects kinds of target (default: all). `kinds` are the categories of caption whose target noise is
    learnt; for other captions the label is the source noise at the target's norm, so that NPNet keeps the direction
    where a change is not known to help.

    Raises: InvalidInput for an empty folder, an unknown filter, target or category, or a filter that keeps nothing.
    """
    has = read_manifest(folder)["settings"].get("targets", ())
    if unknown := set(targets) - set(has):
        raise InvalidInput(f"{folder} has no target {min(unknown)!r}: it has {', '.join(has)}.")
    if unknown := set(kinds) - set(CATEGORIES):
        raise InvalidInput(f"Unknown category of caption {min(unknown)!r}: choose from {', '.join(CATEGORIES)}.")
    shards = _shards_of(folder)
    parts: tuple[list[Rows], list[Rows]] = ([], [])
    num_pairs = 0
    for shard in tqdm(shards, "choosing pairs", mininterval=2, delay=2, disable=None):
        rows = pd.read_parquet(shard_paths(folder, shard)[1])
        num_pairs += len(rows)
        kept = find_filter(filter_name, [*rows.columns], margin)(rows).to_numpy(bool)
        if targets:
            kept = kept & rows["target"].isin(targets).to_numpy()
        held_out = np.array([is_held_out(prompt) for prompt in rows["prompt"]])
        learnt = [not kinds or parse_caption(prompt).category in kinds for prompt in rows["prompt"]]
        for part, side in zip(parts, (~held_out, held_out), strict=True):
            row = np.flatnonzero(kept & side).astype(np.int32)
            part.append(Rows(np.full(len(row), shard, np.int32), row, ~np.array(learnt)[row]))
    train, validation = (_concatenate(part) for part in parts)
    if not len(train):
        raise InvalidInput(f"The filter {filter_name!r} keeps none of the {num_pairs} pairs in {folder}.")
    return train, validation


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is for validation, whichever data set it is in."""
    return zlib.crc32(prompt.encode()) % 1000 < 1000 * VALIDATION_SHARE


def _concatenate(parts: Sequence[Rows]) -> Rows:
    return Rows(
        np.concatenate([part.shard for part in parts]),
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.norm_only for part in parts]),
    )


def shuffle(rows: Rows, seed: int, epoch: int) -> Rows:
    """The rows in an order decided by (seed, epoch): shards at random, and pairs at random within groups of shards."""
    rng = np.random.default_rng((seed, epoch))
    shards, shard_of, counts = np.unique(rows.shard, return_inverse=True, return_counts=True)
    drawn = rng.permutation(len(shards))
    first = np.empty(len(shards), np.int64)
    first[drawn] = np.cumsum(counts[drawn]) - counts[drawn]
    return rows[np.lexsort((rng.random(len(rows)), first[shard_of] // SHUFFLED_TOGETHER))]


def held_out_prompts(folder: Path, num: int) -> list[str]:
    """The first validation prompts of a data set, at most `num`."""
    prompts: dict[str, None] = {}
    for shard in finished_shards(folder):
        if len(prompts) >= num:
            break
        rows = pd.read_parquet(shard_paths(folder, shard)[1], columns=["prompt"])
        prompts |= dict.fromkeys(prompt for prompt in rows["prompt"] if is_held_out(prompt))
    return [*prompts][:num]


# --- prompt embeddings on disk ----------------------------------------------------------------------------------------


def embeds_folder(folder: Path) -> Path:
    """The folder of a data set's prompt embeddings, named after the model's weights so that none go stale."""
    spec = find_model(read_manifest(folder)["settings"]["model"])
    return folder / "prompt_embeds" / hash_json(hash_model(spec))


def keep_embeds(folder: Path, device: str = "cpu", worker: int = 0, num_workers: int = 1) -> None:
    """Encode the prompts of all shards whose embeddings are not on disk yet, or one worker's share of them.

    Raises: MissingWeights if this needs the model and its weights cannot be found.
    """
    where = embeds_folder(folder)
    share = finished_shards(folder)[worker::num_workers]
    missing = [shard for shard in share if not _embeds_path(where, shard).is_file()]
    if not missing:
        return
    pipeline = load_model(read_manifest(folder)["settings"]["model"], device=device).pipeline
    for shard in tqdm(missing, "prompt embeddings", mininterval=2, disable=None):
        prompts = _distinct(pd.read_parquet(shard_paths(folder, shard)[1], columns=["prompt"])["prompt"])
        parts = [prompts[i : i + _ENCODED_AT_ONCE] for i in range(0, len(prompts), _ENCODED_AT_ONCE)]
        read = find_family(pipeline).npnet_embeds
        embeds = torch.cat([read(encode_anew(pipeline, part)) for part in parts])
        save_weights(_embeds_path(where, shard), {"prompt_embeds": embeds}, {"prompts": _hash_prompts(prompts)})


_ENCODED_AT_ONCE = 64


def _embeds_path(where: Path, shard: int) -> Path:
    return where / f"{shard:05d}.safetensors"


def _distinct(prompts: Iterable[str]) -> list[str]:
    return [*dict.fromkeys(prompts)]


def _hash_prompts(prompts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()


# --- reading ----------------------------------------------------------------------------------------------------------


class _Held(NamedTuple):
    """A shard in memory, in the precision of its file; `prompt_index` maps rows to embeddings."""

    source: Tensor
    target: Tensor
    prompt_embeds: Tensor
    prompt_index: list[int]


class PairStream:
    """The pairs of a folder whose prompt embeddings are on disk (`keep_embeds`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.embeds_folder = embeds_folder(folder)

    def batches(self, rows: Rows, batch_size: int, *, start: int = 0) -> Iterator[Batch]:
        """Batches of `batch_size` pairs in the order of `rows`, the last one smaller, from batch number `start` on.

        Raises: BadWeights for a damaged shard.
        """
        rows = rows[slice(start * batch_size, None)]
        left = np.bincount(rows.shard)
        held: dict[int, _Held] = {}
        for first in range(0, len(rows), batch_size):
            chosen = rows[slice(first, first + batch_size)]
            shards, counts = np.unique(chosen.shard, return_counts=True)
            for shard in shards.tolist():
                if shard not in held:
                    held[shard] = self._read(shard)
            yield _gather(held, chosen)
            left[shards] -= counts
            for shard in shards[left[shards] == 0].tolist():
                del held[shard]

    def first(self, rows: Rows) -> Batch:
        """The first pair alone, for its shapes."""
        return next(self.batches(rows, 1))

    def _read(self, index: int) -> _Held:
        shard = read_shard(self.folder, index)
        prompts = _distinct(shard.rows["prompt"])
        tensors, metadata = load_weights(_embeds_path(self.embeds_folder, index))
        if metadata.get("prompts") != _hash_prompts(prompts):
            raise BadWeights(f"The embeddings in {self.embeds_folder} belong to other prompts: delete that folder.")
        place = {prompt: i for i, prompt in enumerate(prompts)}
        prompt_index = [place[prompt] for prompt in shard.rows["prompt"]]
        return _Held(shard.source_noise, shard.target_noise, tensors["prompt_embeds"], prompt_index)


def _gather(held: Mapping[int, _Held], rows: Rows) -> Batch:
    """The pairs of some rows, each with the embeddings of its own prompt."""
    where = [(held[shard], row) for shard, row in zip(rows.shard.tolist(), rows.row.tolist(), strict=True)]
    source = torch.stack([shard.source[row] for shard, row in where]).float()
    target = torch.stack([shard.target[row] for shard, row in where]).float()
    embeds = torch.stack([shard.prompt_embeds[shard.prompt_index[row]] for shard, row in where]).float()
    norm_only = torch.from_numpy(rows.norm_only)[:, None, None, None]
    return Batch(source, embeds, torch.where(norm_only, at_norm_of(source, target), target))
