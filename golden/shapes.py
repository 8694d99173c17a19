"""The embedded world: a caption grammar, a renderer and an exact checker of what a picture shows.

Captions speak of one to four plain objects on a plain background, in the six categories of GenEval (Ghosh et al. 2023,
arXiv 2310.11513): single object, two objects, counting, colours, position, colour attribution.

    caption    := [opening] objects ["on a" background "background"]
    opening    := "a picture of" | "a drawing of" | "an image of"
    objects    := group | object "and" object | object relation object
    group      := ("a" | "an" | "one" | "two" | "three" | "four") [colour] shape
    relation   := "left of" | "right of" | "above" | "below"

    python -m golden.shapes render "a red circle left of a blue square" out.png --seed 3
    python -m golden.shapes check "a red circle left of a blue square" out.png
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError
from scipy import ndimage

from .errors import ArgumentParser, InvalidInput, run_command
from .files import ASSETS, atomic_path

IMAGE_SIZE = 128
"""Pixels on a side of every rendered picture."""

COLOURS = {
    "red": (216, 44, 48),
    "orange": (245, 135, 28),
    "yellow": (250, 212, 40),
    "green": (46, 160, 72),
    "blue": (42, 96, 214),
    "purple": (142, 62, 186),
}
BACKGROUNDS = {
    "white": (250, 250, 248),
    "grey": (158, 162, 168),
    "black": (26, 27, 32),
    "beige": (232, 217, 192),
}
OPENINGS = ("a picture of", "a drawing of", "an image of")
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
    "heart": "hearts",
}
SHAPES = tuple(PLURALS)
SINGULARS = {plural: shape for shape, plural in PLURALS.items()}
# Where the second object lies as seen from the first, in image coordinates (x to the right, y down).
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
GRAMMAR_WORDS = (
    "a",
    "an",
    "and",
    "of",
    "left",
    "right",
    "above",
    "below",
    "picture",
    "drawing",
    "image",
    "on",
    "background",
)
VOCABULARY = (*GRAMMAR_WORDS, *NUMBERS, *COLOURS, *BACKGROUNDS, *PLURALS, *SINGULARS)
"""Every word that a caption may use."""

MAX_CAPTION_CHARS = 200


# --- captions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """`count` objects of one shape; `colour` None means that any colour will do."""

    shape: str
    colour: str | None = None
    count: int = 1

    def __str__(self) -> str:
        noun = self.shape if self.count == 1 else PLURALS[self.shape]
        return " ".join(filter(None, (str(self.count), self.colour, noun)))


@dataclass(frozen=True)
class Request:
    """What a caption asks for: one group of objects, or two single objects with or without a relation."""

    groups: tuple[Group, ...]
    relation: str | None = None
    background: str | None = None
    counted: bool = False  # "one star" is about counting, "a star" is not

    @property
    def category(self) -> str:
        """The GenEval category."""
        if self.relation:
            return "position"
        if len(self.groups) == 2:
            return "color_attr" if any(group.colour for group in self.groups) else "two_object"
        if self.counted:
            return "counting"
        return "colors" if self.groups[0].colour else "single_object"


def parse_caption(caption: str) -> Request:
    """Read a caption of the grammar above; case and a final full stop do not matter.

    Raises: InvalidInput naming the word that is not in the grammar, or what was expected in its place.
    """
    if not isinstance(caption, str) or not caption.strip():
        raise InvalidInput('The prompt is empty: write something like "a red circle left of a blue square".')
    if len(caption) > MAX_CAPTION_CHARS:
        raise InvalidInput(f"The prompt has {len(caption)} characters: at most {MAX_CAPTION_CHARS} are allowed.")
    words = caption.lower().strip().rstrip(".").split()
    for word in words:
        if word not in VOCABULARY:
            raise InvalidInput(f"The word {word!r} is outside the shapes world. {describe_vocabulary()}")
    reader = _Words(words)
    for opening in OPENINGS:
        if reader.take(*opening.split()):
            break
    first, counted = _read_group(reader)
    relation = next((name for name in RELATIONS if reader.take(*name.split())), None)
    groups: tuple[Group, ...] = (first,)
    if relation or reader.take("and"):
        second, second_counted = _read_group(reader)
        groups, counted = (first, second), counted or second_counted
        if first.count > 1 or second.count > 1:
            raise InvalidInput(f"Two kinds of objects go one by one: got {first} and {second}, allowed is one of each.")
        if first.shape == second.shape and (first.colour == second.colour or not (first.colour and second.colour)):
            raise InvalidInput(
                f"The two objects cannot be told apart: got {first} and {second}; give them two colours."
            )
    background = None
    if reader.take("on", "a"):
        background = reader.take_one_of(BACKGROUNDS, "a background colour")
        if not reader.take("background"):
            raise InvalidInput(f"Expected 'background' after {background!r}, got {reader.rest()}.")
    if reader.words:
        raise InvalidInput(f"The prompt should end before {reader.rest()}: {GRAMMAR_HINT}")
    return Request(groups, relation, background, counted)


GRAMMAR_HINT = (
    'write "three blue stars", "a red circle and a blue square" or "a star above a heart on a grey background".'
)


def describe_vocabulary() -> str:
    """The vocabulary in one sentence, for error messages and help."""
    return (
        f"It knows the shapes {', '.join(SHAPES)}; the colours {', '.join(COLOURS)}; the numbers {', '.join(NUMBERS)}; "
        f"'and', {', '.join(RELATIONS)}; 'on a {'/'.join(BACKGROUNDS)} background'; and the openings "
        f"{', '.join(map(repr, OPENINGS))}."
    )


class _Words:
    """The words of a caption that are still to be read."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def take(self, *expected: str) -> bool:
        """Drop `expected` from the front and answer True, or leave everything and answer False."""
        if tuple(self.words[: len(expected)]) != expected:
            return False
        self.words = self.words[len(expected) :]
        return True

    def take_one_of(self, allowed, what: str) -> str:
        if not self.words or self.words[0] not in allowed:
            raise InvalidInput(f"Expected {what} ({', '.join(allowed)}), got {self.rest()}.")
        return self.words.pop(0)

    def rest(self) -> str:
        return repr(" ".join(self.words)) if self.words else "the end of the prompt"


def _read_group(reader: _Words) -> tuple[Group, bool]:
    number = reader.take_one_of(("a", "an", *NUMBERS), "a number of objects")
    count = NUMBERS.get(number, 1)
    colour = reader.words.pop(0) if reader.words and reader.words[0] in COLOURS else None
    noun = reader.take_one_of(SINGULARS if count > 1 else SHAPES, "shapes" if count > 1 else "a shape")
    return Group(SINGULARS.get(noun, noun), colour, count), number in NUMBERS


def write_caption(request: Request, opening: str = "") -> str:
    """The caption of a request; `parse_caption(write_caption(r)) == r`."""
    number_words = {count: word for word, count in NUMBERS.items()}

    def phrase(group: Group) -> str:
        noun = group.shape if group.count == 1 else PLURALS[group.shape]
        start = number_words[group.count] if request.counted else ("an" if group.colour == "orange" else "a")
        return " ".join(filter(None, (start, group.colour, noun)))

    body = f" {request.relation or 'and'} ".join(phrase(group) for group in request.groups)
    return " ".join(filter(None, (opening, body, request.background and f"on a {request.background} background")))


def sample_caption(rng: np.random.Generator, category: str | None = None) -> str:
    """A random caption, of a random category if none is given.

    It may be one of the frozen test prompts: who must avoid them takes `training_captions`.
    """
    category = category or str(rng.choice(CATEGORIES))
    shape, other = (str(shape) for shape in rng.choice(SHAPES, 2, replace=False))
    colour, other_colour = (str(colour) for colour in rng.choice(list(COLOURS), 2))
    groups: tuple[Group, ...]
    if category == "single_object":
        groups = (Group(shape),)
    elif category == "colors":
        groups = (Group(shape, colour),)
    elif category == "counting":
        groups = (Group(shape, colour if rng.random() < 0.5 else None, int(rng.integers(1, 5))),)
    elif category == "two_object" or (category == "position" and rng.random() < 0.5):
        groups = (Group(shape), Group(other))
    else:
        if colour != other_colour and rng.random() < 0.2:
            other = shape  # the same shape twice, told apart by colour alone
        groups = (Group(shape, colour), Group(other, other_colour))
    relation = str(rng.choice(list(RELATIONS))) if category == "position" else None
    background = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.5 else None
    opening = str(rng.choice(OPENINGS)) if rng.random() < 0.5 else ""
    return write_caption(Request(groups, relation, background, category == "counting"), opening)


@cache
def load_test_prompts(path: Path = ASSETS / "shapes" / "prompts_553.jsonl") -> tuple[dict, ...]:
    """The frozen test set: 553 rows {"prompt", "category"} in GenEval's proportions (80, 99, 80, 94, 100, 100)."""
    return tuple(json.loads(line) for line in path.read_text().splitlines())


def training_captions(rng: np.random.Generator) -> Iterator[str]:
    """Endless random captions, none of which stands in the frozen test set."""
    held_out = {row["prompt"] for row in load_test_prompts()}
    while True:
        caption = sample_caption(rng)
        if caption not in held_out:
            yield caption


# --- scenes and their pictures ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SceneObject:
    """One object: centre (x, y) and radius in units of the picture's side, y pointing down."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows."""

    background: str
    objects: tuple[SceneObject, ...]


def sample_scene(request: Request, rng: np.random.Generator) -> Scene:
    """A random scene for which the request is true; what the request leaves open is drawn at random."""
    background = request.background or str(rng.choice(list(BACKGROUNDS)))
    wanted = [group for group in request.groups for _ in range(group.count)]
    # A group without a colour is of one random colour throughout, as a person would draw it.
    random_colours = {group: str(rng.choice(list(COLOURS))) for group in request.groups}
    while True:
        centres = _sample_centres(len(wanted), request.relation, rng)
        radii = _sample_radii(len(wanted), rng)
        objects = tuple(
            SceneObject(group.shape, group.colour or random_colours[group], float(x), float(y), float(radius))
            for group, (x, y), radius in zip(wanted, centres, radii, strict=True)
        )
        if not _crowded(objects):
            return Scene(background, objects)


def _sample_centres(num_objects: int, relation: str | None, rng: np.random.Generator) -> np.ndarray:
    """(num_objects, 2) centres: a layout that is plain to see, and jitter."""
    if num_objects == 1:
        return np.array([[0.5, 0.5]]) + rng.uniform(-0.12, 0.12, (1, 2))
    if num_objects == 2:
        direction = np.array(RELATIONS[relation or str(rng.choice(list(RELATIONS)))])
        along = np.stack([0.5 - 0.21 * direction, 0.5 + 0.21 * direction])
        jitter = np.where(direction == 0, 0.1, 0.05)
        return along + rng.uniform(-1, 1, (2, 2)) * jitter
    if num_objects == 3:
        corners = np.array([[0.5, 0.28], [0.27, 0.71], [0.73, 0.71]])
        if rng.random() < 0.5:
            corners = corners * [1, -1] + [0, 1]  # the single one below
    else:
        corners = np.array([[0.28, 0.28], [0.72, 0.28], [0.28, 0.72], [0.72, 0.72]])
    return corners + rng.uniform(-0.05, 0.05, corners.shape)


def _sample_radii(num_objects: int, rng: np.random.Generator) -> np.ndarray:
    low, high = {1: (0.22, 0.31), 2: (0.15, 0.2), 3: (0.13, 0.165), 4: (0.13, 0.165)}[num_objects]
    return rng.uniform(low, high, num_objects)


def _crowded(objects: tuple[SceneObject, ...], gap: float = 0.04) -> bool:
    """Whether an object comes within `gap` of another or of the picture's edge (as boxes)."""
    for i, one in enumerate(objects):
        if min(one.x, one.y, 1 - one.x, 1 - one.y) < one.radius + gap:
            return True
        for other in objects[:i]:
            if max(abs(one.x - other.x), abs(one.y - other.y)) < one.radius + other.radius + gap:
                return True
    return False


@cache
def _outline(shape: str) -> np.ndarray:
    """Corner points (n, 2) of a shape, its bounding box centred on 0 and its longer side from -1 to 1."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    if shape == "circle":
        points = np.stack([np.cos(turn), np.sin(turn)], 1)
    elif shape == "square":
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.9
    elif shape == "triangle":
        points = np.array([[0, -1], [1, 0.8], [-1, 0.8]])
    elif shape == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * np.where(np.arange(10) % 2, 0.45, 1)[:, None]
    elif shape == "cross":
        arm = 0.36
        points = np.array([[-arm, -1], [arm, -1], [arm, -arm], [1, -arm], [1, arm], [arm, arm]])
        points = np.concatenate([points, -points])
    else:  # heart
        x = 16 * np.sin(turn) ** 3
        y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
        points = np.stack([x, y], 1)
    points = points - (points.max(0) + points.min(0)) / 2
    return points if shape == "square" else points / np.abs(points).max()


def render(scene: Scene, size: int = IMAGE_SIZE) -> Image.Image:
    """Draw a scene, anti-aliased: an RGB picture of `size` x `size` pixels."""
    oversampling = 4
    canvas = Image.new("RGB", (size * oversampling,) * 2, BACKGROUNDS[scene.background])
    draw = ImageDraw.Draw(canvas)
    for item in scene.objects:
        points = (_outline(item.shape) * item.radius + [item.x, item.y]) * size * oversampling
        draw.polygon([tuple(point) for point in points], fill=COLOURS[item.colour])
    return canvas.reduce(oversampling)


# --- the checker ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """An object seen in a picture; shape or colour is None where it is like nothing in the world."""

    shape: str | None
    colour: str | None
    x: float
    y: float

    def __str__(self) -> str:
        return f"{self.colour or 'off-colour'} {self.shape or 'blob'}"


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what the caption asks for, and one reason per thing asked.

    `attributes` lists each checked attribute with its outcome; `score` is the share that holds, from 0 to 1.
    """

    correct: bool
    reasons: tuple[str, ...]
    attributes: tuple[tuple[str, bool], ...]

    @property
    def score(self) -> float:
        return sum(ok for _, ok in self.attributes) / len(self.attributes)

    def __str__(self) -> str:
        return ("right: " if self.correct else "wrong: ") + "; ".join(self.reasons)


# Limits of the checker, in RGB distance, pixels and overlap. They were set on rendered and reconstructed pictures
# (tests/test_shapes.py holds the figures), so that a clean object passes and a melted one does not.
_NOT_BACKGROUND = 48.0
_COLOUR_LIMIT = 64.0
_BACKGROUND_LIMIT = 40.0
_PURE_SHARE = 0.8
_MIN_AREA = 48
_MIN_OVERLAP = 0.82
_GRID = 32
_ROUNDINGS = (0.0, 0.1, 0.2)


def find_objects(image: Image.Image) -> tuple[str | None, list[Found]]:
    """The background's name (None if it is like none) and the objects of a picture, larger ones first."""
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
    colours = pixels[core]
    colour = _nearest(np.median(colours, 0), COLOURS, _COLOUR_LIMIT)
    palette = np.array(list(COLOURS.values()), np.float32)
    nearest = np.linalg.norm(colours[:, None] - palette, axis=2).argmin(1)
    if colour and (nearest == list(COLOURS).index(colour)).mean() < _PURE_SHARE:
        colour = None  # patches of several colours
    # Half way between object and background is where the true edge of an anti-aliased object runs.
    solid = mask & (distance > np.median(distance[core]) / 2)
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if not len(rows):
        solid, rows, columns = mask, np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    solid = solid[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    y = (window[0].start + rows[0] + solid.shape[0] / 2) / IMAGE_SIZE
    x = (window[1].start + columns[0] + solid.shape[1] / 2) / IMAGE_SIZE
    return Found(_name_shape(solid), colour, x, y)


def _name_shape(solid: np.ndarray) -> str | None:
    """The shape whose outline, stretched to the mask's box, overlaps it best; None if none does well enough."""
    height, width = solid.shape
    aspect = width / height
    scaled = Image.fromarray(solid.astype(np.uint8) * 255).resize((_GRID, _GRID), Image.Resampling.BOX)
    grid = np.asarray(scaled, np.float32) / 255
    best, best_overlap = None, _MIN_OVERLAP
    for shape in SHAPES:
        for rounding in _ROUNDINGS:
            template, template_aspect = _template(shape, rounding)
            overlap = np.minimum(grid, template).sum() / np.maximum(grid, template).sum()
            if overlap > best_overlap and 0.75 < aspect / template_aspect < 1.33:
                best, best_overlap = shape, overlap
    return best


@cache
def _template(shape: str, rounding: float) -> tuple[np.ndarray, float]:
    """A shape's coverage of its own bounding box on a (_GRID, _GRID) grid, and the box's aspect ratio.

    `rounding` is the radius of its corners in units of the shape's own: an autoencoder blunts the points of a star.
    """
    side, margin = 256, 8
    canvas = Image.new("1", (side + 2 * margin,) * 2)
    points = (_outline(shape) + 1) / 2 * side + margin
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


def check_image(caption: str | Request, image: Image.Image) -> Verdict:
    """Compare a picture with a caption: every object asked for must be there, once, and nothing else.

    Raises: InvalidInput if the caption is outside the grammar.
    """
    request = parse_caption(caption) if isinstance(caption, str) else caption
    background, found = find_objects(image)
    attributes, reasons = [], []

    num_asked = sum(group.count for group in request.groups)
    attributes.append(("count", len(found) == num_asked))
    matched = _match(request, found)
    for group, group_found in zip(request.groups, matched, strict=True):
        # Without a colour asked for, any one colour will do, but not a patchwork of several.
        named = group_found.shape_right if group.colour else group_found.right
        attributes.append((f"{group.shape} shape", len(named) == group.count))
        if group.colour:
            attributes.append((f"{group.shape} colour", len(group_found.right) == group.count))
    every_object = all(len(m.right) == group.count for group, m in zip(request.groups, matched, strict=True))
    asked = " and ".join(map(str, request.groups))
    reasons.append(f"asked: {asked}; found: {_describe(found)}")

    if request.relation:
        holds = every_object and _relation_holds(request.relation, matched[0].right[0], matched[1].right[0])
        attributes.append((request.relation, holds))
        if every_object:
            first, second = (group.shape for group in request.groups)
            seen = _relation_between(matched[0].right[0], matched[1].right[0])
            reasons.append(f"asked: {first} {request.relation} {second}; found: {first} {seen} {second}")
    if request.background:
        attributes.append(("background", background == request.background))
        reasons.append(f"asked: {request.background} background; found: {background or 'another'} background")
    return Verdict(all(ok for _, ok in attributes), tuple(reasons), tuple(attributes))


@dataclass(frozen=True)
class _Matched:
    """The objects that were taken for one group: right in shape, and right in shape and colour."""

    shape_right: list[Found]
    right: list[Found]


def _match(request: Request, found: list[Found]) -> list[_Matched]:
    """Give each found object to at most one group, so that as many as possible are right."""

    def fits(item: Found, group: Group) -> bool:
        return item.shape == group.shape and item.colour is not None and group.colour in (None, item.colour)

    if len(request.groups) == 1:
        group = request.groups[0]
        shape_right = [item for item in found if item.shape == group.shape]
        return [_Matched(shape_right, [item for item in shape_right if fits(item, group)])]
    best, best_score = [_Matched([], []), _Matched([], [])], 0
    for pair in permutations([*found, None, None], 2):
        candidate = [
            _Matched([item] if item and item.shape == group.shape else [], [item] if item and fits(item, group) else [])
            for item, group in zip(pair, request.groups, strict=True)
        ]
        score = sum(2 * len(m.right) + len(m.shape_right) for m in candidate)
        if score > best_score:
            best, best_score = candidate, score
    return best


def _relation_between(first: Found, second: Found) -> str:
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def _relation_holds(relation: str, first: Found, second: Found) -> bool:
    return _relation_between(first, second) == relation


def _describe(found: list[Found]) -> str:
    if not found:
        return "nothing"
    counts = Counter(map(str, found))
    plural = {**PLURALS, "blob": "blobs"}
    return ", ".join(
        f"{n} {name}" if n == 1 else f"{n} {name.rsplit(' ', 1)[0]} {plural[name.rsplit(' ', 1)[1]]}"
        for name, n in counts.items()
    )


# --- one attribute changed: what the checker must refuse, and what judges learn from ----------------------------------


def change_one_attribute(scene: Scene, request: Request, rng: np.random.Generator) -> Scene:
    """A scene for which the request is false, by one colour, shape, count, order or background."""
    changes = ["shape", "count"]
    if any(group.colour for group in request.groups):
        changes.append("colour")
    if request.relation:
        changes.append("order")
    if request.background:
        changes.append("background")
    change = str(rng.choice(changes))
    objects = list(scene.objects)
    if change == "background":
        others = [name for name in BACKGROUNDS if name != scene.background]
        return replace(scene, background=str(rng.choice(others)))
    if change == "order":
        one, two = objects
        return replace(scene, objects=(replace(one, x=two.x, y=two.y), replace(two, x=one.x, y=one.y)))
    if change == "count":
        fewer = len(objects) > 1 and (len(objects) == 4 or rng.random() < 0.5)
        return _with_count(scene, len(objects) + (-1 if fewer else 1), rng)
    coloured = [i for i, item in enumerate(objects) if change == "shape" or _colour_asked(request, i)]
    index = int(rng.choice(coloured))
    field, values = ("shape", SHAPES) if change == "shape" else ("colour", tuple(COLOURS))
    # Not the partner's value either, or the change might only swap the two.
    taken = {getattr(item, field) for item in objects}
    value = str(rng.choice([v for v in values if v not in taken]))
    one = objects[index]
    objects[index] = replace(one, shape=value) if change == "shape" else replace(one, colour=value)
    return replace(scene, objects=tuple(objects))


def _colour_asked(request: Request, index: int) -> bool:
    groups = [group for group in request.groups for _ in range(group.count)]
    return groups[index].colour is not None


def _with_count(scene: Scene, count: int, rng: np.random.Generator) -> Scene:
    """The same kind of objects, `count` of them, laid out anew."""
    kinds = [scene.objects[i % len(scene.objects)] for i in range(count)]
    while True:
        centres, radii = _sample_centres(count, None, rng), _sample_radii(count, rng)
        objects = tuple(
            replace(kind, x=float(x), y=float(y), radius=float(radius))
            for kind, (x, y), radius in zip(kinds, centres, radii, strict=True)
        )
        if not _crowded(objects):
            return replace(scene, objects=objects)


# --- command line -----------------------------------------------------------------------------------------------------


def open_image(path: str | Path) -> Image.Image:
    """Open a picture from disk. Raises: InvalidInput if there is none or it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise InvalidInput(f"There is no picture at {path}.") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow answers a broken PNG with a SyntaxError.
        raise InvalidInput(f"{path} is not a picture that can be read: {error}.") from None


def main(argv: list[str] | None = None) -> int:
    description = "Render and check pictures of the shapes world."
    parser = ArgumentParser(prog="python -m golden.shapes", description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("render", help="draw a random scene for which a caption is true")
    draw.add_argument("caption")
    draw.add_argument("image", type=Path, help="PNG file to write")
    draw.add_argument("--seed", type=int, default=0, help="which of the many such scenes, 0 or more")
    says = "say whether a picture shows what a caption asks for (exit 0 right, 1 wrong)"
    check = commands.add_parser("check", help=says)
    check.add_argument("caption")
    check.add_argument("image", type=Path)
    arguments = parser.parse_args(argv)
    request = parse_caption(arguments.caption)
    if arguments.command == "check":
        verdict = check_image(request, open_image(arguments.image))
        print(verdict)
        return 0 if verdict.correct else 1
    if arguments.seed < 0:
        raise InvalidInput(f"The seed must be 0 or more, got {arguments.seed}.")
    if arguments.image.suffix.lower() != ".png":
        raise InvalidInput(f"The picture is written as PNG: give a name ending in .png, not {arguments.image.name!r}.")
    try:
        with atomic_path(arguments.image) as temporary:
            render(sample_scene(request, np.random.default_rng(arguments.seed))).save(temporary, format="PNG")
    except OSError as error:
        raise InvalidInput(f"{arguments.image} cannot be written: {error.strerror or error}.") from error
    return 0


if __name__ == "__main__":
    run_command(main)
