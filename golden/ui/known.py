"""Whether golden noise helps with a model: what was measured, what the paper reports, or that nobody knows."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import sha256
from ..model import Model
from ..models import ModelSpec
from ..npnet import NPNETS
from ..paper import PAPER

FILE = "answer.json"
"""Beside an embedded model's folder: what eval/answer.py wrote after a benchmark of it."""
CONTROLS = {
    "best_norm": "Merely shorter noise, which reads no prompt: {}.",
    "mismatched": "Golden noise for another prompt: {}.",
}
"""Arms that could explain a gain away, and what the first screen says of them."""
_PROMPT_SETS = {"pick-a-pic": "Pick-a-Pic's prompts"}
_SHOWN = ("PickScore", "HPSv2", "ImageReward")


@dataclass(frozen=True)
class Known:
    """What the first screen says of a model: one answer, and a sentence or two on what it rests on.

    A measured answer ends with a colon, which the `difference` and its interval follow.
    """

    answer: str
    details: tuple[str, ...] = ()
    difference: str = ""


def find_known(model: Model) -> Known:
    """What is known of golden noise with a model and its NPNet as loaded."""
    spec, title = model.spec, model.spec.title or model.spec.name
    if model.npnet is None:
        return Known(f"No NPNet is known for {title}: other noises can be compared.")
    if model.npnet_name == spec.npnet and (measured := read_measured(spec)):
        return measured
    if spec.npnet in NPNETS and model.npnet_name == spec.npnet:
        return _quote_paper(spec)
    return Known(
        f"Nobody has measured yet whether this NPNet helps {title}.",
        ("golden bench measures it; a few comparisons cannot tell.",),
    )


def read_measured(spec: ModelSpec) -> Known | None:
    """The measured answer for an embedded model; None if there is none that is sound."""
    found = _read_answer(spec)
    try:
        return _describe_measured(found, spec) if found else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _read_answer(spec: ModelSpec) -> dict[str, Any] | None:
    folder = Path(spec.repo).parent
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8")) if spec.is_embedded else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _describe_measured(found: dict[str, Any], spec: ModelSpec) -> Known:
    golden, standard = found["arms"]["npnet"], found["arms"]["standard"]
    num, seeds = int(found["num_prompts"]), int(found["num_seeds"])
    answer = (
        f"On {num} test prompts golden is right on {_percent(golden['right'])}, standard on "
        f"{_percent(standard['right'])}:"
    )
    details = []
    for name, sentence in CONTROLS.items():
        if name in found["arms"]:
            details.append(sentence.format(_percent(found["arms"][name]["right"])))
    details += [_describe_other(other) for other in found.get("others", [])]
    what = "noise" if found.get("noise_per_prompt") else "seed"  # until version 0.10 all prompts shared a seed's noise
    details.append(f"{f'One {what}' if seeds == 1 else f'{seeds} {what}s'} per prompt, judged by the exact check.")
    if not _is_of(found, spec):
        details.append("This was measured with other weights than those in use.")
    return Known(answer, tuple(details), write_difference(golden["difference"]))


def _describe_other(found: dict[str, Any]) -> str:
    """The same of a further set of test prompts, in one sentence."""
    golden, standard = found["arms"]["npnet"], found["arms"]["standard"]
    return (
        f"On {int(found['num_prompts'])} others ({found['prompts']}) golden is right on {_percent(golden['right'])}, "
        f"standard on {_percent(standard['right'])}: {write_difference(golden['difference'])}."
    )


def _is_of(found: dict[str, Any], spec: ModelSpec) -> bool:
    """Whether an answer was measured with the NPNet that is in use."""
    file = Path(spec.npnet or "")
    return file.is_file() and sha256(file) == found.get("npnet")


def _percent(share: float) -> str:
    if not 0 <= float(share) <= 1:
        raise ValueError(share)
    return f"{100 * share:.1f} %"


def write_difference(difference: Any) -> str:
    """A difference of shares and its interval, as "+1.8 points [+0.2, +3.5]". Raises: ValueError for NaN."""
    value, low, high = (100 * float(part) for part in difference)
    if not all(map(math.isfinite, (value, low, high))):
        raise ValueError(difference)
    return f"{value:+.1f} points [{low:+.1f},\u00a0{high:+.1f}]".replace("-", "−")  # an interval is not broken


def _quote_paper(spec: ModelSpec) -> Known:
    """The paper's own figures for a model with a published NPNet, which nobody has measured with this software."""
    title = spec.title or spec.name
    if (spec.name, "pick-a-pic") not in PAPER:
        return Known(
            f"The authors of the paper published this NPNet (“{spec.npnet}”); no figures are known here for {title}.",
            ("golden bench measures it.",),
        )
    figures = PAPER[spec.name, "pick-a-pic"]
    changes = ", ".join(f"{name} {figures[name][0]:.2f} → {figures[name][1]:.2f}" for name in _SHOWN)
    return Known(
        f"The paper reports on {_PROMPT_SETS['pick-a-pic']}: {changes}.",
        ("Not measured with this software yet; golden bench does.",),
    )
