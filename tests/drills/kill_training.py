"""Kill a training at random moments and in the middle of saves: it resumes, and learns what an uninterrupted one does.

    python tests/drills/kill_training.py --kills 20

Every second kill falls while a checkpoint is being written: as soon as its temporary file is seen. The log's losses and
the final weights are compared with those of an undisturbed training.
"""

import argparse
import json
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
from killing import kill, make_rng, start
from safetensors.torch import load_file

import train.sampling
import train.trainer  # noqa: F401
from golden.noise import source_noise
from golden.shapes import sample_caption
from train.pairs import Shard, write_manifest, write_shard
from train.train_npnet import main as train_npnet

NUM_SHARDS, SHARD_SIZE = 8, 32
TOLERANCE = 1e-6
OPTIONS = ("--filter", "all", "--batch-size", 16, "--swin-width", 16, "--checkpoint-every", 3, "--device", "cpu")


def make_pairs(folder: Path) -> None:
    """Pairs whose target noise is half of the source noise."""
    rng = np.random.default_rng(0)
    write_manifest(folder, {"settings": {"model": "shapes", "targets": ["10x1"]}})
    for shard in range(NUM_SHARDS):
        indices = range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE)
        source = source_noise(indices, (4, 16, 16))
        rows = pd.DataFrame({"index": indices, "prompt": [sample_caption(rng) for _ in indices], "target": "10x1"})
        write_shard(folder, shard, Shard(source, source / 2, rows))


def is_saving(out: Path) -> bool:
    """Whether a checkpoint is being written."""
    return next(out.glob(".checkpoint.pt.*"), None) is not None


def wait(process: BaseProcess, until: float, condition=lambda: False) -> bool:
    """Wait for a moment, or until a condition holds. Returns whether the process is still there."""
    while process.exitcode is None and time.perf_counter() < until and not condition():
        time.sleep(0.0005)
    return process.exitcode is None


def run_drill(folder: Path, num_kills: int, num_epochs: int, seed: int | None) -> None:
    rng = make_rng(seed)
    pairs, unbroken, killed = (folder / name for name in ("pairs", "unbroken", "killed"))
    make_pairs(pairs)
    options = (*OPTIONS, "--num-epochs", num_epochs)
    started = time.perf_counter()
    reference = start(train_npnet, pairs, "--out", unbroken, *options)
    reference.join()
    assert reference.exitcode == 0, f"the undisturbed training ended with {reference.exitcode}"
    seconds = time.perf_counter() - started
    print(f"undisturbed: {num_epochs} epochs in {seconds:.0f} s", flush=True)

    started = time.perf_counter()
    kills = kills_in_saves = 0
    process = start(train_npnet, pairs, "--out", killed, *options)
    while process.exitcode is None:
        if kills == num_kills:
            process.join()
            break
        # A resumed process first loads and validates: it is let alone until it has saved something new.
        before = (killed / "checkpoint.pt").stat().st_mtime_ns if (killed / "checkpoint.pt").exists() else 0

        def has_saved(before: int = before) -> bool:
            path = killed / "checkpoint.pt"
            return path.exists() and path.stat().st_mtime_ns > before

        wait(process, float("inf"), has_saved)
        if kills % 2:
            wait(process, float("inf"), lambda: is_saving(killed))
            time.sleep(rng.uniform(0, 0.02))
        else:
            wait(process, time.perf_counter() + rng.uniform(0, seconds / 20))
        if process.exitcode is not None:
            break
        kill(process)
        kills += 1
        kills_in_saves += is_saving(killed)
        step = json.loads((killed / "log.jsonl").read_text().splitlines()[-1])["step"]
        print(f"kill {kills} after step {step}{', in a save' if is_saving(killed) else ''}", flush=True)
        process = start(train_npnet, pairs, "--out", killed, *options)
    print(f"{kills} kills, {kills_in_saves} of them in a save, in {time.perf_counter() - started:.0f} s")
    assert process.exitcode == 0, f"the last training ended with {process.exitcode}"
    assert kills == num_kills, f"the training was finished after {kills} kills: give it more --epochs"

    logs = [[json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (unbroken, killed)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    losses = max(abs(a[name] - b[name]) for a, b in zip(*logs, strict=True) for name in ("train", "validation"))
    weights = [load_file(out / "npnet.safetensors") for out in (unbroken, killed)]
    difference = max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0])
    print(f"largest difference of {2 * len(logs[0])} losses {losses:.1e}, of the weights {difference:.1e}")
    litter = [path.name for path in killed.iterdir() if path.name.startswith(".")]
    assert losses <= TOLERANCE
    assert difference <= TOLERANCE
    assert not litter, f"left over: {litter}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, help="(default: one for each kill)")
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_drill(Path(folder), arguments.kills, arguments.epochs or arguments.kills, arguments.seed)
    print("passed")


if __name__ == "__main__":
    main()
