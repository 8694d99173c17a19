"""Scenes for which a caption is true, and their images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from .grammar import BACKGROUNDS, COLOURS, OPPOSITES, RELATIONS, SHAPES, Group, Request

IMAGE_SIZE = 128
"""Pixels on a side of every rendered image."""


@dataclass(frozen=True)
class SceneObject:
    """One object: centre (x, y) and radius in units of the image's side, y pointing down."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """Everything that an image shows."""

    background: str
    objects: tuple[SceneObject, ...]


def sample_scene(request: Request, rng: np.random.Generator) -> Scene:
    """A random scene for which the request is true; what the request leaves open is drawn at random."""
    background = request.background or str(rng.choice(list(BACKGROUNDS)))
    wanted = [group for group in request.groups for _ in range(group.count)]
    # A group without a colour is of one random colour throughout, as a person would draw it.
    random_colours = {group: str(rng.choice(list(COLOURS))) for group in request.groups}
    while True:
        centres = _sample_centres(request, rng)
        radii = rng.uniform(*_radius_range(request), len(wanted))
        objects = tuple(
            SceneObject(group.shape, group.colour or random_colours[group], float(x), float(y), float(radius))
            for group, (x, y), radius in zip(wanted, centres, radii, strict=True)
        )
        if not _crowded(objects):
            return Scene(background, objects)


def render(scene: Scene, size: int = IMAGE_SIZE) -> Image.Image:
    """Draw a scene, anti-aliased: an RGB image of `size` x `size` pixels."""
    oversampling = 4
    canvas = Image.new("RGB", (size * oversampling,) * 2, BACKGROUNDS[scene.background])
    draw = ImageDraw.Draw(canvas)
    for item in scene.objects:
        points = (outline(item.shape) * item.radius + [item.x, item.y]) * size * oversampling
        draw.polygon([tuple(point) for point in points], fill=COLOURS[item.colour])
    return canvas.reduce(oversampling)


# --- layouts ----------------------------------------------------------------------------------------------------------


def _sample_centres(request: Request, rng: np.random.Generator) -> np.ndarray:
    """(num_objects, 2) centres in the order of the groups: a layout that is plain to see, and jitter."""
    counts = [group.count for group in request.groups]
    if len(counts) == 1:
        return _alone(counts[0], rng)
    if len(counts) == 2:
        return _two_sides(counts, request.relations, rng)
    return _three(request.relations, rng)


def _alone(count: int, rng: np.random.Generator) -> np.ndarray:
    if count == 1:
        return np.array([[0.5, 0.5]]) + rng.uniform(-0.12, 0.12, (1, 2))
    if count == 2:
        return _two_sides([1, 1], (), rng)
    if count == 3:
        corners = np.array([[0.5, 0.28], [0.27, 0.71], [0.73, 0.71]])
        if rng.random() < 0.5:
            corners = corners * [1, -1] + [0, 1]  # the single one below
    else:
        corners = np.array([[0.28, 0.28], [0.72, 0.28], [0.28, 0.72], [0.72, 0.72]])
        if count == 5:
            corners = np.concatenate([corners * 1.1 - 0.05, [[0.5, 0.5]]])
    return corners + rng.uniform(-0.05, 0.05, corners.shape) * (0.4 if count == 5 else 1)


def _two_sides(counts: Sequence[int], relations: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Two groups on opposite sides, each in a line across the direction from one to the other."""
    direction = np.array(RELATIONS[relations[0] if relations else str(rng.choice(list(RELATIONS)))])
    across = np.abs(direction[::-1])
    several = max(counts) > 1
    lines = []
    for count, side in zip(counts, (-0.21, 0.21), strict=True):
        offsets = {1: [0.0], 2: [-0.21, 0.21], 3: [-0.31, 0.0, 0.31]}[count]
        lines += [0.5 + side * direction + offset * across for offset in offsets]
    along_jitter, across_jitter = (0.05, 0.03) if several else (0.05, 0.1)
    return np.stack(lines) + rng.uniform(-1, 1, (len(lines), 2)) * np.where(direction == 0, across_jitter, along_jitter)


def _three(relations: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Three single objects; with relations, the first lies as asked from either of the others."""
    if not relations:
        return rng.permutation(_alone(3, rng))
    directions = np.array([RELATIONS[relation] for relation in relations])
    along, across = 0.45, np.zeros((2, 1))
    if relations[0] == relations[1]:
        across = np.array([[-0.17], [0.17]]) * rng.choice([-1, 1])  # side by side, seen from the first
    elif OPPOSITES[relations[0]] == relations[1]:
        along = 0.31  # the first between the others
    offsets = along * directions + across * np.abs(directions[:, ::-1])
    centres = np.concatenate([[[0.0, 0.0]], offsets]) + rng.uniform(-0.05, 0.05, (3, 2))
    return centres + 0.5 - (centres.max(0) + centres.min(0)) / 2 + rng.uniform(-0.06, 0.06, 2)


def _radius_range(request: Request) -> tuple[float, float]:
    counts = [group.count for group in request.groups]
    if len(counts) == 1 or request.num_objects == 2:
        return {1: (0.22, 0.31), 2: (0.15, 0.2), 3: (0.13, 0.165), 4: (0.13, 0.165), 5: (0.11, 0.125)}[
            request.num_objects
        ]
    return (0.11, 0.125) if max(counts) == 3 else (0.12, 0.155)


def _crowded(objects: tuple[SceneObject, ...], gap: float = 0.04) -> bool:
    """Whether an object comes within `gap` of another or of the image's edge (as boxes)."""
    for i, one in enumerate(objects):
        if min(one.x, one.y, 1 - one.x, 1 - one.y) < one.radius + gap:
            return True
        for other in objects[:i]:
            if max(abs(one.x - other.x), abs(one.y - other.y)) < one.radius + other.radius + gap:
                return True
    return False


@cache
def outline(shape: str) -> np.ndarray:
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


# --- one attribute changed: what the checker must refuse, and what judges learn from ----------------------------------

CHANGES = ("shape", "colour", "count", "position", "background")


def possible_changes(request: Request) -> list[str]:
    """Those of CHANGES that can make a request false."""
    changes = ["shape", "count"]
    if any(group.colour for group in request.groups):
        changes.append("colour")
    if request.relations:
        changes.append("position")
    if request.background:
        changes.append("background")
    return changes


def change_one_attribute(scene: Scene, request: Request, rng: np.random.Generator, change: str | None = None) -> Scene:
    """A scene for which the request is false, by one colour, shape, count, position or background.

    `change` is one of `possible_changes(request)`, drawn at random by default.
    """
    change = change or str(rng.choice(possible_changes(request)))
    if change == "background":
        others = [name for name in BACKGROUNDS if name != scene.background]
        return replace(scene, background=str(rng.choice(others)))
    if change == "position":
        return _with_position(scene, request, rng)
    if change == "count":
        fewer = len(scene.objects) > 1 and (len(scene.objects) > 3 or rng.random() < 0.5)
        return _with_count(scene, len(scene.objects) + (-1 if fewer else 1), rng)
    groups = [group for group in request.groups for _ in range(group.count)]
    index = int(rng.choice([i for i, group in enumerate(groups) if change == "shape" or group.colour]))
    values: Sequence[str] = SHAPES if change == "shape" else tuple(COLOURS)
    # Not another object's value either, or the change might only swap the two.
    taken = {getattr(item, change) for item in scene.objects}
    value = str(rng.choice([value for value in values if value not in taken]))
    objects = list(scene.objects)
    one = objects[index]
    objects[index] = replace(one, shape=value) if change == "shape" else replace(one, colour=value)
    return replace(scene, objects=tuple(objects))


def _with_position(scene: Scene, request: Request, rng: np.random.Generator) -> Scene:
    """The same objects laid out so that a relation is false: as if another relation had been asked for."""
    relations = list(request.relations)
    index = int(rng.integers(len(relations)))
    relations[index] = str(rng.choice([name for name in RELATIONS if name != relations[index]]))
    objects = scene.objects
    groups: list[Group] = []
    for group in request.groups:  # with the colours that the scene has, so that nothing else changes
        groups.append(Group(group.shape, objects[sum(g.count for g in groups)].colour, group.count))
    return sample_scene(Request(tuple(groups), tuple(relations), scene.background, request.counted), rng)


def _with_count(scene: Scene, count: int, rng: np.random.Generator) -> Scene:
    """The same kinds of objects, `count` of them, laid out anew."""
    kinds = [scene.objects[i % len(scene.objects)] for i in range(count)]
    layout = Request((Group("circle", count=count),))
    while True:
        centres = rng.permutation(_alone(count, rng))
        radii = rng.uniform(*_radius_range(layout), count)
        objects = tuple(
            replace(kind, x=float(x), y=float(y), radius=float(radius))
            for kind, (x, y), radius in zip(kinds, centres, radii, strict=True)
        )
        if not _crowded(objects):
            return replace(scene, objects=objects)
