"""Captions of a split, what they ask for, and scenes of which they are true or false by one attribute."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from golden.errors import InvalidInput
from golden.shapes import (
    CHANGES,
    OPENINGS,
    RELATIONS,
    Group,
    Request,
    Scene,
    check_scene,
    is_held_out,
    parse_caption,
    possible_changes,
    render,
    sample_caption,
    write_caption,
)

SPLITS = ("train", "held_out")
DIMENSIONS = CHANGES
"""What a caption may ask for, and the checker judges apart."""
IMAGE_SIZE = 64
"""Pixels on a side of every image that the embedded judges see."""

Pixels = np.ndarray
"""(IMAGE_SIZE, IMAGE_SIZE, 3) uint8."""

MIN_MARGIN = 0.1
"""How much farther apart objects are in the direction of their relation than across it, in images, to be captioned."""


def asks(request: Request, dimension: str) -> bool:
    """Whether a request asks for something in a dimension; every request does in shape and count."""
    return dimension in possible_changes(request)


def draw_caption(rng: np.random.Generator, split: str = "train", dimension: str | None = None) -> tuple[str, Request]:
    """A random caption of a split, and what it asks for; with `dimension`, one that asks for something in it."""
    return next(draw_captions(rng, split, dimension))


def draw_captions(rng: np.random.Generator, split: str, dimension: str | None = None) -> Iterator[tuple[str, Request]]:
    """Endless random captions of a split."""
    while True:
        caption = sample_caption(rng, held_out=split == "held_out")
        request = parse_caption(caption)
        if dimension is None or asks(request, dimension):
            yield caption, request


def draw(scene: Scene) -> Pixels:
    """A rendered scene as judges see it."""
    return np.asarray(render(scene, IMAGE_SIZE))


def mirror(scene: Scene, request: Request, rng: np.random.Generator) -> Scene:
    """The same scene with one relation of the request turned round: what was left is right, or what was above, below.

    Nothing else changes, so that it is the hardest position change there is.
    """
    relation = request.relations[int(rng.integers(len(request.relations)))]
    if RELATIONS[relation][0]:
        return replace(scene, objects=tuple(replace(item, x=1 - item.x) for item in scene.objects))
    return replace(scene, objects=tuple(replace(item, y=1 - item.y) for item in scene.objects))


def shows(scene: Scene, request: Request) -> bool:
    """What the checker says of a scene; quick where the answer is no, as it is for most captions of other scenes."""
    if len(scene.objects) != request.num_objects or request.background not in (None, scene.background):
        return False
    wanted = sorted(group.shape for group in request.groups for _ in range(group.count))
    return wanted == sorted(item.shape for item in scene.objects) and check_scene(request, scene).correct


def describe(scene: Scene, caption: str, split: str = "train") -> str | None:
    """A caption of a changed scene, worded like the caption of the scene before the change.

    None if the grammar has none, if it is of the other split, or if a relation is hard to see.
    """
    request = parse_caption(caption)
    coloured = any(group.colour for group in request.groups)
    kinds = Counter((item.shape, item.colour if coloured else None) for item in scene.objects)
    groups = tuple(Group(shape, colour, count) for (shape, colour), count in kinds.items())
    relations = [relation_of(scene, groups[0], other) for other in groups[1:]] if request.relations else []
    if None in relations:
        return None
    counted = request.counted or any(group.count > 1 for group in groups)
    background = scene.background if request.background else None
    changed = Request(groups, tuple(filter(None, relations)), background, counted)
    opening = next((words for words in OPENINGS if caption.startswith(words)), "")
    found = write_caption(changed, opening)
    try:
        parse_caption(found)
    except InvalidInput:  # more than fits into one image
        return None
    return found if is_held_out(changed) == (split == "held_out") and shows(scene, changed) else None


def relation_of(scene: Scene, one: Group, other: Group) -> str | None:
    """The relation of one group to another, as the checker sees it; None if it is hard to see."""
    (x, y), (other_x, other_y) = centre_of(scene, one), centre_of(scene, other)
    dx, dy = other_x - x, other_y - y
    if abs(abs(dx) - abs(dy)) < MIN_MARGIN:
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def centre_of(scene: Scene, group: Group) -> tuple[float, float]:
    """The mean centre of the objects of a group's shape and colour; NaN if there are none."""
    centres = [(i.x, i.y) for i in scene.objects if i.shape == group.shape and group.colour in (None, i.colour)]
    if not centres:
        return float("nan"), float("nan")
    x, y = np.mean(centres, axis=0)
    return float(x), float(y)
