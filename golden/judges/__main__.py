"""`python -m golden.judges --prompt P image.png ...` scores files; `--benchmark` measures what scoring costs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from PIL import Image

from ..errors import ArgumentParser, InvalidInput, run_command
from ..files import open_image
from ..flags import add_flags, flag, read_flags
from ..timing import PeakMemory, measure, peak_memory, synchroniser
from . import JUDGES, MODES, WEIGHT_SETS, Judge, JudgeSet, find_judge, load_judges
from .judge_set import release_memory
from .loading import load

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SAMPLING_SECONDS = 0.005  # between two looks at the memory in use


@dataclass(frozen=True)
class ScoringOptions:
    """What `python -m golden.judges` takes; `check_options` tells what goes together."""

    images: tuple[Path, ...] = flag((), "image files to score", positional=True)
    prompt: str | None = flag(None, "the prompt that all images are scored against")
    judges: tuple[str, ...] = flag(tuple(JUDGES), f"of {', '.join(JUDGES)}", metavar="NAME")
    judge_weights: str = flag("embedded", f"{', '.join(WEIGHT_SETS)}, or a file for a single judge")
    mode: str = flag("auto", "all judges in memory, or one at a time", choices=MODES)
    device: str = flag("auto", "auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, ...")
    dtype: str = flag("float32", "precision of the models", choices=tuple(DTYPES))
    benchmark: bool = flag(False, "report seconds and memory of each judge and mode")
    random_published: bool = flag(False, "benchmark published sizes with random weights")
    num_images: int = flag(2, "benchmark: images per call")
    repeats: int = flag(3, "benchmark: calls, of which the fastest counts")


def parse() -> ScoringOptions:
    parser = ArgumentParser(prog="python -m golden.judges", description=__doc__)
    parser.add_argument("images", nargs="*", type=Path, help="image files to score")
    add_flags(parser, ScoringOptions, skip=("images",))
    return read_flags(ScoringOptions, parser.parse_args())


def check_options(options: ScoringOptions) -> None:
    """Raises: InvalidInput for options that do not go together."""
    for name in options.judges:
        find_judge(name)
    if options.num_images < 1 or options.repeats < 1:
        raise InvalidInput("--num-images and --repeats must be at least 1.")
    if options.benchmark and (options.images or options.prompt is not None):
        raise InvalidInput("--benchmark scores images of its own: leave out images and --prompt.")
    if options.random_published and not options.benchmark:
        raise InvalidInput("--random-published is for --benchmark: random weights give meaningless scores.")
    if not options.benchmark and (not options.images or options.prompt is None):
        raise InvalidInput("Give --prompt and at least one image, or --benchmark.")


def score_files(options: ScoringOptions, device: str) -> int:
    """Print one row a judge and one column an image, or the judge's sentence. Exit code 1 if no judge could score."""
    images = [open_image(path) for path in options.images]
    judges = load_judges(options.judges, options.judge_weights, options.mode, device, DTYPES[options.dtype])
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
    dtype = DTYPES[options.dtype]
    loaders: dict[str, Callable[[], Judge]] = {
        name: partial(random_published, find_judge(name), device, dtype)
        if options.random_published
        else partial(load, find_judge(name), options.judge_weights, device, dtype)
        for name in options.judges
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


def main() -> int:
    options = parse()
    check_options(options)
    from ..model import pick_device  # brings the pipelines, which --help does without

    device = pick_device(options.device)
    return benchmark(options, device) if options.benchmark else score_files(options, device)


if __name__ == "__main__":
    run_command(main)
