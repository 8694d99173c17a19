"""`python -m golden.judges --prompt P image.png ...` scores files; `--benchmark` says what scoring costs."""

import threading
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import torch
from PIL import Image, UnidentifiedImageError

from ..errors import ArgumentParser, InvalidInput, run_command
from . import JUDGES, MODES, WEIGHT_SETS, Judge, JudgeSet, find_judge, load_judges
from .judge_set import release_memory
from .loading import load

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse() -> Namespace:
    parser = ArgumentParser(prog="python -m golden.judges", description=__doc__)
    parser.add_argument("images", nargs="*", type=Path, help="image files to score")
    parser.add_argument("--prompt", help="the prompt that all images are scored against")
    parser.add_argument("--judges", nargs="+", metavar="NAME", default=list(JUDGES), help=f"of {', '.join(JUDGES)}")
    parser.add_argument("--weights", default="embedded", help=f"{', '.join(WEIGHT_SETS)}, or a file for a single judge")
    parser.add_argument("--mode", choices=MODES, default="auto", help="all judges in memory, or one at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the models")
    parser.add_argument("--benchmark", action="store_true", help="report seconds and memory of each judge and mode")
    parser.add_argument("--random-published", action="store_true", help="benchmark published sizes with random weights")
    parser.add_argument("--num-images", type=int, default=2, help="benchmark: images per call")
    parser.add_argument("--repeats", type=int, default=3, help="benchmark: calls of which the fastest counts")
    return parser.parse_args()


def check(args: Namespace) -> None:
    """Raises InvalidInput for values that argparse cannot judge."""
    try:
        device = torch.device(args.device)
        available = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_available())
    except RuntimeError:
        available = False
    if not available:
        raise InvalidInput(f"No device {args.device!r} here: choose cpu, or cuda where there is a GPU.")
    for name in args.judges:
        find_judge(name)
    if args.num_images < 1 or args.repeats < 1:
        raise InvalidInput("--num-images and --repeats must be at least 1.")
    if args.benchmark and (args.images or args.prompt is not None):
        raise InvalidInput("--benchmark scores pictures of its own: give no images and no prompt with it.")
    if args.random_published and not args.benchmark:
        raise InvalidInput("--random-published is for --benchmark: random weights give no scores worth reading.")
    if not args.benchmark and (not args.images or args.prompt is None):
        raise InvalidInput("Give --prompt and at least one image, or --benchmark.")


def open_image(path: Path) -> Image.Image:
    """Raises InvalidInput if the file is no readable image."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise InvalidInput(f"No image at {path}.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"{path} is not a readable image: {error}") from error


def score_files(args: Namespace) -> int:
    """Print one row an image and one column a judge, or the judge's sentence. Exit code 1 if no judge could score."""
    images = [open_image(path) for path in args.images]
    judges = load_judges(args.judges, args.weights, args.mode, args.device, DTYPES[args.dtype])
    print(f"weights: {args.weights}; mode: {judges.mode}; dtype: {args.dtype}")
    num_scored = 0
    for name, result in judges.stream(images, [args.prompt] * len(images)):
        if isinstance(result, str):
            print(f"{name:12} unavailable: {result}", flush=True)
            continue
        num_scored += 1
        scores = "  ".join(f"{score:10.4f}" for score in result.tolist())
        print(f"{name:12} {scores}  ({JUDGES[name].unit})", flush=True)
    return 0 if num_scored else 1


# --- what scoring costs ---------------------------------------------------------------------------------------------


class PeakMemory:
    """Within a `with` block, the most memory in use above what was in use before: on the GPU, or resident in RAM."""

    def __init__(self, device: str) -> None:
        self.cuda = torch.device(device).type == "cuda"
        self.megabytes = 0.0

    def __enter__(self) -> "PeakMemory":
        self._stop = threading.Event()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._process = psutil.Process()
            self._before = self._peak = self._process.memory_info().rss
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        if self.cuda:
            peak = torch.cuda.max_memory_allocated()
        else:
            self._stop.set()
            self._thread.join()
            peak = self._peak
        self.megabytes = max(0, peak - self._before) / 2**20


def random_published(cls: type[Judge], device: str, dtype: torch.dtype) -> Judge:
    """A judge of the published size with random weights: what it costs, without the download."""
    torch.manual_seed(0)
    config = dict(cls.PUBLISHED)
    if config.get("tokenizer") == "bert":  # its vocabulary would have to be downloaded, and any tokens cost the same
        config["tokenizer"] = "openai"
        config["text"] = config["text"] | {"vocab_size": 49408}
    return cls(config).to(device, dtype)


def fastest(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of several calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def benchmark(args: Namespace) -> int:
    """Print load seconds, seconds per image and peak memory: each judge alone, then all in each mode."""
    device, dtype = args.device, DTYPES[args.dtype]
    loaders: dict[str, Callable[[], Judge]] = {
        name: partial(random_published, find_judge(name), device, dtype)
        if args.random_published
        else partial(load, find_judge(name), args.weights, device, dtype)
        for name in args.judges
    }
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (args.num_images, 512, 512, 3), generator=generator, dtype=torch.uint8)
    images = [Image.fromarray(image.numpy()) for image in pixels]
    prompts = ["three red apples on a wooden table"] * len(images)
    where = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"
    weights = "published sizes, random weights" if args.random_published else f"{args.weights} weights"
    print(f"{weights}; {args.dtype}; {where}, {torch.get_num_threads()} threads")
    print(f"{len(images)} images of 512x512 a call")
    print(f"{'':22} first call s   s per image   peak MB")
    runs = [(name, {name: loader}, "resident") for name, loader in loaders.items()]
    runs += [(f"all, {mode}", loaders, mode) for mode in ("resident", "rotating")]
    for label, chosen, mode in runs:
        judges = JudgeSet(chosen, mode)
        release_memory()  # what the run before this one held is not this one's
        with PeakMemory(device) as memory:
            start = time.perf_counter()
            results = judges.score(images, prompts)
            first = time.perf_counter() - start
            seconds = fastest(partial(judges.score, images, prompts), args.repeats)
        print(f"{label:22} {first:12.2f}  {seconds / len(images):12.4f}  {memory.megabytes:8.0f}", flush=True)
        for name, result in results.items():
            if isinstance(result, str):
                print(f"  {name} unavailable: {result}", flush=True)
    return 0


def main() -> int:
    args = parse()
    check(args)
    return benchmark(args) if args.benchmark else score_files(args)


if __name__ == "__main__":
    run_command(main)
