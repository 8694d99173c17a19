"""Prompts put together from choices: whatever is composed can be read, and taken apart again."""

from itertools import product

import numpy as np
import pytest

from golden.checkers import Composer
from golden.errors import InvalidInput
from golden.shapes import GENEVAL_CATEGORIES, parse_caption, sample_caption
from golden.shapes.composer import ShapesComposer

COMPOSER = ShapesComposer()


def test_it_is_a_composer():
    assert isinstance(COMPOSER, Composer)
    assert set(COMPOSER.needs) | set(COMPOSER.needs.values()) <= set(COMPOSER.slots)


@pytest.mark.parametrize(
    ("choices", "prompt"),
    [
        ({}, "a circle"),
        ({"count": "three", "colour": "yellow", "shape": "star"}, "three yellow stars"),
        ({"colour": "orange", "shape": "heart", "background": "grey"}, "an orange heart on a grey background"),
        (
            {"colour": "red", "relation": "left of", "other colour": "blue", "other shape": "square"},
            "a red circle left of a blue square",
        ),
        ({"count": "two", "relation": "and", "other shape": "star"}, "two circles and one star"),
    ],
)
def test_choices_become_a_prompt(choices, prompt):
    assert COMPOSER.compose(choices) == prompt


def test_every_choice_alone_can_be_read():
    for name, choices in COMPOSER.slots.items():
        for choice in choices:
            chosen = {"shape": "heart", "colour": "red"}
            if name.startswith("other"):
                chosen |= {"relation": "and", "other shape": "star", "other colour": "blue"}
            assert parse_caption(COMPOSER.compose(chosen | {name: choice}))


def test_what_was_composed_is_taken_apart_again():
    slots = COMPOSER.slots
    for relation, count, colour in product(slots["relation"], slots["count"], slots["colour"]):
        if relation != slots["relation"][0] and count == "four":
            continue  # there is no room for a fifth
        choices = {"relation": relation, "count": count, "colour": colour, "other shape": "star", "background": "black"}
        prompt = COMPOSER.compose(choices)
        assert COMPOSER.compose(COMPOSER.take_apart(prompt)) == prompt


def test_what_the_embedded_model_is_asked_for_can_be_chosen():
    rng = np.random.default_rng(5)
    for category in GENEVAL_CATEGORIES:
        for _ in range(20):
            caption = sample_caption(rng, category)
            assert parse_caption(COMPOSER.compose(COMPOSER.take_apart(caption))) == parse_caption(caption)


@pytest.mark.parametrize("prompt", ["", "a dragon", "a star, a heart and a cross", "three star"])
def test_what_cannot_be_chosen_is_left_to_the_text(prompt):
    assert COMPOSER.take_apart(prompt) is None


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"shape": "dragon"}, "The shape must be one of circle, "),
        ({"relation": "and"}, "cannot be told apart"),
        ({"count": "four", "relation": "and", "other shape": "star"}, "room for three of a kind"),
    ],
)
def test_what_makes_no_prompt_is_said_in_a_sentence(choices, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        COMPOSER.compose(choices)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("three yelow stars on", {"yelow": "yellow"}),
        ("a strs", {"strs": "stars"}),
        ("a yel", {}),  # still being typed
        ("a yel ", {"yel": "yellow"}),
        ("a red circle left of a blue square.", {}),
        ("", {}),
    ],
)
def test_unknown_words_come_with_the_nearest(prompt, words):
    found = COMPOSER.find_unknown(prompt)
    assert [word for word, _ in found] == list(words)
    assert all(words[word] in nearest for word, nearest in found)
