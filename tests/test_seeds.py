"""A grid as rows of one noise each: counts, faults, diversity, and an interval only where there is enough for one."""

import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

from golden.checkers import FAULTS, Verdict
from golden.compare import Comparison, compare
from golden.request import CompareRequest
from golden.ui import grid as grids
from golden.ui.drawing import FAULT_COLOURS, RIGHT
from golden.ui.seeds import describe_difference, diversity, explain_interval, grid_to_strips, summarise
from golden.ui.tabs.explore import show_summary

BASE = CompareRequest(prompt="a star", num_inference_steps=1)
GREY = Image.new("RGB", (8, 8), (120, 120, 120))


def verdict(fault: str | None) -> Verdict:
    return Verdict(fault is None, ("asked: 1 star",), (("count", fault is None),), (fault,) if fault else ())


def fill(grid: grids.Grid, faults: list[tuple[str | None, str | None]]) -> grids.Grid:
    """The grid with outcomes of (standard, golden), as if it had run."""
    for at, pair in zip(grid.requests, faults, strict=True):
        verdicts = dict(zip(("standard", "npnet"), map(verdict, pair), strict=True))
        grid.done[at] = Comparison(grid.requests[at], dict.fromkeys(verdicts, GREY), {}, verdicts, 0.1, 1.0)
    return grid


def plan(spec, prompts: str = "a star", values: str = "0..7", axis: str = "seed") -> grids.Grid:
    return grids.plan_grid(BASE, prompts, axis, values, spec)


def test_equal_images_have_no_diversity_and_opposite_ones_all_of_it():
    black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (9, 7), (255, 255, 255))
    assert diversity([GREY, GREY, GREY]) == 0
    assert diversity([black, white]) == 100
    assert diversity([black, black, white]) == pytest.approx(200 / 3)
    assert diversity([GREY]) is diversity([]) is None


def test_right_images_and_faults_are_counted_by_noise(tiny_shapes):
    grid = fill(
        plan(tiny_shapes.spec, values="0..3"), [("colour", None), ("colour", "count"), (None, None), ("shape", None)]
    )
    standard, golden = summarise(grid)
    assert (standard.name, standard.num_right, standard.num_checked) == ("standard", 1, 4)
    assert standard.faults == (("colour", 2), ("shape", 1))
    assert (golden.num_right, golden.faults) == (3, (("count", 1),))
    assert golden.difference == "+50.0 points"
    assert standard.difference == ""


def test_an_interval_needs_eight_seeds_of_a_prompt_or_eight_prompts(tiny_shapes):
    better = ("colour", None)
    few, enough = plan(tiny_shapes.spec, values="0..6"), plan(tiny_shapes.spec, values="0..7")
    assert describe_difference(fill(few, [better] * 7), "npnet") == "+100.0 points"
    assert "An interval needs at least 8 seeds" in explain_interval(few)
    fill(enough, [better] * 4 + [(None, None)] * 4)
    assert re.fullmatch(r"\+50\.0 points \[[+−]\d+\.\d,\s\+\d+\.\d\]", describe_difference(enough, "npnet"))
    assert explain_interval(enough) == "95 % interval over 8 seeds of this one prompt."
    prompts = "\n".join(
        f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("star", "heart", "cross", "circle")
    )
    many = fill(plan(tiny_shapes.spec, prompts, "0, 1"), [better, (None, None)] * 8)
    assert "[" in describe_difference(many, "npnet")
    assert explain_interval(many) == "95 % interval over 8 prompts."


def test_repeated_seeds_are_no_larger_sample(tiny_shapes):
    grid = plan(tiny_shapes.spec, values="1, 1, 1, 1, 1, 1, 1, 2")
    fill(grid, [("colour", None)] * len(grid.requests))
    assert "An interval needs at least 8 seeds" in explain_interval(grid)
    assert "[" not in describe_difference(grid, "npnet")


def test_other_settings_across_are_no_sample(tiny_shapes):
    grid = plan(tiny_shapes.spec, values=", ".join(map(str, range(1, 9))), axis="num_inference_steps")
    assert "[" not in describe_difference(fill(grid, [("colour", None)] * 8), "npnet")


def test_the_table_names_what_it_rests_on(tiny_shapes):
    grid = fill(plan(tiny_shapes.spec), [("colour", None)] * 8)
    html = show_summary(grid)
    assert "8 of 8" in html
    assert "0 of 8" in html
    assert "colour 8" in html
    assert "over 8 seeds" in html


def test_frames_have_the_colours_of_the_faults(tiny_shapes):
    grid = fill(plan(tiny_shapes.spec, values="0, 1"), [("colour", None), ("position", None)])
    colours = {tuple(colour) for colour in np.asarray(grid_to_strips(grid, tiny_shapes.spec)).reshape(-1, 3)}
    assert {FAULT_COLOURS[kind] for kind in ("colour", "position", RIGHT)} <= colours
    assert FAULT_COLOURS["shape"] not in colours


def test_it_is_drawn_while_it_runs_and_for_any_noises(tiny_model):
    base = CompareRequest(prompt="x", num_inference_steps=1, arms=("standard", "npnet", "norm", "random"))
    grid = grids.plan_grid(base, "any words", "seed", "0, 1", tiny_model.spec)
    empty = grid_to_strips(grid, tiny_model.spec)
    list(grids.run_grid(grid, partial(compare, model=tiny_model)))
    full = grid_to_strips(grid, tiny_model.spec)
    assert empty.size == full.size
    assert empty.tobytes() != full.tobytes()
    assert [arm.name for arm in summarise(grid)] == ["standard", "golden", "shorter", "random change"]
    assert all(arm.num_checked == 0 and arm.difference == "" for arm in summarise(grid))


def test_every_kind_of_fault_has_a_colour_of_its_own():
    assert set(FAULT_COLOURS) == {RIGHT, *FAULTS}
    assert len(set(FAULT_COLOURS.values())) == len(FAULT_COLOURS)
