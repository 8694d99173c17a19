"""The arms as people meet them on the page: their names in words, which of them are offered, and how many at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..arms import ARMS, available_arms
from ..errors import InvalidInput
from ..model import Model

MAX_ARMS = 4
"""Images that one comparison of the page may have: they are denoised in one batch."""


@dataclass(frozen=True)
class ArmWords:
    """What the page calls an arm: `title` above its image, `short` in tables, `phrase` in a sentence.

    `help` is for those who ask.
    """

    title: str
    short: str
    phrase: str
    help: str


_WORDS = {
    "standard": ArmWords("Standard noise", "standard", "standard noise", "The random noise of the seed, unchanged."),
    "npnet": ArmWords(
        "Golden noise", "golden", "golden noise", "The same noise after NPNet has changed it for this prompt."
    ),
    "inversion": ArmWords(
        "Re-denoised noise",
        "re-denoised",
        "target noise of re-denoise sampling",
        "A few guided steps towards the prompt and back: what the paper's NPNet learns to predict, at their price.",
    ),
    "repaint": ArmWords(
        "Repainted noise",
        "repainted",
        "repainted noise",
        "One guided step towards the prompt, then fresh random noise: a baseline.",
    ),
    "random": ArmWords(
        "Randomly changed",
        "random change",
        "randomly changed noise",
        "Changed as much as golden noise, but in a random direction: a control.",
    ),
    "norm": ArmWords(
        "Shorter noise",
        "shorter",
        "standard noise at golden noise's norm",
        "The seed's own noise, only scaled to the size of golden noise: a control that reads no prompt.",
    ),
    "best_norm": ArmWords(
        "Noise at the best norm",
        "best norm",
        "standard noise at the model's best norm",
        "The seed's own noise scaled to the size that suits this model best: a control that reads no prompt.",
    ),
    "npnet_best_norm": ArmWords(
        "Golden at the best norm",
        "golden, best norm",
        "golden noise at the model's best norm",
        "Golden noise scaled to the size that suits this model best, as standard noise is in “best norm”.",
    ),
    "mismatched": ArmWords(
        "Golden, wrong prompt",
        "wrong prompt",
        "golden noise for another prompt",
        "Golden noise made for another prompt: a control. A gain here owes nothing to the prompt.",
    ),
    "unit_std": ArmWords(
        "Golden at full size",
        "full size",
        "golden noise at standard noise's variance",
        "Golden noise scaled back to the size of the source noise: a control.",
    ),
    "ascent": ArmWords(
        "Gradient ascent",
        "ascent",
        "noise by gradient ascent",
        "Noise improved step by step for a verifier that predicts success: slow.",
    ),
    "select_4": ArmWords(
        "Best of 4 noises", "best of 4", "best of 4 noises", "The noise, out of 4, that the verifier likes best."
    ),
    "select_16": ArmWords(
        "Best of 16 noises", "best of 16", "best of 16 noises", "The noise, out of 16, that the verifier likes best."
    ),
    "select_64": ArmWords(
        "Best of 64 noises", "best of 64", "best of 64 noises", "The noise, out of 64, that the verifier likes best."
    ),
}


def describe_arm(name: str) -> ArmWords:
    """The words of an arm. One without any here has its own name, explained by its docstring."""
    if name in _WORDS:
        return _WORDS[name]
    words = name.replace("_", " ")
    explained = (getattr(ARMS.get(name), "__doc__", None) or words).strip().splitlines()[0]
    return ArmWords(words.capitalize(), words, words, explained)


def list_choices(model: Model) -> list[tuple[str, str]]:
    """(words, name) of the arms that a model can do, standard and golden first."""
    names = sorted(available_arms(model), key=lambda name: name not in ("standard", "npnet"))
    return [(describe_arm(name).short, name) for name in names]


def label_arms(model: Model) -> dict[str, str]:
    """What each arm's checkbox means, by its CSS selector."""
    return {f'#arms input[name="{name}"] + span': describe_arm(name).help for name in available_arms(model)}


def check_count(arms: Sequence[str]) -> None:
    """Raises: InvalidInput for more arms than one comparison of the page may have."""
    if isinstance(arms, list | tuple) and len(arms) > MAX_ARMS:
        raise InvalidInput(f"At most {MAX_ARMS} noises are compared at once, got {len(arms)}.")


def find_changed(arms: Sequence[str]) -> str | None:
    """The arm whose noise the page explains: golden noise if it is there, else the first that is not standard."""
    return "npnet" if "npnet" in arms else next((arm for arm in arms if arm != "standard"), None)
