"""Judges of images, one contract: `score(images, prompts) -> (B,)`, higher is better, in raw reported units.

    judge = load_judge("PickScore")  # the embedded set: small judges, trained on this project's own world
    judge = load_judge("PickScore", "published")  # the published weights, from the Hub
    scores = judge.score_pixels(pixels, prompts)  # with gradients to pixels (B, 3, H, W) in [-1, 1]
    for name, scores in load_judges().stream(images, prompts):  # as each judge finishes
        ...

Scores of the embedded set and of the published weights are of different models: never compare one with the other.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Judge
    from .inputs import Inputs
    from .judge_set import MODES, JudgeSet, Result
    from .loading import WEIGHT_SETS, Weights, embedded_path, save_judge
    from .mps import MPS
    from .registry import ALL_JUDGES, JUDGES, find_judge, load_judge, load_judges

__all__ = [
    "ALL_JUDGES",
    "JUDGES",
    "MODES",
    "MPS",
    "WEIGHT_SETS",
    "Inputs",
    "Judge",
    "JudgeSet",
    "Result",
    "Weights",
    "embedded_path",
    "find_judge",
    "load_judge",
    "load_judges",
    "save_judge",
]


def __getattr__(name: str) -> Any:
    """Load the judges' modules when a name is asked for: they take seconds, and the help of a command needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".registry", __name__), name)
