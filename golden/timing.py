"""Time and memory of a piece of work: the one timing loop, for benchmarks and for what a command line reports."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

Work = Callable[[], Any]
Clock = Callable[[], float]


def measure(
    function: Work,
    repeats: int,
    warmup: int = 1,
    synchronise: Work | None = None,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Seconds of each of `repeats` calls, after `warmup` calls that are not counted.

    `synchronise` is called before the clock is read, see `synchroniser`; `clock` gives seconds.
    """
    return measure_in_turns([function], repeats, warmup, synchronise, clock)[0]


def measure_in_turns(
    functions: Sequence[Work],
    repeats: int,
    warmup: int = 1,
    synchronise: Work | None = None,
    clock: Clock = time.perf_counter,
) -> list[list[float]]:
    """`measure` of several functions, called one after the other in every round.

    Whatever else the machine does then falls on all of them alike, and a function may use what the one before it made.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    wait = synchronise or (lambda: None)
    for round_index in range(warmup + repeats):
        for function, taken in zip(functions, seconds, strict=True):
            wait()
            started = clock()
            function()
            wait()
            if round_index >= warmup:
                taken.append(clock() - started)
    return seconds


def synchroniser(device: str | torch.device) -> Work | None:
    """What waits until a GPU has done its work, which is queued and returns at once; None for a CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device.type == "mps" else None


@dataclass
class PeakMemory:
    """The most bytes that were allocated on a GPU at a time; None on other devices."""

    bytes: int | None = None


@contextmanager
def peak_memory(device: str | torch.device) -> Iterator[PeakMemory]:
    """Measure the peak memory of a block; the result is filled in when the block ends."""
    device, peak = torch.device(device), PeakMemory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak.bytes = torch.cuda.max_memory_allocated(device)
