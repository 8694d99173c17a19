"""Damage shards at random, a thousand times: every flipped byte and every cut is found, and nothing else is blamed.

python tests/drills/damage_shards.py --num 1000
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd
import torch
from killing import make_rng

from train.pairs import Shard, find_faults, shard_paths, write_shard

NUM_SHARDS = 8


def make_shards(folder: Path) -> None:
    """Shards as a collection writes them, of random noises."""
    for index in range(NUM_SHARDS):
        source, target = torch.randn(2, 8, 4, 16, 16)
        rows = pd.DataFrame({"index": range(8), "prompt": "a red circle", "seed": range(8), "target": "10x1"})
        write_shard(folder, index, Shard(source, target, rows.assign(target_score=torch.rand(8).numpy())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    rng = make_rng(arguments.seed)
    kinds = {"flipped": 0, "cut": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(folder)
        assert not any(find_faults(folder).values()), "whole shards are called damaged"
        for number in range(arguments.num):
            index, part = rng.randrange(NUM_SHARDS), rng.randrange(3)
            path = shard_paths(folder, index)[part]
            data = path.read_bytes()
            kind = rng.choice([*kinds])
            at = rng.randrange(len(data))
            damaged = (
                data[:at] if kind == "cut" else data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            )
            path.write_bytes(damaged)
            found = [index for index, fault in find_faults(folder).items() if fault]
            assert found == [index], f"damage {number}: {kind} at byte {at} of {path.name}: found {found}"
            kinds[kind] += 1
            path.write_bytes(data)
    print(f"{kinds['flipped']} flipped bits and {kinds['cut']} cuts: all {arguments.num} found, no other shard blamed")


if __name__ == "__main__":
    main()
