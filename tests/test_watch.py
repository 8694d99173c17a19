"""Comparisons as the page follows them: what people who wait are told."""

import pytest

from golden.compare import Progress
from golden.ui.pieces import show_progress
from golden.ui.watch import Expected, Pace


def test_a_run_tells_how_long_its_other_steps_take():
    pace = Pace()
    with pace.enter() as number:
        assert pace.expect(number, Progress(1, 20), 0.0).seconds_left is None
        event = pace.expect(number, Progress(5, 20), 2.0)  # four steps took two seconds
    assert (event.step, event.num_steps, event.seconds_left) == (5, 20, 7.5)
    assert "Step 5 of 20, about 8 s left" in show_progress(event)
    assert "Step 5 of 20<" in show_progress(Progress(5, 20))


def test_who_waits_is_told_how_many_are_ahead_and_how_long_they_take():
    pace = Pace()
    for seconds in (3.0, 100.0, 4.0):
        pace.record(seconds)
    assert pace.usual == 4.0
    with pace.enter(), pace.enter(), pace.enter() as third, pace.enter():
        event = pace.expect(third, Progress(0, 20), 0.0)
    assert (event.num_ahead, event.seconds_left) == (2, 8.0)
    assert "Waiting for 2 runs to finish, about 8 s" in show_progress(event)
    assert "Waiting for another run to finish …" in show_progress(Progress(0, 20))


def test_a_run_that_ended_is_ahead_of_nobody():
    pace = Pace()
    with pytest.raises(RuntimeError), pace.enter():
        raise RuntimeError
    with pace.enter() as number:
        assert pace.expect(number, Progress(0, 20), 0.0).num_ahead == 0


def test_long_times_are_in_minutes():
    assert "about 5 min left" in show_progress(Expected(1, 20, (), 290.0))
