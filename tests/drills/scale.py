"""Collect 100,000 pairs with 64 workers, one of which is killed every minute: nothing is lost, and how fast it goes.

    python tests/drills/scale.py                       # six minutes, nearly all of them asleep
    python tests/drills/scale.py --seconds-per-pair 2  # as long as a pair takes on the GPU in question

Claims, shards, checks and file system are the real ones, and each worker is a process that runs `collect_here`. What is
faked is the model, which sleeps for as long as it would sample, and the noises, which are small. Time is scaled: nearly
an hour passes in six minutes, kills included. The efficiency is the time that the shards need, over the time that all
workers were there.
"""

import argparse
import multiprocessing
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import torch

from train import collection as collecting
from train.make_shard import Collection
from train.pairs import Shard, find_fault, finished_shards, read_rows
from train.settings import CollectionSettings

CONTEXT = multiprocessing.get_context("fork")  # importing takes seconds, and workers are started again and again


@dataclass(frozen=True)
class Scale:
    """The simulated collection: real seconds, and how many of them pass in one."""

    num_workers: int = 64
    num_pairs: int = 100_000
    shard_size: int = 64
    seconds_per_pair: float = 2.0
    start_seconds: float = 30.0
    seconds_between_kills: float = 60.0
    speed: float = 8.5
    seed: int = 0

    @property
    def num_shards(self) -> int:
        return -(-self.num_pairs // self.shard_size)


@dataclass(frozen=True)
class Outcome:
    """What a drill found; seconds are the machine's own."""

    seconds: float
    num_kills: int
    efficiency: float
    faults: tuple[str, ...]


def fake_shard(index: int, size: int) -> Shard:
    """A small shard that is a function of its index, as real ones are."""
    generator = torch.Generator().manual_seed(index)
    noise = torch.randn(size, 1, 2, 2, generator=generator)
    numbers = range(index * size, (index + 1) * size)
    rows = pd.DataFrame({"index": numbers, "prompt": "a star", "seed": numbers, "target": "10x1"})
    return Shard(noise, noise + 1, rows)


def start_worker(folder: Path, scale: Scale) -> BaseProcess:
    """A process that runs the real collection with a fake model."""

    def run() -> None:
        def load(*_: object) -> None:
            time.sleep(scale.start_seconds / scale.speed)

        def sample(model: None, settings: CollectionSettings, index: int, *_: object) -> Shard:
            time.sleep(scale.seconds_per_pair * settings.shard_size / scale.speed)
            return fake_shard(index, settings.shard_size)

        torch.set_num_threads(1)
        collecting.load_collection_model = load  # type: ignore[assignment]
        collecting.load_collection_judges = lambda *_: None  # type: ignore[assignment]
        collecting.collect_shard = sample  # type: ignore[assignment]
        settings = CollectionSettings(shard_size=scale.shard_size, judged=False)
        collecting.collect_here(Collection(folder, settings, None, scale.num_shards, "cpu"), lambda shard: None)

    process = CONTEXT.Process(target=run, daemon=True)
    process.start()
    return process


def run_drill(folder: Path, scale: Scale) -> Outcome:
    """Collect with kills until every shard is there, then check every one of them."""
    rng, started, num_kills = random.Random(scale.seed), time.perf_counter(), 0
    workers = [start_worker(folder, scale) for _ in range(scale.num_workers)]
    next_kill, num_finished = started + scale.seconds_between_kills / scale.speed, 0
    while any(worker.is_alive() for worker in workers):
        alive = [place for place, worker in enumerate(workers) if worker.is_alive()]
        # A machine too slow to finish a shard between two kills would never finish any.
        if time.perf_counter() >= next_kill and alive and len(finished_shards(folder)) > num_finished:
            num_finished = len(finished_shards(folder))
            place = rng.choice(alive)
            workers[place].kill()
            workers[place].join()
            num_kills += 1
            workers[place] = start_worker(folder, scale)
            next_kill += scale.seconds_between_kills / scale.speed
        time.sleep(0.02)
    seconds = time.perf_counter() - started
    codes = {worker.exitcode for worker in workers} - {0, -signal.SIGKILL}
    needed = scale.num_shards * scale.shard_size * scale.seconds_per_pair / scale.speed
    faults = [*(f"a worker ended with {code}" for code in codes), *check_folder(folder, scale)]
    return Outcome(seconds, num_kills, needed / (seconds * scale.num_workers), tuple(faults))


def check_folder(folder: Path, scale: Scale) -> list[str]:
    """What is wrong with a finished collection."""
    faults = [f"shard {index} is {fault}" for index in range(scale.num_shards) if (fault := find_fault(folder, index))]
    litter = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    if litter:
        faults.append(f"{len(litter)} temporary files are left over")
    if not faults:
        found = read_rows(folder)["index"].tolist()
        if found != list(range(scale.num_shards * scale.shard_size)):
            faults.append("pairs are missing, or there twice")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("num_workers", "num_pairs", "seconds_per_pair", "start_seconds", "seconds_between_kills", "speed"):
        default = getattr(Scale, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    scale = Scale(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_drill(Path(folder), scale)
    simulated = outcome.seconds * scale.speed / 60
    print(
        f"{scale.num_pairs} pairs in {scale.num_shards} shards, {scale.num_workers} workers, "
        f"{outcome.num_kills} kills:\n"
        f"{simulated:.0f} simulated minutes ({outcome.seconds:.0f} s), efficiency {100 * outcome.efficiency:.1f} %"
    )
    assert not outcome.faults, outcome.faults[:5]
    print("nothing lost: every shard is whole and every pair is there once")


if __name__ == "__main__":
    main()
