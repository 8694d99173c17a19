"""Checkers: what an image must show for its prompt, decided by rule and not by a preference model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .errors import InvalidInput
from .files import sha256

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

FAULTS = ("unclear", "missing", "extra", "count", "shape", "colour", "attribute", "position", "background")
"""Kinds of fault. The first that applies is an image's main one: what is unclear may explain the others."""


@dataclass(frozen=True)
class Verdict:
    """Whether an image shows what the prompt asks for, with one reason for each thing asked.

    `attributes` lists each checked attribute with its outcome; `score` is the share that holds, from 0 to 1. `faults`
    lists kinds of FAULTS in that order, none if the image is right. `layout` has the kind of each object in the image
    and its centre (x, y), from 0 to 1 with y pointing down.
    """

    correct: bool
    reasons: tuple[str, ...]
    attributes: tuple[tuple[str, bool], ...]
    faults: tuple[str, ...] = ()
    layout: tuple[tuple[str, float, float], ...] = ()

    @property
    def score(self) -> float:
        return sum(ok for _, ok in self.attributes) / len(self.attributes)

    @property
    def fault(self) -> str | None:
        """The main fault, None if the image is right."""
        return self.faults[0] if self.faults else None

    def __str__(self) -> str:
        return ("right: " if self.correct else "wrong: ") + "; ".join(self.reasons)


@runtime_checkable
class Composer(Protocol):
    """Puts prompts together from choices.

    `slots` are the choices by name, the default of each first; those in `needs` count only while the choice that they
    name is not the default.
    """

    slots: Mapping[str, tuple[str, ...]]
    needs: Mapping[str, str]

    def compose(self, choices: Mapping[str, str]) -> str:
        """The prompt of some choices, of `slots` that are left out the defaults. Raises: InvalidInput."""
        ...

    def take_apart(self, prompt: str) -> dict[str, str] | None:
        """The choices that compose a prompt, None for one that they cannot compose."""
        ...

    def find_unknown(self, prompt: str) -> list[tuple[str, list[str]]]:
        """Words that no prompt may use, each with the nearest that it may."""
        ...


@runtime_checkable
class Checker(Protocol):
    """Checks images of one kind of prompt.

    `examples` are prompts to start from. `unrelated` are two more, so that one of them always differs from a user's
    own: what NPNet is given as a mismatched prompt. `composer` puts prompts together, None if only typing does.
    """

    name: str
    examples: tuple[str, ...]
    unrelated: tuple[str, str]
    composer: Composer | None

    def validate_prompt(self, prompt: str) -> None:
        """Raises: InvalidInput if no image can be checked against this prompt."""

    def check(self, prompt: str, image: "Image.Image") -> Verdict:
        """The verdict on an image. Raises: as `validate_prompt`."""
        ...

    def sample_prompts(self, rng: "np.random.Generator", held_out: bool = False) -> Iterator[str]:
        """Endless random prompts: for training or, `held_out`, of what training never sees."""
        ...

    def list_test_prompts(self) -> tuple[str, ...]:
        """The frozen prompts on which models are measured, in their order."""
        ...

    def sample_examples(self, rng: "np.random.Generator") -> Iterator[tuple[str, "Image.Image", bool]]:
        """Endless training prompts with an image each and whether it is right, without any model; may yield none."""
        ...


CHECKERS = {
    "shapes": "golden.shapes.checker:ShapesChecker",
    "geneval": "golden.geneval.checker:GenEvalChecker",
}
"""name -> "module:class", imported on first use: a checker may bring large libraries."""
TAKES_FILE = ("geneval",)
"""Checkers that can be told what to ask by a file: `geneval:FILE`."""


@cache
def find_checker(name: str | None) -> Checker | None:
    """A checker by name, or by name and file ("geneval:FILE"); None for None.

    Raises: InvalidInput listing the names, for a file that the checker does not take or cannot read.
    """
    if name is None:
        return None
    known, _, file = name.partition(":")
    if known not in CHECKERS:
        raise InvalidInput(f"Unknown checker {name[:40]!r}: choose one of {', '.join(CHECKERS)}.")
    if file and known not in TAKES_FILE:
        raise InvalidInput(f"The checker {known!r} takes no file, got {file[:80]!r}; {', '.join(TAKES_FILE)} does.")
    module, _, class_name = CHECKERS[known].partition(":")
    found = getattr(import_module(module), class_name)
    return found(file) if file else found()


def identify_checker(name: str | None) -> str | None:
    """A checker's name for records: that of a file's questions is their SHA-256, wherever the file lies."""
    known, _, file = (name or "").partition(":")
    return f"{known}:{sha256(file)}" if file else name
