"""The work behind `golden judge`: score image files, and measure what scoring costs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import psutil
import torch
from PIL import Image

from ..files import open_image
from ..timing import PeakMemory, measure, peak_memory, synchroniser
from .base import Judge
from .command import ScoringOptions
from .judge_set import JudgeSet, release_memory
from .loading import load
from .registry import ALL_JUDGES, JUDGES, find_judge, load_judges

SAMPLING_SECONDS = 0.005  # between two looks at the memory in use


def score_files(options: ScoringOptions, device: str) -> int:
    """Print one row a judge and one column an image, or the judge's sentence. Exit code 1 if no judge could score."""
    images = [open_image(path) for path in options.images]
    judges = load_judges(options.judges, options.judge_weights, options.mode, device, getattr(torch, options.dtype))
    print(f"weights: {options.judge_weights}; mode: {judges.mode}; device: {device}; dtype: {options.dtype}")
    num_scored = 0
    for name, result in judges.stream(images, [str(options.prompt)] * len(images)):
        if isinstance(result, str):
            print(f"{name:12} unavailable: {result}", flush=True)
            continue
        num_scored += 1
        scores = "  ".join(f"{score:10.4f}" for score in result.tolist())
        print(f"{name:12} {scores}  ({JUDGES[name].unit})", flush=True)
    return 0 if num_scored else 1


# --- what scoring costs ---------------------------------------------------------------------------------------------


@contextmanager
def watch_memory(device: str) -> Iterator[PeakMemory]:
    """The most memory in use within the block: on the GPU, or on the CPU resident memory above what was there before.

    The result is filled in when the block ends.
    """
    if torch.device(device).type == "cuda":
        with peak_memory(device) as peak:
            yield peak
        return
    process, stop = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not stop.wait(SAMPLING_SECONDS):
            highest = max(highest, process.memory_info().rss)

    thread, peak = threading.Thread(target=watch, daemon=True), PeakMemory()
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.bytes = highest - before


def random_published(cls: type[Judge], device: str, dtype: torch.dtype) -> Judge:
    """A judge of the published size with random weights: the cost of the real one, without the download."""
    torch.manual_seed(0)
    config = dict(cls.PUBLISHED)
    if config.get("tokenizer") == "bert":  # its vocabulary would have to be downloaded, and any tokens cost the same
        config["tokenizer"] = "openai"
        config["text"] = config["text"] | {"vocab_size": 49408}
    return cls(config).to(device, dtype)


def benchmark(options: ScoringOptions, device: str) -> int:
    """Print seconds of the first call, seconds per image and peak memory: each judge alone, then all in each mode."""
    dtype = getattr(torch, options.dtype)
    loaders: dict[str, Callable[[], Judge]] = {
        name: partial(random_published, find_judge(name), device, dtype)
        if options.random_published
        else partial(load, find_judge(name), options.judge_weights, device, dtype)
        for name in options.judges or ALL_JUDGES
    }
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (options.num_images, 512, 512, 3), generator=generator, dtype=torch.uint8)
    images = [Image.fromarray(image.numpy()) for image in pixels]
    prompts = ["three red apples on a wooden table"] * len(images)
    where = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device.upper()
    weights = "published sizes, random weights" if options.random_published else f"{options.judge_weights} weights"
    print(f"{weights}; {options.dtype}; {where}, {torch.get_num_threads()} threads")
    print(f"{len(images)} images of 512x512 a call")
    print(f"{'':22} first call s   s per image   peak MB")
    runs = [(name, {name: loader}, "resident") for name, loader in loaders.items()]
    runs += [(f"all, {mode}", loaders, mode) for mode in ("resident", "rotating")]
    for label, chosen, mode in runs:
        judges = JudgeSet(chosen, mode)
        release_memory()  # what the run before left behind does not count
        work, wait = partial(judges.score, images, prompts), synchroniser(device)
        with watch_memory(device) as peak:
            (first,) = measure(work, 1, warmup=0, synchronise=wait)
            seconds = min(measure(work, options.repeats, warmup=0, synchronise=wait))
        megabytes = (peak.bytes or 0) / 2**20
        print(f"{label:22} {first:12.2f}  {seconds / len(images):12.4f}  {megabytes:8.0f}", flush=True)
        for name, result in work().items():
            if isinstance(result, str):
                print(f"  {name} unavailable: {result}", flush=True)
    return 0
