"""A grid of comparisons: prompts down, values of one setting across; who is right where; as one picture and as CSV."""

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from .compare import CompareRequest, Comparison, Event, check_whole, validate
from .drawing import OUTCOMES, draw_grid
from .errors import InvalidInput
from .models import ModelSpec
from .session import write_csv
from .settings import NAMES

AXES = {
    "seed": "seed",
    "num_inference_steps": "number of steps",
    "guidance_scale": "guidance scale",
    "sampler": "sampler",
    "strength": "strength",
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
    """A grid from one prompt a line and values such as "0, 1, 2" or "0..7"; every cell is validated before any is run.

    Raises: InvalidInput in one sentence.
    """
    if any(not isinstance(text, str) or len(text) > MAX_TEXT_CHARS for text in (prompts, values)):
        raise InvalidInput(f"Prompts and values are texts of at most {MAX_TEXT_CHARS} characters.")
    if not isinstance(axis, str) or axis not in AXES:
        raise InvalidInput(f"Unknown setting {str(axis)[:40]!r}: choose one of {', '.join(AXES)}.")
    lines = tuple(line.strip() for line in prompts.splitlines() if line.strip())
    if not 1 <= len(lines) <= MAX_PROMPTS:
        raise InvalidInput(f"A grid has 1 to {MAX_PROMPTS} prompts, one a line, got {len(lines)}.")
    across = _read_values(axis, values)
    if len(lines) * len(across) > MAX_CELLS:
        raise InvalidInput(f"A grid has at most {MAX_CELLS} comparisons, got {len(lines)} x {len(across)}.")
    requests = {}
    for row, prompt in enumerate(lines):
        for column, value in enumerate(across):
            requests[row, column] = validate(replace(base, prompt=prompt, **{axis: value}), spec)
    return Grid(lines, axis, tuple(across), requests)


def _read_values(axis: str, text: str) -> list[Any]:
    """Values between commas; `a..b` stands for the whole numbers from a to b."""
    values: list[Any] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if axis == "sampler":
            values.append(part.lower())
        elif match := re.fullmatch(r"(\d{1,10})\.\.(\d{1,10})", part):
            low, high = map(int, match.groups())
            check_whole("last value of a range", high, low, low + MAX_VALUES - 1)
            values.extend(range(low, high + 1))
        else:
            values.append(_read_number(axis, part))
    if not 1 <= len(values) <= MAX_VALUES:
        raise InvalidInput(f'A grid has 1 to {MAX_VALUES} values, such as "0, 1, 2" or "0..7", got {len(values)}.')
    return values


def _read_number(axis: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"The {AXES[axis]} must be a number, got {text[:40]!r}.") from None


def run_grid(grid: Grid, run: Callable[[CompareRequest], Generator[Event]]) -> Iterator[int]:
    """Run the comparisons of a grid row by row, keep them in `grid.done`, and yield their number at every event.

    `run` is `compare` with its model. Closing the generator stops within one step, and what is done stays. Other
    people's comparisons go in between, since the pipeline is taken for one at a time.
    """
    for at, request in grid.requests.items():
        with closing(run(request)) as events:
            for event in events:
                if isinstance(event, Comparison):
                    grid.done[at] = event
                yield len(grid.done)


def outcome(comparison: Comparison) -> str | None:
    """Who is right, a name of OUTCOMES; None where nothing is checked."""
    verdicts = comparison.verdicts
    if not {"standard", "npnet"} <= set(verdicts):
        return None
    right = (verdicts["standard"].correct, verdicts["npnet"].correct)
    return {(True, True): "both", (False, False): "neither", (True, False): "standard", (False, True): "golden"}[right]


def count_outcomes(grid: Grid) -> dict[str, int]:
    """How often each of OUTCOMES came out so far."""
    found = [outcome(comparison) for comparison in grid.done.values()]
    return {name: found.count(name) for name in OUTCOMES}


def grid_to_image(grid: Grid, spec: ModelSpec) -> Image.Image:
    """The grid so far as one picture with labels, frames in the winners' colours and a map of the winners."""
    cells = {at: (list(comparison.images.values()), outcome(comparison)) for at, comparison in grid.done.items()}
    first = next(iter(grid.requests.values()))
    fixed = ", ".join(f"{words} {_show(getattr(first, name))}" for name, words in AXES.items() if name != grid.axis)
    arms = " | ".join({"npnet": "golden"}.get(arm, arm) for arm in first.arms)
    title = f"{spec.title}: {arms}   ({fixed})"
    return draw_grid(grid.prompts, [f"{AXES[grid.axis]} {_show(value)}" for value in grid.values], cells, title)


def _show(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def grid_to_csv(grid: Grid) -> str:
    """One row a comparison that is done."""
    rows = []
    for (row, column), comparison in grid.done.items():
        cells: dict[str, Any] = {"row": row, "column": column}
        cells |= {name: getattr(comparison.request, name) for name in NAMES}
        for arm, verdict in comparison.verdicts.items():
            cells |= {f"{arm}_right": verdict.correct, f"{arm}_score": verdict.score}
            cells |= {f"{arm}_reasons": "; ".join(verdict.reasons)}
        cells |= {"outcome": outcome(comparison) or "", "total_seconds": comparison.total_seconds}
        rows.append(cells)
    return write_csv(rows)
