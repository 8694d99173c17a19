"""Prompts of the shapes world: the frozen test sets, none of which asks for what trainings may see."""

import json
from functools import cache
from pathlib import Path

from ..files import ASSETS

TEST_SETS = {
    "shapes-553": ASSETS / "shapes" / "prompts_553.jsonl",
    "shapes-hard-400": ASSETS / "shapes" / "prompts_hard_400.jsonl",
}
"""Name -> file: GenEval's six categories in its proportions, and a hundred prompts of each harder one."""


@cache
def load_test_prompts(path: Path = TEST_SETS["shapes-553"]) -> tuple[dict, ...]:
    """A frozen test set: rows {"prompt", "category"}. `is_held_out` holds for what each of them asks."""
    return tuple(json.loads(line) for line in path.read_text().splitlines())
