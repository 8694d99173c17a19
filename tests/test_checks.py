"""The validators: a value of its exact type, or one clear sentence."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golden.checks import MAX_SEED, MAX_SIDE, check_name, check_number, check_seed, check_side, check_whole, shown
from golden.errors import InvalidInput

INTEGERS = [7, 7.0, np.int64(7), np.uint8(7), np.array(7), torch.tensor(7), torch.tensor([7])]
ODD = [None, True, "7", "", b"7", [7], {}, 7j, math.nan, math.inf, np.ones(2), torch.ones(2), object(), 10**5000]


@pytest.mark.parametrize("value", INTEGERS, ids=lambda value: type(value).__name__)
def test_integers_of_every_kind_are_whole(value):
    for checked in (check_whole("number", value, 0, 10), check_seed(value)):
        assert checked == 7
        assert type(checked) is int


@pytest.mark.parametrize("seed", [0, MAX_SEED, np.uint32(MAX_SEED), torch.tensor(MAX_SEED)], ids=str)
def test_seeds_at_the_limits(seed):
    assert check_seed(seed) == int(seed)


@pytest.mark.parametrize(
    "value", [*ODD, -1, 5.5, MAX_SEED + 1, np.int64(-1), torch.tensor(-1), np.float64(0.5)], ids=range(20)
)
def test_what_is_no_seed(value):
    with pytest.raises(InvalidInput, match=f"The seed must be a whole number from 0 to {MAX_SEED}, got ") as caught:
        check_seed(value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_what_is_no_number(value):
    with pytest.raises(InvalidInput, match=r"The strength must be a number from 0 to 3, got ") as caught:
        check_number("strength", value, 0, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 3, 0.5, np.float64(2.5)])
def test_numbers_become_floats(value):
    number = check_number("strength", value, 0, 3)
    assert number == value
    assert type(number) is float


def test_sides():
    assert check_side("height", None) is None
    assert check_side("height", 64.0) == 64
    for value in (0, 7, MAX_SIDE + 1, 64.5, "64", True):
        with pytest.raises(InvalidInput, match="The height must be a whole number from 8 to 4096"):
            check_side("height", value)


@pytest.mark.parametrize("value", ["", "DDIM", None, 3, ["ddim"], {}, "x" * 10**6])
def test_an_unknown_name_lists_the_allowed_ones(value):
    assert check_name("sampler", "ddim", {"ddim": 1, "dpm": 2}) == "ddim"
    with pytest.raises(InvalidInput, match=r"Unknown sampler .*: choose one of ddim, dpm\.") as caught:
        check_name("sampler", value, {"ddim": 1, "dpm": 2})
    assert len(str(caught.value)) < 120


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text() | st.integers() | st.floats() | st.binary() | st.lists(st.text()))
def test_any_value_is_shown_in_one_short_line(value):
    text = shown(value)
    assert len(text) <= 43
    assert text.isascii()
    assert "\n" not in text


def test_a_very_long_number_is_not_written_out():
    assert shown(10**5000) == "a very long number"
