"""The embedded world: a caption grammar, a renderer and an exact checker of what an image shows."""

import json
from functools import cache
from pathlib import Path

from ..checkers import FAULTS, Verdict
from ..files import ASSETS
from .checker import Found, check_image, check_scene, find_objects
from .grammar import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    GENEVAL_CATEGORIES,
    HARD_CATEGORIES,
    NUMBERS,
    OPENINGS,
    PLURALS,
    RELATIONS,
    SHAPES,
    VOCABULARY,
    Group,
    Request,
    describe_vocabulary,
    is_held_out,
    parse_caption,
    request_key,
    sample_caption,
    sample_request,
    training_captions,
    write_caption,
)
from .scenes import (
    CHANGES,
    IMAGE_SIZE,
    Scene,
    SceneObject,
    change_one_attribute,
    possible_changes,
    render,
    sample_scene,
)

__all__ = [
    "BACKGROUNDS",
    "CATEGORIES",
    "CHANGES",
    "COLOURS",
    "FAULTS",
    "GENEVAL_CATEGORIES",
    "HARD_CATEGORIES",
    "IMAGE_SIZE",
    "NUMBERS",
    "OPENINGS",
    "PLURALS",
    "RELATIONS",
    "SHAPES",
    "VOCABULARY",
    "Found",
    "Group",
    "Request",
    "Scene",
    "SceneObject",
    "Verdict",
    "change_one_attribute",
    "check_image",
    "check_scene",
    "describe_vocabulary",
    "find_objects",
    "is_held_out",
    "load_test_prompts",
    "parse_caption",
    "possible_changes",
    "render",
    "request_key",
    "sample_caption",
    "sample_request",
    "sample_scene",
    "training_captions",
    "write_caption",
]


@cache
def load_test_prompts(path: Path = ASSETS / "shapes" / "prompts_553.jsonl") -> tuple[dict, ...]:
    """A frozen test set: rows {"prompt", "category"}, by default 553 in GenEval's proportions."""
    return tuple(json.loads(line) for line in path.read_text().splitlines())
