"""What a whole run will take, from a short measured part: hours, disk, memory and money, here or on another GPU."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from .errors import InvalidInput


class Gpu(NamedTuple):
    """A kind of GPU: what torch's name for it contains, memory in GB, dense bfloat16 TFLOP/s, dollars an hour."""

    mark: str
    memory: int
    tflops: float
    dollars: float


# Source: the makers' data sheets. Dollars are what clouds ask on demand, to the nearest that lets one compare: prices
# change by the month and by a factor of two between sellers.
GPUS: dict[str, Gpu] = {
    "rtx-3090": Gpu("RTX 3090", 24, 71, 0.25),
    "rtx-4090": Gpu("RTX 4090", 24, 165, 0.5),
    "l4": Gpu("NVIDIA L4", 24, 121, 0.7),
    "l40s": Gpu("L40S", 48, 362, 1.2),
    "a100": Gpu("A100", 80, 312, 1.5),
    "h100": Gpu("H100", 80, 989, 2.5),
    "h200": Gpu("H200", 141, 989, 3.5),
    "b200": Gpu("B200", 180, 2250, 5.5),
}
GPU_HELP = f"with --plan: the GPU to plan for, of {', '.join(GPUS)} (default: the one that it is measured on)"


@dataclass(frozen=True)
class Measured:
    """A short part of a run.

    `seconds` and `disk` (bytes) are of one item, `item` is its name in the plural, `fixed_disk` are bytes needed once,
    `memory` the most bytes in use, None if not measured, `device` the device's name as of provenance.machine.
    """

    item: str
    seconds: float
    device: str
    memory: int | None = None
    disk: float = 0.0
    fixed_disk: float = 0.0


def find_gpu(device: str) -> str | None:
    """The name in GPUS of a device that torch calls `device`, None if it is none of them."""
    words = device.split()
    return next((name for name, gpu in GPUS.items() if f" {gpu.mark} " in f" {' '.join(words)} "), None) or next(
        (name for name, gpu in GPUS.items() if gpu.mark in device and gpu.mark != "NVIDIA L4"), None
    )


def describe_plan(measured: Measured, num_items: int, gpu: str | None = None) -> list[str]:
    """Lines with the time, disk, memory and money that `num_items` will take, on `gpu` (default: where measured).

    Hours on another GPU are scaled by the ratio of peak rates, as for work that is bound by arithmetic.

    Raises: InvalidInput for a GPU that is not known, or whose hours cannot be told from the device of the measurement.
    """
    here = find_gpu(measured.device)
    there = check_gpu(gpu, measured.device) or here
    ratio = GPUS[here].tflops / GPUS[there].tflops if here and there else 1.0
    hours = measured.seconds * num_items * ratio / 3600
    unit = "GPU-hours" if there else "hours"
    source = f"measured on {measured.device}"
    if there != here:
        source = f"on {there}, scaled by peak rates from {measured.device}: take it for half to twice as much"
    lines = [
        f"time    {_short(hours)} {unit} for {num_items} {measured.item}, {_short(measured.seconds * ratio)} s each, "
        f"{source}",
        f"disk    {_short((measured.disk * num_items + measured.fixed_disk) / 1e9)} GB",
    ]
    if measured.memory is not None:
        lines.append(f"memory  {_describe_memory(measured.memory, there)}")
    if there:
        dollars = GPUS[there].dollars
        lines.append(f"money   about ${_short(hours * dollars)}, at ${dollars:.2f} an hour")
    return lines


def check_gpu(gpu: str | None, device: str) -> str | None:
    """The name. Raises: InvalidInput if it is unknown, or a measurement on `device` says nothing about it."""
    if gpu is None:
        return None
    if gpu not in GPUS:
        raise InvalidInput(f"Unknown GPU {gpu[:40]!r}: choose one of {', '.join(GPUS)}.")
    if find_gpu(device) is None:
        raise InvalidInput(
            f"Hours on {gpu} cannot be told from {device}: run --plan on one of {', '.join(GPUS)}, or leave out --gpu."
        )
    return gpu


def _describe_memory(memory: int, gpu: str | None) -> str:
    text = f"{_short(memory / 1e9)} GB at most"
    if gpu is None:
        return text
    fits = "which fits" if memory / 1e9 <= 0.95 * GPUS[gpu].memory else "WHICH DOES NOT FIT"
    return f"{text}, of {GPUS[gpu].memory} GB, {fits}"


def _short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value <= 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"
