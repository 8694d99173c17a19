"""Which sizes a model can draw, and at which its checker applies."""

from dataclasses import replace

import pytest

from golden.errors import InvalidInput
from golden.models import MODELS
from golden.sizes import check_size, describe_sizes, say_unchecked

LIMITED = (0.75, 1.25)


def test_the_embedded_model_draws_sizes_near_its_own():
    assert MODELS["shapes"].size_limits == LIMITED


@pytest.mark.parametrize("size", [(48, 48), (64, 64), (80, 80), (48, 80)])
def test_sizes_within_the_limits_are_taken(tiny_shapes, size):
    check_size(*size, replace(tiny_shapes.spec, size_limits=LIMITED), tiny_shapes.pipeline)


@pytest.mark.parametrize(("size", "name", "got"), [((40, 64), "height", 40), ((64, 88), "width", 88)])
def test_other_sizes_are_refused_with_the_reason(tiny_shapes, size, name, got):
    words = rf"^The {name} must be from 48 to 80 pixels, got {got}: at other sizes .* draws more or fewer objects"
    with pytest.raises(InvalidInput, match=words):
        check_size(*size, replace(tiny_shapes.spec, size_limits=LIMITED), tiny_shapes.pipeline)


def test_other_models_take_up_to_twice_their_size(tiny_shapes):
    check_size(8, 128, tiny_shapes.spec, tiny_shapes.pipeline)
    with pytest.raises(InvalidInput, match="at most 128 pixels, twice the native size, got 136"):
        check_size(64, 136, tiny_shapes.spec, tiny_shapes.pipeline)


def test_the_page_says_which_sizes_there_are(tiny_shapes):
    assert "at most twice the native size" in describe_sizes(tiny_shapes.spec, tiny_shapes.pipeline)
    limited = describe_sizes(replace(tiny_shapes.spec, size_limits=LIMITED), tiny_shapes.pipeline)
    assert "from 48 to 80" in limited
    assert "Images of another size are not checked." in limited


def test_nothing_is_checked_at_another_size_and_the_page_says_so(tiny_shapes, tiny_model):
    spec, pipeline = tiny_shapes.spec, tiny_shapes.pipeline
    assert say_unchecked(None, None, spec, pipeline) == say_unchecked(64, None, spec, pipeline) == ""
    sentence = say_unchecked(96, None, spec, pipeline)
    assert sentence.startswith(
        "At 64 x 96 nothing is checked: the checker and the embedded judges are made for 64 x 64"
    )
    assert say_unchecked(96, None, tiny_model.spec, pipeline) == ""
