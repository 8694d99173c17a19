"""The judges by name, and how they are loaded."""

from collections.abc import Iterable
from functools import partial
from importlib import import_module

import torch

from ..errors import InvalidInput
from .base import Judge
from .inputs import Inputs as Inputs
from .judge_set import MODES as MODES
from .judge_set import JudgeSet, choose_mode
from .judge_set import Result as Result
from .loading import WEIGHT_SETS, Weights, load, num_bytes, weight_paths
from .loading import embedded_path as embedded_path
from .loading import save_judge as save_judge
from .mps import MPS as MPS
from .names import JUDGE_CLASSES


def _import_class(path: str) -> type[Judge]:
    module, _, name = path.partition(":")
    return getattr(import_module(f".{module}", __package__), name)


JUDGES: dict[str, type[Judge]] = {name: _import_class(path) for name, path in JUDGE_CLASSES.items()}
ALL_JUDGES: tuple[str, ...] = tuple(name for name, cls in JUDGES.items() if not cls.on_request)
"""What "all" stands for: the six that have embedded weights. The others must be asked for by name."""


def find_judge(name: str) -> type[Judge]:
    """The class of a judge. Raises: InvalidInput listing the names."""
    if name not in JUDGES:
        raise InvalidInput(f"Unknown judge {name!r}: choose from {', '.join(JUDGES)}.")
    return JUDGES[name]


def load_judge(
    name: str, weights: Weights = "embedded", *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Judge:
    """Load one judge; see `golden.judges.loading.load` for what `weights` may be and what is raised."""
    return load(find_judge(name), weights, device, dtype)


def load_judges(
    names: Iterable[str] | None = None,
    weights: Weights = "embedded",
    mode: str = "auto",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> JudgeSet:
    """A set of judges, each loaded when its turn first comes.

    Args:
        names: of JUDGES, in the order in which they score; None for ALL_JUDGES.
        weights: "embedded" or "published", or for a single judge what `load_judge` takes.
        mode: "resident", "rotating", or "auto": resident where the weights fit in the memory that is free now.
        device, dtype: where and in which precision they run.

    Raises: InvalidInput for unknown names or modes, and as `load_judge` for a path without a file. A judge of the two
        sets whose weights are unavailable is no error here: `JudgeSet.stream` says so when its turn comes.
    """
    classes = {name: find_judge(name) for name in (ALL_JUDGES if names is None else names)}
    if not (isinstance(weights, str) and weights in WEIGHT_SETS):
        if len(classes) != 1:
            raise InvalidInput(f"A file contains one judge, got {len(classes)} names: give the name of that one.")
        for cls in classes.values():
            weight_paths(cls, weights)
    needed = sum(num_bytes(cls, weights, dtype) for cls in classes.values()) if mode == "auto" else 0
    loaders = {name: partial(load, cls, weights, device, dtype) for name, cls in classes.items()}
    return JudgeSet(loaders, choose_mode(mode, needed, device))
