"""Prompts of the shapes world: the frozen test sets, and what the embedded model is asked for beside them."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from ..files import ASSETS
from .grammar import GENEVAL_CATEGORIES, sample_caption

EMBEDDED_CATEGORIES = GENEVAL_CATEGORIES
"""What the embedded model was trained on; the grammar knows more (CATEGORIES)."""


@cache
def load_test_prompts(path: Path = ASSETS / "shapes" / "prompts_553.jsonl") -> tuple[dict, ...]:
    """A frozen test set: rows {"prompt", "category"}, by default 553 in GenEval's proportions."""
    return tuple(json.loads(line) for line in path.read_text().splitlines())


def sample_embedded(rng: np.random.Generator, held_out: bool = False) -> Iterator[str]:
    """Endless random captions that the embedded model can be asked for; for training if not `held_out`.

    No training caption is in the frozen test set, or asks for what is held out.
    """
    frozen = {row["prompt"] for row in load_test_prompts()}
    while True:
        caption = sample_caption(rng, str(rng.choice(EMBEDDED_CATEGORIES)), held_out)
        if held_out or caption not in frozen:
            yield caption
