"""Weights into judges and back: the published set, the embedded set, or any file of a known layout."""

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch.overrides import TorchFunctionMode

from ..errors import BadWeights, InvalidInput, MissingWeights
from ..files import ASSETS, load_weights, save_weights
from ..hub import HubFile, commit_of, fetch_file, refuse_url
from .base import Judge, Tensors

Weights = str | Path | Sequence[str | Path]
WEIGHT_SETS = ("embedded", "published")
OWN_KEYS = ("judge", "config")
"""Of a weight file's metadata: which judge it is and how it is built."""

AnyJudge = TypeVar("AnyJudge", bound=Judge)


def embedded_path(cls: type[Judge]) -> Path:
    """Where the embedded weights of a judge are."""
    return ASSETS / "judges" / f"{cls.name.lower()}.safetensors"


def save_judge(
    judge: Judge, path: str | Path | None = None, dtype: torch.dtype | None = None, notes: dict[str, str] | None = None
) -> Path:
    """Write a judge and its config to a safetensors file, by default its place in the embedded set.

    Args:
        judge: any judge.
        path: the file; None for `assets/judges/<name>.safetensors`, which `load_judge(name)` reads.
        dtype: precision of the stored weights, None for the judge's own; scoring is in fp32 either way.
        notes: more metadata, such as how the weights were trained.
    """
    path = Path(path) if path else embedded_path(type(judge))
    tensors = {key: value.to(dtype) if dtype else value for key, value in judge.state_dict().items()}
    save_weights(path, tensors, (notes or {}) | {"judge": judge.name, "config": json.dumps(judge.config)})
    return path


def load(
    cls: type[AnyJudge],
    weights: Weights = "embedded",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AnyJudge:
    """Build a judge with its weights, in evaluation mode.

    Args:
        cls: the judge's class.
        weights: "embedded", "published", the path of a file (official, port or our own), or several paths that
            complete each other.
        device: where it runs.
        dtype: precision of the model; scores are fp32 in any case, and half precision ties close ones.

    Raises: MissingWeights, BadWeights or InvalidInput, each in one sentence.
    """
    if isinstance(weights, str) and weights == "published":
        judge, files = load_published(cls)
    else:
        paths = weight_paths(cls, weights)
        judge, files = load_files(cls, paths)
    judge.provenance = {
        "judge": cls.name,
        "weights": weights if isinstance(weights, str) and weights in WEIGHT_SETS else "file",
        "files": files,
        "dtype": str(dtype).removeprefix("torch."),
    }
    return judge.to(device=device, dtype=dtype).eval()


def weight_paths(cls: type[Judge], weights: Weights) -> list[Path]:
    """The local files that `weights` names. Raises: InvalidInput for a URL; MissingWeights for absent files."""
    if isinstance(weights, str) and weights == "embedded":
        path = embedded_path(cls)
        if cls.on_request and not path.is_file():
            raise MissingWeights(f"There are no embedded weights of {cls.name}: choose weights=published or a file.")
        if not path.is_file():
            raise MissingWeights(
                f"The embedded weights of {cls.name} are not at {path}: restore the repository's assets/, or choose "
                "weights=published."
            )
        return [path]
    items = [weights] if isinstance(weights, str | Path) else list(weights)
    if not items:
        raise InvalidInput(f"No weights given for {cls.name}: give {', '.join(WEIGHT_SETS)} or the path of a file.")
    for item in items:
        refuse_url(str(item))
        if not Path(item).is_file():
            raise MissingWeights(f"No file {item} for {cls.name}: give {', '.join(WEIGHT_SETS)} or the path of a file.")
    return [Path(item) for item in items]


def load_published(cls: type[AnyJudge]) -> tuple[AnyJudge, list[str]]:
    """The published weights, from the first of the judge's sources that can be had. Raises the first one's error."""
    first_error: MissingWeights | BadWeights | None = None
    for source in cls.SOURCES:
        try:
            return load_files(cls, [fetch_file(*file) for file in source], source)
        except (MissingWeights, BadWeights) as error:
            first_error = first_error or error
    assert first_error is not None, f"{cls.name} names no source"
    raise first_error


def load_files(
    cls: type[AnyJudge], paths: Sequence[Path], source: Sequence[HubFile] = ()
) -> tuple[AnyJudge, list[str]]:
    """(judge, file descriptions) from local files, completed by the judge's companion files where they are partial."""
    tensors: Tensors = {}
    config: dict[str, Any] = cls.PUBLISHED
    notes: dict[str, str] = {}
    for path in paths:
        raw, metadata = load_weights(path)
        own = read_config(cls, metadata, path)
        notes |= {key: text for key, text in metadata.items() if key not in OWN_KEYS}
        config = config if own is None else own
        tensors |= cls.convert(raw)
    files = [describe(path, file) for path, file in zip_longest(paths, source)]
    for file in cls.companions(tensors) if tensors else ():
        path = fetch_file(*file)
        tensors |= cls.convert(load_weights(path)[0])
        files.append(describe(path, file))
    judge = build(cls, config, files)
    fill(judge, tensors, files)
    judge.metadata = notes
    return judge, files


def describe(path: Path, file: HubFile | None) -> str:
    """How a file is named in records: `repo/file@commit` for the hub's, else its own name."""
    return f"{file.key}@{commit_of(path) or 'unknown'}" if file else path.name


def judge_in(path: Path) -> str:
    """The name of the judge in a file of ours. Raises: BadWeights for files of other makers, and as `load_weights`."""
    _, metadata = load_weights(path)
    if "judge" not in metadata:
        raise BadWeights(f"{path.name} does not say which judge it is: load it with that judge's own class.")
    return metadata["judge"]


def read_config(cls: type[Judge], metadata: dict[str, str], path: Path) -> dict[str, Any] | None:
    """The config in a file's metadata; None for files of other makers. Raises BadWeights for another judge's file."""
    if "judge" not in metadata:
        return None
    if metadata["judge"] != cls.name:
        raise BadWeights(f"{path.name} contains {metadata['judge']}, not {cls.name}.")
    try:
        config = json.loads(metadata["config"])
    except (KeyError, ValueError) as error:
        raise BadWeights(f"{path.name} has no readable config in its metadata: {error}") from error
    if not isinstance(config, dict):
        raise BadWeights(f"{path.name} has a config that is not a dictionary.")
    return config


# What transformers and open_clip raise for a config that makes no sense
BAD_CONFIG: tuple[type[Exception], ...] = (KeyError, TypeError, ValueError, AttributeError, AssertionError)
BAD_CONFIG += (ArithmeticError, RuntimeError, StrictDataclassError)


class NoRandomInit(TorchFunctionMode):
    """Leaves new parameters uninitialised: they are about to be replaced, and drawing 10^9 numbers is slow.

    Bare draws give zeros instead: `trunc_normal_` draws again until all numbers lie within its bounds, and would never
    end on numbers that nobody draws.
    """

    # Tensor's methods and torch.nn.init's functions: a mode does not see calls inside a function that it let through.
    # By name, since transformers puts functions of its own in the place of torch's while it builds.
    DRAWING = frozenset({"normal_", "uniform_", "kaiming_uniform_"})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", None) not in self.DRAWING:
            return func(*args, **kwargs)
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0].zero_()
        return args[0] if args else kwargs["tensor"]


def build(cls: type[AnyJudge], config: dict[str, Any], files: Sequence[str]) -> AnyJudge:
    """A judge with uninitialised parameters. Raises: BadWeights for a config that no judge can be built from."""
    try:
        with torch.random.fork_rng(devices=[]), NoRandomInit():  # loading leaves the caller's random numbers alone
            return cls(config)
    except BAD_CONFIG as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BadWeights(f"{cls.name} cannot be built from the config in {', '.join(files)}: {reason}") from error


def fill(judge: Judge, tensors: Tensors, files: Sequence[str]) -> None:
    """Give the judge its weights, all of them and no others. Raises: BadWeights naming keys that do not fit."""
    expected = judge.state_dict()
    both = [key for key in expected if key in tensors]
    problems = {
        "missing": [key for key in expected if key not in tensors],
        "unknown": [key for key in tensors if key not in expected],
        "of another shape": [key for key in both if tensors[key].shape != expected[key].shape],
        "not floating-point": [key for key in both if not tensors[key].is_floating_point()],
    }
    found = [f"{len(keys)} keys {what} ({shortened(keys)})" for what, keys in problems.items() if keys]
    if found:
        raise BadWeights(f"{', '.join(files)} does not fit {judge.name}: {'; '.join(found)}.")
    judge.load_state_dict(tensors, assign=True)


def shortened(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def num_bytes(cls: type[Judge], weights: Weights, dtype: torch.dtype) -> int:
    """About how much memory a judge's weights take, without loading them."""
    if isinstance(weights, str) and weights == "published":
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in cls(cls.PUBLISHED).parameters())
        return count * dtype.itemsize
    try:
        sizes = [path.stat().st_size for path in weight_paths(cls, weights)]
    except (MissingWeights, InvalidInput):
        return 0  # loading it will say so
    return sum(sizes) * dtype.itemsize // 2  # files may hold half precision: an upper bound
