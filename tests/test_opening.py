"""The comparison that the page opens with: drawn by date, made once, and nobody else's business if it fails."""

from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from functools import partial

from golden.compare import compare, run_comparison
from golden.errors import GoldenError
from golden.ui.opening import Opening, draw_request

DAY = date(2026, 3, 1)


def test_the_date_decides_and_every_test_prompt_has_its_turn(tiny_shapes):
    prompts = tiny_shapes.checker.list_test_prompts()
    drawn = [draw_request(tiny_shapes, DAY + timedelta(days))[0] for days in range(len(prompts))]
    assert Counter(request.prompt for request in drawn) == Counter(prompts)
    assert {request.seed for request in drawn} == {0}
    assert draw_request(tiny_shapes, DAY) == draw_request(tiny_shapes, DAY)


def test_the_rule_says_which_prompt_it_was(tiny_shapes):
    request, rule = draw_request(tiny_shapes, DAY)
    number = tiny_shapes.checker.list_test_prompts().index(request.prompt) + 1
    assert rule.startswith(f"Drawn by rule, not picked: test prompt {number} of 553 for the date, 1 March 2026, ")


def test_a_model_without_test_prompts_opens_without_a_comparison(tiny_model):
    opening = Opening(tiny_model, lambda request: iter([]))
    assert opening.prepare().get() is None


def test_it_is_made_once_and_is_the_models_own(tiny_shapes):
    calls = []

    def watch(request):
        calls.append(request)
        yield from compare(replace(request, num_inference_steps=2), tiny_shapes)

    opening = Opening(tiny_shapes, watch, DAY)
    made = opening.get()
    assert opening.get() is made
    assert len(calls) == 1
    expected = run_comparison(replace(calls[0], num_inference_steps=2), tiny_shapes)
    for arm, image in expected.images.items():
        assert made.images[arm].tobytes() == image.tobytes()


def test_one_that_fails_is_left_out(tiny_shapes):
    def fail(request):
        raise GoldenError("No.")
        yield

    assert Opening(tiny_shapes, fail, DAY).get() is None
    assert Opening(replace(tiny_shapes, npnet=None), partial(compare, model=tiny_shapes), DAY).request.arms == (
        "standard",
    )
