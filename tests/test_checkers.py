"""Checkers: one contract for whatever can decide by rule whether an image shows its prompt."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from golden.checkers import CHECKERS, FAULTS, Checker, Verdict, find_checker
from golden.errors import InvalidInput
from golden.models import MODELS
from golden.shapes import is_held_out, parse_caption


@pytest.mark.parametrize("name", CHECKERS)
def test_contract(name, monkeypatch):
    checker = find_checker(name)
    if name == "geneval":  # its detector would have to be downloaded, and finds nothing in a blank image
        nobody = SimpleNamespace(find=lambda image, nouns: [], name=lambda image, boxes, noun, words: [])
        for part in ("detector", "classifier"):
            monkeypatch.setitem(vars(checker), part, nobody)
    assert isinstance(checker, Checker)
    assert checker.name == name
    assert find_checker(name) is checker
    assert len(set(checker.unrelated)) == 2
    assert len(checker.examples) >= 3
    blank = Image.new("RGB", (64, 64), "white")
    sampled = islice(checker.sample_prompts(np.random.default_rng(0)), 20)
    for prompt in (*checker.examples, *checker.unrelated, *sampled):
        checker.validate_prompt(prompt)
        verdict = checker.check(prompt, blank)
        assert not verdict.correct
        assert verdict.reasons
        assert verdict.fault in FAULTS
        assert 0 <= verdict.score < 1
    for refused in (checker.validate_prompt, lambda prompt: checker.check(prompt, blank)):
        with pytest.raises(InvalidInput):
            refused("\0")


@pytest.mark.parametrize("held_out", [True, False])
def test_sampled_prompts_are_of_the_part_that_is_asked_for(held_out):
    prompts = list(islice(find_checker("shapes").sample_prompts(np.random.default_rng(1), held_out), 50))
    assert {is_held_out(parse_caption(prompt)) for prompt in prompts} == {held_out}
    assert prompts == list(islice(find_checker("shapes").sample_prompts(np.random.default_rng(1), held_out), 50))


def test_a_model_names_a_checker_or_none():
    assert find_checker(None) is None
    assert all(spec.checker is None or spec.checker in CHECKERS for spec in MODELS.values())
    with pytest.raises(InvalidInput, match="Unknown checker 'shape': choose one of shapes"):
        find_checker("shape")


def test_a_verdict_in_words_and_figures():
    right = Verdict(True, ("asked: 1 star; found: 1 star",), (("count", True), ("star shape", True)))
    assert (str(right), right.score, right.fault) == ("right: asked: 1 star; found: 1 star", 1.0, None)
    wrong = Verdict(False, ("a", "b"), (("count", False), ("star shape", True)), ("missing", "background"))
    assert (str(wrong), wrong.score, wrong.fault) == ("wrong: a; b", 0.5, "missing")
