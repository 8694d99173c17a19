"""What the drills that kill share: workers forked after everything is imported, and folders compared byte by byte."""

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)  # a pool of threads does not survive a fork, and torch may have read the variable before


def start(main: Callable[[], object], *argv: object) -> BaseProcess:
    """Run a command's `main` in a process of its own; its output is discarded unless LOUD is set.

    The process is forked, since importing takes seconds and a drill starts a worker after every kill.
    """

    def run() -> None:
        sys.argv = ["worker", *map(str, argv)]
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        if not os.environ.get("LOUD"):
            os.dup2(silence, 2)
        main()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def kill(process: BaseProcess) -> None:
    """SIGKILL, and wait until the process is gone."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def read_all(folder: Path, pattern: str) -> dict[str, bytes]:
    """Files below a folder by their names."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob(pattern))}


def describe_differences(one: dict[str, bytes], two: dict[str, bytes]) -> list[str]:
    """Names of files that differ or exist in one of the two only."""
    return sorted(name for name in {**one, **two} if one.get(name) != two.get(name))


def make_rng(seed: int | None) -> random.Random:
    """A generator of random moments; its seed is printed, though timing makes every drill different."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    return random.Random(seed)
