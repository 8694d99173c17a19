"""A grid of comparisons: prompts down, values of one setting across; who is correct where; as an image and as CSV."""

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from ..checks import check_whole, shown
from ..compare import Comparison, Event
from ..errors import InvalidInput
from ..models import ModelSpec
from ..request import CompareRequest, validate
from ..settings import NAMES
from .arms import describe_arm
from .drawing import OUTCOMES, draw_grid
from .fields import SETTINGS
from .session import write_csv

AXES = {
    setting.name: setting.words
    for setting in SETTINGS.values()
    if setting.name != "prompt" and not setting.optional and setting.kind in (int, float, str)
}
"""The settings that can run across a grid: name of CompareRequest -> words."""

MAX_PROMPTS = 12
MAX_VALUES = 16
MAX_CELLS = 96
MAX_TEXT_CHARS = 30_000


@dataclass
class Grid:
    """A planned grid, and the comparisons that are done, by (row, column)."""

    prompts: tuple[str, ...]
    axis: str
    values: tuple[Any, ...]
    requests: dict[tuple[int, int], CompareRequest]
    done: dict[tuple[int, int], Comparison] = field(default_factory=dict)


def plan_grid(base: CompareRequest, prompts: Any, axis: Any, values: Any, spec: ModelSpec) -> Grid:
    """A grid from one prompt per line and values such as "0, 1, 2" or "0..7"; all cells are validated before any runs.

    Repeats are dropped: the same image twice would count as two in intervals, and as none in diversity.

    Raises: InvalidInput in one sentence.
    """
    if any(not isinstance(text, str) or len(text) > MAX_TEXT_CHARS for text in (prompts, values)):
        raise InvalidInput(f"Prompts and values must be text of at most {MAX_TEXT_CHARS} characters.")
    if not isinstance(axis, str) or axis not in AXES:
        raise InvalidInput(f"Unknown setting {shown(axis)}: choose one of {', '.join(AXES)}.")
    lines = tuple(dict.fromkeys(line.strip() for line in prompts.splitlines() if line.strip()))
    if not 1 <= len(lines) <= MAX_PROMPTS:
        raise InvalidInput(f"A grid takes 1 to {MAX_PROMPTS} prompts, one per line, got {len(lines)}.")
    across = _read_values(axis, values)
    if len(lines) * len(across) > MAX_CELLS:
        raise InvalidInput(f"A grid has at most {MAX_CELLS} comparisons, got {len(lines)} x {len(across)}.")
    requests = {}
    for row, prompt in enumerate(lines):
        for column, value in enumerate(across):
            requests[row, column] = validate(replace(base, prompt=prompt, **{axis: value}), spec)
    return Grid(lines, axis, tuple(across), requests)


def _read_values(axis: str, text: str) -> list[Any]:
    """Values between commas, each once; `a..b` is every whole number from a to b."""
    values: list[Any] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if SETTINGS[axis].kind is str:
            values.append(part.lower())
        elif match := re.fullmatch(r"(\d{1,10})\.\.(\d{1,10})", part):
            low, high = map(int, match.groups())
            check_whole("last value of a range", high, low, low + MAX_VALUES - 1)
            values.extend(range(low, high + 1))
        else:
            values.append(_read_number(axis, part))
    values = list(dict.fromkeys(values))
    if not 1 <= len(values) <= MAX_VALUES:
        raise InvalidInput(f'A grid takes 1 to {MAX_VALUES} values, such as "0, 1, 2" or "0..7", got {len(values)}.')
    return values


def _read_number(axis: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"The {AXES[axis]} must be a number, got {text[:40]!r}.") from None


def run_grid(grid: Grid, run: Callable[[CompareRequest], Generator[Event]]) -> Iterator[int]:
    """Run the comparisons of a grid row by row, keep them in `grid.done`, and yield their number at every event.

    `run` is `compare` with its model. Closing the generator stops within one step and keeps what is done. Other
    people's comparisons run in between, since each holds the model only while it runs.
    """
    for at, request in grid.requests.items():
        with closing(run(request)) as events:
            for event in events:
                if isinstance(event, Comparison):
                    grid.done[at] = event
                yield len(grid.done)


def find_outcome(comparison: Comparison) -> str | None:
    """Who is correct, a name of OUTCOMES; None if nothing was checked."""
    verdicts = comparison.verdicts
    if not {"standard", "npnet"} <= set(verdicts):
        return None
    correct = (verdicts["standard"].correct, verdicts["npnet"].correct)
    return {(True, True): "both", (False, False): "neither", (True, False): "standard", (False, True): "golden"}[
        correct
    ]


def count_outcomes(grid: Grid) -> dict[str, int]:
    """How often each of OUTCOMES has occurred so far."""
    found = [find_outcome(comparison) for comparison in grid.done.values()]
    return {name: found.count(name) for name in OUTCOMES}


def grid_to_image(grid: Grid, spec: ModelSpec) -> Image.Image:
    """The grid so far as one image with labels, frames in the winners' colours and a map of the winners."""
    cells = {at: (list(comparison.images.values()), find_outcome(comparison)) for at, comparison in grid.done.items()}
    arms = " | ".join(describe_arm(arm).short for arm in next(iter(grid.requests.values())).arms)
    title = f"{spec.title}: {arms}   ({describe_fixed(grid)})"
    return draw_grid(grid.prompts, [f"{AXES[grid.axis]} {write_value(value)}" for value in grid.values], cells, title)


def describe_fixed(grid: Grid) -> str:
    """The settings that all comparisons of a grid share, in words."""
    first = next(iter(grid.requests.values()))
    return ", ".join(
        f"{words} {write_value(getattr(first, name))}" for name, words in AXES.items() if name != grid.axis
    )


def write_value(value: Any) -> str:
    """A setting's value as people write it."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def grid_to_csv(grid: Grid) -> str:
    """One row per finished comparison."""
    rows = []
    for (row, column), comparison in grid.done.items():
        cells: dict[str, Any] = {"row": row, "column": column}
        cells |= {name: getattr(comparison.request, name) for name in NAMES}
        for arm, verdict in comparison.verdicts.items():
            cells |= {f"{arm}_correct": verdict.correct, f"{arm}_score": verdict.score}
            cells |= {f"{arm}_reasons": "; ".join(verdict.reasons)}
        cells |= {"outcome": find_outcome(comparison) or "", "total_seconds": comparison.total_seconds}
        rows.append(cells)
    return write_csv(rows)
