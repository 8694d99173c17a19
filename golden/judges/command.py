"""`golden judge --prompt P image.png ...` scores files; `--benchmark` measures what scoring costs.

The judges are imported where they are used, so that `--help` answers at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArgumentParser, InvalidInput
from ..flags import add_flags, flag, read_flags
from .names import JUDGE_NAMES

MODES = ("auto", "resident", "rotating")
WEIGHT_SETS = ("embedded", "published")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ScoringOptions:
    """What `golden judge` takes; `check_options` tells what goes together."""

    images: tuple[Path, ...] = flag((), "image files to score", positional=True)
    prompt: str | None = flag(None, "the prompt that all images are scored against")
    judges: tuple[str, ...] | None = flag(
        None, f"of {', '.join(JUDGE_NAMES)} (default: all that have embedded weights)", metavar="NAME"
    )
    judge_weights: str = flag("embedded", f"{', '.join(WEIGHT_SETS)}, or a file for a single judge")
    mode: str = flag("auto", "all judges in memory, or one at a time", choices=MODES)
    device: str = flag("auto", "auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, ...")
    dtype: str = flag("float32", "precision of the models", choices=DTYPES)
    benchmark: bool = flag(False, "report seconds and memory of each judge and mode")
    random_published: bool = flag(False, "benchmark published sizes with random weights")
    num_images: int = flag(2, "benchmark: images per call")
    repeats: int = flag(3, "benchmark: calls, of which the fastest counts")


def parse(argv: Sequence[str] | None, prog: str) -> ScoringOptions:
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path, help="image files to score")
    add_flags(parser, ScoringOptions, skip=("images",))
    return read_flags(ScoringOptions, parser.parse_args(argv))


def check_options(options: ScoringOptions) -> None:
    """Raises: InvalidInput for options that do not go together."""
    for name in options.judges or ():
        if name not in JUDGE_NAMES:
            raise InvalidInput(f"Unknown judge {name!r}: choose from {', '.join(JUDGE_NAMES)}.")
    if options.num_images < 1 or options.repeats < 1:
        raise InvalidInput("--num-images and --repeats must be at least 1.")
    if options.benchmark and (options.images or options.prompt is not None):
        raise InvalidInput("--benchmark scores images of its own: leave out images and --prompt.")
    if options.random_published and not options.benchmark:
        raise InvalidInput("--random-published is for --benchmark: random weights give meaningless scores.")
    if not options.benchmark and (not options.images or options.prompt is None):
        raise InvalidInput("Give --prompt and at least one image, or --benchmark.")


def main(argv: Sequence[str] | None = None, prog: str = "python -m golden.judges") -> int:
    options = parse(argv, prog)
    check_options(options)
    from ..model import pick_device
    from .scoring import benchmark, score_files

    device = pick_device(options.device)
    return benchmark(options, device) if options.benchmark else score_files(options, device)
