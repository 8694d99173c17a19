"""Memory of the stream of pairs, from a thousand pairs to a hundred thousand.

    python tests/drills/reader_memory.py --pairs 1000 10000 100000

The shards hold random noises of the embedded model's size, and the same prompts, so that these are encoded once. For
each size a process chooses the pairs, reads an epoch of them in shuffled batches of 64, and the validation pairs. Its
peak resident memory is printed next to that of a process that reads a single batch.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from golden.shapes import sample_caption
from train.pairs import Shard, write_manifest, write_shard
from train.stream import PairStream, choose_rows, embeds_folder, keep_embeds, shuffle

SHARD_SIZE = 64
BATCH_SIZE = 64
MOST_GROWTH_MB = 64


def make_pairs(folder: Path, num_pairs: int) -> None:
    """A data set whose shards differ only in their noises."""
    write_manifest(folder, {"settings": {"model": "shapes", "targets": ["10x1"]}})
    rng = np.random.default_rng(0)
    prompts = [sample_caption(rng) for _ in range(SHARD_SIZE)]
    for shard in range(num_pairs // SHARD_SIZE):
        source, target = torch.randn(2, SHARD_SIZE, 4, 16, 16)
        rows = pd.DataFrame({"index": range(SHARD_SIZE), "prompt": prompts, "target": "10x1"})
        write_shard(folder, shard, Shard(source, target, rows))
        if not shard:
            keep_embeds(folder)
        for path in embeds_folder(folder).glob("00000.*") if shard else ():
            os.link(path, path.with_name(path.name.replace("00000", f"{shard:05d}", 1)))


def read(folder: Path, num_batches: int | None) -> None:
    """Read some batches, or an epoch and the validation pairs; print their number and the peak memory in MB."""
    rows, validation = choose_rows(folder, "all")
    stream = PairStream(folder)
    num_pairs = 0
    for number, batch in enumerate(stream.batches(shuffle(rows, 0, 0), BATCH_SIZE)):
        if number == num_batches:
            break
        num_pairs += len(batch.target)
    if num_batches is None:
        num_pairs += sum(len(batch.target) for batch in stream.batches(validation, BATCH_SIZE))
    print(num_pairs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(folder: Path, *options: str) -> tuple[int, float]:
    command = [sys.executable, __file__, "--read", str(folder), *options]
    pairs, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(pairs), float(megabytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read, arguments.batches)
        return
    peaks = []
    for num_pairs in arguments.pairs:
        with tempfile.TemporaryDirectory() as name:
            make_pairs(Path(name), num_pairs)
            _, base = measure(Path(name), "--batches", "1")
            started = time.perf_counter()
            pairs, peak = measure(Path(name))
            seconds = time.perf_counter() - started
        peaks.append(peak)
        print(f"{pairs} pairs: {peak:.0f} MB at most ({base:.0f} MB for one batch), {seconds:.0f} s", flush=True)
    assert max(peaks) - min(peaks[1:] or peaks) < MOST_GROWTH_MB, "memory grows with the number of pairs"


if __name__ == "__main__":
    main()
