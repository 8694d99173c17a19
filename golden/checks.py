"""The validators that page, API, library and command lines share: a value of its exact type, or one clear sentence."""

import operator
from contextlib import suppress
from typing import Any

from .errors import InvalidInput

MAX_SEED = 2**32 - 1
MAX_SIDE = 4096  # pixels


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """A finite number in [low, high] as a float; booleans, text and null are refused."""
    # NaN and the infinities fail the comparison, too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(f"The {name} must be a number from {low:g} to {high:g}, got {shown(value)}.")
    return float(value)


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in [low, high] as an int, of Python, NumPy or torch; 5.0 counts as whole.

    5.5, booleans, text and null are refused.
    """
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError, RuntimeError):  # not an integer, or a tensor of more than one
            value = operator.index(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or value != int(value):
        raise InvalidInput(f"The {name} must be a whole number from {low} to {high}, got {shown(value)}.")
    return int(value)


def check_seed(value: Any) -> int:
    """A seed from 0 to MAX_SEED."""
    return check_whole("seed", value, 0, MAX_SEED)


def check_side(name: str, value: Any) -> int | None:
    """An image's height or width in pixels, or None for the model's native size."""
    return None if value is None else check_whole(name, value, 8, MAX_SIDE)


def check_name(what: str, value: Any, allowed: Any) -> str:
    """One of the `allowed` names. Raises: InvalidInput that lists them."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInput(f"Unknown {what} {shown(value)}: choose one of {', '.join(allowed)}.")
    return value


def shown(value: Any) -> str:
    """A value in an error message: short, in one line, and never an error of its own."""
    try:
        text = " ".join(ascii(value).split())
    except ValueError:  # Python refuses to write out numbers of thousands of digits
        return "a very long number"
    return text if len(text) <= 40 else f"{text[:40]}..."
