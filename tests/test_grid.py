"""Grids are planned as a whole, run cell by cell, counted, drawn and written."""

import csv
import io
from dataclasses import replace
from functools import partial

import pytest

from golden.compare import compare
from golden.errors import InvalidInput
from golden.request import CompareRequest
from golden.ui import grid as grids
from golden.ui.drawing import OUTCOMES

BASE = CompareRequest(prompt="a star", seed=5, num_inference_steps=1, guidance_scale=3.0, sampler="euler", strength=1.0)


def test_a_grid_varies_one_setting_and_keeps_the_others(tiny_shapes):
    grid = grids.plan_grid(BASE, "a star\n\n  two hearts ", "seed", "0..2, 9", tiny_shapes.spec)
    assert grid.prompts == ("a star", "two hearts")
    assert grid.values == (0, 1, 2, 9)
    assert len(grid.requests) == 8
    assert grid.requests[1, 3] == replace(BASE, prompt="two hearts", seed=9)


def test_repeated_prompts_and_values_run_once(tiny_shapes):
    grid = grids.plan_grid(BASE, "two hearts\na star\n two hearts", "seed", "3, 0..3, 3, 1.0", tiny_shapes.spec)
    assert grid.prompts == ("two hearts", "a star")
    assert grid.values == (3, 0, 1, 2)
    assert len(grid.requests) == 8
    assert grids.plan_grid(BASE, "a star", "sampler", "DDIM, euler, ddim", tiny_shapes.spec).values == ("ddim", "euler")


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        ("num_inference_steps", "1, 2", [1, 2]),
        ("guidance_scale", "2.5,7", [2.5, 7.0]),
        ("sampler", "DDIM, euler", ["ddim", "euler"]),
        ("strength", "0, 0.5", [0.0, 0.5]),
    ],
)
def test_every_axis(tiny_shapes, axis, values, expected):
    grid = grids.plan_grid(BASE, "a star", axis, values, tiny_shapes.spec)
    assert [getattr(request, axis) for request in grid.requests.values()] == expected


@pytest.mark.parametrize(
    ("prompts", "axis", "values", "sentence"),
    [
        ("", "seed", "1", "1 to 12 prompts"),
        (None, "seed", "1", "must be text"),
        ("\n".join(map(str, range(13))), "seed", "1", "1 to 12 prompts"),
        ("a star", "prompt", "1", "Unknown setting"),
        ("a star", ["seed"], "1", "Unknown setting"),
        ("a star", "seed", "", "1 to 16 values"),
        ("a star", "seed", "0..99", "last value of a range"),
        ("a star", "seed", "9..2", "last value of a range"),
        ("a star", "seed", "x", "must be a number, got 'x'"),
        ("a star", "seed", "1.5", "whole number"),
        ("a star", "guidance_scale", "nan", "must be a number"),
        ("a star", "sampler", "nope", "Unknown sampler"),
        ("a dragon", "seed", "1", "outside the shapes world"),
        ("\n".join(map(str, range(12))), "seed", "0..15", "at most 96"),
        ("x" * 40_000, "seed", "1", "must be text"),
    ],
    ids=range(15),
)
def test_a_bad_grid_gets_one_sentence(tiny_shapes, prompts, axis, values, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        grids.plan_grid(BASE, prompts, axis, values, tiny_shapes.spec)


def test_a_grid_is_run_counted_drawn_and_written(tiny_shapes):
    grid = grids.plan_grid(BASE, "a star\ntwo hearts", "seed", "0, 1", tiny_shapes.spec)
    running = grids.run_grid(grid, partial(compare, model=tiny_shapes))
    while next(running) < 2:
        pass
    half = grids.grid_to_image(grid, tiny_shapes.spec)
    assert list(running)[-1] == 4
    full = grids.grid_to_image(grid, tiny_shapes.spec)
    assert full.size == half.size
    assert full.tobytes() != half.tobytes()
    assert sum(grids.count_outcomes(grid).values()) == 4
    rows = list(csv.DictReader(io.StringIO(grids.grid_to_csv(grid))))
    assert [(row["row"], row["column"]) for row in rows] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert all(row["outcome"] in OUTCOMES for row in rows)


def test_closing_a_grid_stops_it_and_keeps_what_is_done(tiny_shapes):
    grid = grids.plan_grid(replace(BASE, num_inference_steps=50), "a star", "seed", "0..3", tiny_shapes.spec)
    running = grids.run_grid(grid, partial(compare, model=tiny_shapes))
    while next(running) < 1:
        pass
    next(running)
    running.close()
    assert tiny_shapes.lock.acquire(timeout=0.5)
    tiny_shapes.lock.release()
    assert set(grid.done) == {(0, 0)}


def test_without_a_checker_there_are_no_winners(tiny_model):
    grid = grids.plan_grid(BASE, "any words at all, " * 30, "strength", "0, 1", tiny_model.spec)
    list(grids.run_grid(grid, partial(compare, model=tiny_model)))
    assert not any(grids.count_outcomes(grid).values())
    assert grids.grid_to_image(grid, tiny_model.spec).width > 400
