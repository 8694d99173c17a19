"""A grid as rows, one for each kind of noise: how many are right, which faults, how different, and what that shows."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..models import ModelSpec
from ..statistics import MIN_CLUSTERS, bootstrap_mean, mean_pairwise
from .arms import describe_arm
from .drawing import RIGHT, Strip, draw_strips
from .grid import AXES, Grid, describe_fixed, write_value
from .known import write_difference

_SIDE = 64  # pixels at which images are compared


@dataclass(frozen=True)
class ArmSummary:
    """One kind of noise over a whole grid so far.

    `difference` is to the first kind, with its interval if there is enough for one; `diversity` in percent, None for
    fewer than two images of a prompt.
    """

    name: str
    num_right: int
    num_checked: int
    faults: tuple[tuple[str, int], ...]
    difference: str
    diversity: float | None


def arms_of(grid: Grid) -> tuple[str, ...]:
    return next(iter(grid.requests.values())).arms


def diversity(images: list[Image.Image]) -> float | None:
    """The mean difference between the pixels of any two images, in percent of black against white; None for one."""
    if len(images) < 2:
        return None
    size = (_SIDE, _SIDE)
    pixels = [np.asarray(image.convert("RGB").resize(size), np.float32) for image in images]
    return 100 / 255 * mean_pairwise(pixels, lambda one, other: np.abs(one - other).mean())


def images_of(grid: Grid, arm: str, row: int) -> list[Image.Image]:
    """An arm's finished images of a prompt."""
    return [comparison.images[arm] for (at, _), comparison in sorted(grid.done.items()) if at == row]


def summarise(grid: Grid) -> list[ArmSummary]:
    """A summary of each arm, in their order."""
    return [_summarise_arm(grid, arm) for arm in arms_of(grid)]


def _summarise_arm(grid: Grid, arm: str) -> ArmSummary:
    verdicts = [comparison.verdicts[arm] for comparison in grid.done.values() if arm in comparison.verdicts]
    faults = Counter(verdict.fault for verdict in verdicts if verdict.fault)
    spreads = [diversity(images_of(grid, arm, row)) for row in range(len(grid.prompts))]
    known = [spread for spread in spreads if spread is not None]
    return ArmSummary(
        describe_arm(arm).short,
        sum(verdict.correct for verdict in verdicts),
        len(verdicts),
        tuple(faults.most_common()),
        describe_difference(grid, arm),
        float(np.mean(known)) if known else None,
    )


def describe_difference(grid: Grid, arm: str) -> str:
    """How many points more of an arm's images are right than of the first arm's, and the interval or why there is none.

    What is drawn again and again for the interval are the prompts or, of one prompt, the seeds: with other settings
    across, the columns are no sample of anything.
    """
    first = arms_of(grid)[0]
    checked = {at: comparison.verdicts for at, comparison in sorted(grid.done.items()) if comparison.verdicts}
    if arm == first or not checked:
        return ""
    values = [float(verdicts[arm].correct) - float(verdicts[first].correct) for verdicts in checked.values()]
    by_seed = len(grid.prompts) == 1 and grid.axis == "seed"
    clusters = [column if by_seed else row for row, column in checked]
    if len(set(clusters)) < MIN_CLUSTERS:
        return f"{100 * np.mean(values):+.1f} points".replace("-", "−")
    found = bootstrap_mean(values, clusters)
    return write_difference((found.value, found.low, found.high))


def explain_interval(grid: Grid) -> str:
    """What the intervals rest on, or what would be needed for one."""
    if len(grid.prompts) == 1 and grid.axis == "seed":
        enough = len(grid.done) >= MIN_CLUSTERS
        return (
            f"95 % interval over {len(grid.done)} seeds of this one prompt."
            if enough
            else f"An interval needs at least {MIN_CLUSTERS} seeds of one prompt, or {MIN_CLUSTERS} prompts."
        )
    rows = len({row for row, _ in grid.done})
    if rows >= MIN_CLUSTERS:
        return f"95 % interval over {rows} prompts."
    return f"An interval needs at least {MIN_CLUSTERS} prompts, or {MIN_CLUSTERS} seeds of one prompt."


def grid_to_strips(grid: Grid, spec: ModelSpec) -> Image.Image:
    """The grid so far as one image: under each prompt a row for each kind of noise, its counts beside it."""
    blocks = [
        (prompt, [_make_strip(grid, arm, row) for arm in arms_of(grid)]) for row, prompt in enumerate(grid.prompts)
    ]
    columns = [f"{AXES[grid.axis]} {write_value(value)}" for value in grid.values]
    return draw_strips(blocks, columns, f"{spec.title}   ({describe_fixed(grid)})")


def _make_strip(grid: Grid, arm: str, row: int) -> Strip:
    cells: list[tuple[Image.Image | None, str | None]] = []
    num_right = num_checked = 0
    for column in range(len(grid.values)):
        comparison = grid.done.get((row, column))
        verdict = comparison.verdicts.get(arm) if comparison else None
        cells.append((comparison.images[arm] if comparison else None, (verdict.fault or RIGHT) if verdict else None))
        num_checked += verdict is not None
        num_right += bool(verdict and verdict.correct)
    spread = diversity(images_of(grid, arm, row))
    notes = [f"right {num_right} of {num_checked}" if num_checked else ""]
    notes.append(f"diversity {spread:.1f} %" if spread is not None else "")
    return Strip(describe_arm(arm).short, cells, "\n".join(filter(None, notes)))
