"""The exact checker of the shapes world: what an image shows, and what of a caption it gets wrong."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from ..checkers import FAULTS, Verdict
from .composer import ShapesComposer
from .grammar import BACKGROUNDS, COLOURS, PLURALS, SHAPES, Group, Request, parse_caption, sample_captions
from .prompts import load_test_prompts
from .scenes import IMAGE_SIZE, Scene, change_one_attribute, outline, render, sample_scene


@dataclass(frozen=True)
class Found:
    """An object seen in an image; shape or colour is None where it is like nothing in the world."""

    shape: str | None
    colour: str | None
    x: float
    y: float

    def __str__(self) -> str:
        return f"{self.colour or 'off-colour'} {self.shape or 'blob'}"


class ShapesChecker:
    """The exact checker, as golden/checkers.py describes one."""

    name = "shapes"
    examples = (
        "a red circle left of a blue square",
        "three yellow stars",
        "a green heart and a purple cross",
        "a star above a heart on a grey background",
    )
    unrelated = ("four purple crosses on a black background", "a green heart")
    composer = ShapesComposer()

    def validate_prompt(self, prompt: str) -> None:
        parse_caption(prompt)

    def check(self, prompt: str, image: Image.Image) -> Verdict:
        return check_image(prompt, image)

    def sample_prompts(self, rng: np.random.Generator, held_out: bool = False) -> Iterator[str]:
        return sample_captions(rng, held_out)

    def list_test_prompts(self) -> tuple[str, ...]:
        return tuple(row["prompt"] for row in load_test_prompts())

    def sample_examples(self, rng: np.random.Generator) -> Iterator[tuple[str, Image.Image, bool]]:
        """Rendered scenes, half of them with one attribute changed, positions as often as all other attributes."""
        for caption in sample_captions(rng):
            request = parse_caption(caption)
            scene, right = sample_scene(request, rng), bool(rng.random() < 0.5)
            if not right:
                position = bool(request.relations) and rng.random() < 0.5
                scene = change_one_attribute(scene, request, rng, "position" if position else None)
            yield caption, render(scene), right


def check_image(caption: str | Request, image: Image.Image) -> Verdict:
    """Compare an image with a caption: every object asked for must be there, once, and nothing else.

    Raises: InvalidInput if the caption is outside the grammar.
    """
    request = parse_caption(caption) if isinstance(caption, str) else caption
    return judge(request, *find_objects(image))


def check_scene(request: Request, scene: Scene) -> Verdict:
    """The verdict on a scene as it was meant, without looking at an image of it."""
    return judge(request, scene.background, [Found(item.shape, item.colour, item.x, item.y) for item in scene.objects])


# --- what an image shows ----------------------------------------------------------------------------------------------

# Limits of the checker, in RGB distance, pixels and overlap. They were set on rendered and reconstructed images
# (tests/test_shapes.py holds the figures), so that a clean object passes and a melted one does not.
_NOT_BACKGROUND = 48.0
_COLOUR_LIMIT = 64.0
_SHADE_LIMIT = 80.0  # of a single pixel: an orange object may shade into yellow
_BACKGROUND_LIMIT = 40.0
_PURE_SHARE = 0.8
_MIN_AREA = 48
_MIN_OVERLAP = {"star": 0.76, "circle": 0.89}  # a small star has points of a pixel or two; a circle has no corners
_MIN_OVERLAP_OF_OTHERS = 0.82
_GRID = 32
_ROUNDINGS = (0.0, 0.1, 0.2)


def find_objects(image: Image.Image) -> tuple[str | None, list[Found]]:
    """The background's name (None if it is like none) and the objects of an image, larger ones first."""
    pixels = np.asarray(image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS), np.float32)
    sides = (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:])
    frame = np.concatenate([side.reshape(-1, 3) for side in sides])
    background_colour = np.median(frame, 0)
    background = _nearest(background_colour, BACKGROUNDS, _BACKGROUND_LIMIT)
    distance = np.linalg.norm(pixels - background_colour, axis=2)
    labels, _ = ndimage.label(distance > _NOT_BACKGROUND)
    found = []
    for index, window in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[window] == index
        if mask.sum() >= _MIN_AREA:
            found.append((mask.sum(), _identify(pixels[window], distance[window], mask, window)))
    return background, [item for _, item in sorted(found, key=lambda pair: -pair[0])]


def _nearest(colour: np.ndarray, palette: dict[str, tuple], limit: float) -> str | None:
    distances = {name: np.linalg.norm(colour - np.array(value)) for name, value in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= limit else None


def _identify(pixels: np.ndarray, distance: np.ndarray, mask: np.ndarray, window: tuple[slice, slice]) -> Found:
    """Name one connected component: colour by its core, shape by overlap with each outline in the same box."""
    core = ndimage.binary_erosion(mask, iterations=2)
    core = core if core.any() else mask
    colour = _name_colour(pixels[core])
    # Half way between object and background is where the true edge of an anti-aliased object runs.
    solid = mask & (distance > np.median(distance[core]) / 2)
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if not len(rows):
        solid, rows, columns = mask, np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    solid = solid[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    y = (window[0].start + rows[0] + solid.shape[0] / 2) / IMAGE_SIZE
    x = (window[1].start + columns[0] + solid.shape[1] / 2) / IMAGE_SIZE
    # What reaches the frame on all sides is no object, whatever its outline: noise fills the image like a square.
    fills_image = all(part.start == 0 and part.stop == IMAGE_SIZE for part in window)
    return Found(None if fills_image else _name_shape(solid), colour, x, y)


def _name_colour(colours: np.ndarray) -> str | None:
    """The name of the colour of an object's pixels (n, 3), None if it is like none or a patchwork of several."""
    colour = _nearest(np.median(colours, 0), COLOURS, _COLOUR_LIMIT)
    if colour and (np.linalg.norm(colours - COLOURS[colour], axis=1) <= _SHADE_LIMIT).mean() < _PURE_SHARE:
        return None
    return colour


def _name_shape(solid: np.ndarray) -> str | None:
    """The shape whose outline, stretched to the mask's box, overlaps it best; None if none does well enough."""
    height, width = solid.shape
    aspect = width / height
    scaled = Image.fromarray(solid.astype(np.uint8) * 255).resize((_GRID, _GRID), Image.Resampling.BOX)
    grid = np.asarray(scaled, np.float32) / 255
    best, best_overlap = None, 0.0
    for shape in SHAPES:
        for rounding in _ROUNDINGS:
            template, template_aspect = _template(shape, rounding)
            overlap = np.minimum(grid, template).sum() / np.maximum(grid, template).sum()
            if overlap > best_overlap and 0.75 < aspect / template_aspect < 1.33:
                best, best_overlap = shape, overlap
    return best if best and best_overlap > _MIN_OVERLAP.get(best, _MIN_OVERLAP_OF_OTHERS) else None


@cache
def _template(shape: str, rounding: float) -> tuple[np.ndarray, float]:
    """A shape's coverage of its own bounding box on a (_GRID, _GRID) grid, and the box's aspect ratio.

    `rounding` is the radius of its corners in units of the shape's own: an autoencoder blunts the points of a star.
    """
    side, margin = 256, 8
    canvas = Image.new("1", (side + 2 * margin,) * 2)
    points = (outline(shape) + 1) / 2 * side + margin
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in points], fill=1)
    mask = np.asarray(canvas)
    if rounding:
        # Opening: what a disc of that radius can sweep without leaving the shape.
        radius = rounding * side / 2
        core = ndimage.distance_transform_edt(mask) > radius
        mask = ndimage.distance_transform_edt(~core) <= radius
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scaled = Image.fromarray(mask.astype(np.uint8) * 255).resize((_GRID, _GRID), Image.Resampling.BOX)
    return np.asarray(scaled, np.float32) / 255, mask.shape[1] / mask.shape[0]


# --- what was asked ---------------------------------------------------------------------------------------------------


def judge(request: Request, background: str | None, found: list[Found]) -> Verdict:
    """The verdict on the objects `found` on a `background`; a colour counts only where one was asked for."""
    matched = _match(request, found)
    count_right = len(found) == request.num_objects
    attributes = [("count", count_right)]
    for group, items in zip(request.groups, matched, strict=True):
        attributes.append((f"{group.shape} shape", sum(item.shape == group.shape for item in items) == group.count))
        if group.colour:
            attributes.append((f"{group.shape} colour", sum(_fits(item, group) for item in items) == group.count))
    objects_right = all(ok for _, ok in attributes)
    reasons = [f"asked: {' and '.join(map(str, request.groups))}; found: {_describe(found)}"]

    groups_right = all(
        sum(_fits(item, group) for item in items) == group.count
        for group, items in zip(request.groups, matched, strict=True)
    )
    centres = [_centre(items) for items in matched] if groups_right else []
    for relation, group, other in zip(request.relations, request.groups[1:], centres[1:], strict=False):
        seen = _relation_between(centres[0], other)
        attributes.append((relation, seen == relation))
        one, two = _name(request.groups[0], request), _name(group, request)
        reasons.append(f"asked: {one} {relation} {two}; found: {one} {seen} {two}")
    if not groups_right:
        attributes += [(relation, False) for relation in request.relations]
    if request.background:
        attributes.append(("background", background == request.background))
        reasons.append(f"asked: {request.background} background; found: {background or 'another'} background")
    faults = _find_faults(request, matched, found) if not objects_right else set()
    if groups_right and not all(ok for name, ok in attributes if name in request.relations):
        faults.add("position")
    if request.background not in (None, background):
        faults.add("background")
    right = all(ok for _, ok in attributes)
    layout = tuple((item.shape or "blob", item.x, item.y) for item in found)
    return Verdict(right, tuple(reasons), tuple(attributes), tuple(sorted(faults, key=FAULTS.index)), layout)


def _fits(item: Found, group: Group) -> bool:
    return item.shape == group.shape and group.colour in (None, item.colour)


def _match(request: Request, found: list[Found]) -> list[list[Found]]:
    """For each group the objects taken for it, each for one at most, so that as much as possible is right."""
    places = [group for group in request.groups for _ in range(group.count)]
    worth = np.array(
        [
            [4 * _fits(item, group) + 2 * (item.shape == group.shape) + (item.colour == group.colour) for item in found]
            for group in places
        ]
    ).reshape(len(places), len(found))
    matched: dict[Group, list[Found]] = {group: [] for group in request.groups}
    for place, index in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
        matched[places[place]].append(found[index])
    return list(matched.values())


def _find_faults(request: Request, matched: list[list[Found]], found: list[Found]) -> set[str]:
    """What is wrong with the objects, as kinds of FAULTS."""
    faults = set()
    taken = [item for items in matched for item in items]
    colour_asked = any(group.colour for group in request.groups)
    if any(item.shape is None or (item.colour is None and colour_asked) for item in found):
        faults.add("unclear")
    several = any(group.count > 1 for group in request.groups)
    if len(found) != request.num_objects:
        kinds = {(group.shape, group.colour) for group in request.groups}
        of_a_kind = all(
            any(item.shape == shape and colour in (None, item.colour) for shape, colour in kinds) for item in found
        )
        faults.add(
            "count" if several and of_a_kind and found else "missing" if len(found) < request.num_objects else "extra"
        )
    for group, items in zip(request.groups, matched, strict=True):
        for item in items:
            if item.shape not in (None, group.shape):
                faults.add("shape")
            elif item.shape and group.colour not in (None, item.colour) and item.colour:
                faults.add("colour")
    # Every object was clear, of its shape and colour, and there were as many as asked for: the wrong number of each.
    return faults or {"count" if taken else "missing"}


def _centre(items: list[Found]) -> tuple[float, float]:
    return float(np.mean([item.x for item in items])), float(np.mean([item.y for item in items]))


def _relation_between(first: tuple[float, float], second: tuple[float, float]) -> str:
    dx, dy = second[0] - first[0], second[1] - first[1]
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def _name(group: Group, request: Request) -> str:
    """A group in a reason: its shape, with the colour where another group has the same shape."""
    noun = group.shape if group.count == 1 else PLURALS[group.shape]
    alone = sum(other.shape == group.shape for other in request.groups) == 1
    return noun if alone else f"{group.colour} {noun}"


def _describe(found: list[Found]) -> str:
    if not found:
        return "nothing"
    counts = Counter(map(str, found))
    plural = {**PLURALS, "blob": "blobs"}
    return ", ".join(
        f"{n} {name}" if n == 1 else f"{n} {name.rsplit(' ', 1)[0]} {plural[name.rsplit(' ', 1)[1]]}"
        for name, n in counts.items()
    )
