"""The checker of full models, as golden/checkers.py describes one: `--checker geneval` or `--checker geneval:FILE`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..checkers import Verdict
from ..errors import InvalidInput
from .questions import COLOURS, KINDS_OF_ATTRIBUTE, Asked, Questions, parse_prompt, read_questions, sample_questions
from .verdicts import Box, judge_boxes, keep_distinct


class GenEvalChecker:
    """Answers GenEval's questions by a detector, which is loaded when the first image is checked.

    Without a file, prompts are read by the grammar in questions.py. With one, of GenEval or GenEval 2, only its prompts
    are known, and their questions are the file's.
    """

    name = "geneval"
    examples = (
        "a photo of a bench",
        "a photo of three buses",
        "a photo of a blue pizza and a yellow baseball glove",
        "a photo of a laptop below a sports ball",
    )
    unrelated = ("a photo of four zebras", "a photo of a green umbrella")
    composer = None

    def __init__(self, file: str | None = None) -> None:
        self.known = read_questions(Path(file)) if file else None

    @cached_property
    def detector(self):
        from .detector import Detector

        return Detector(device=_pick_device())

    @cached_property
    def classifier(self):
        from .detector import Classifier

        return Classifier(device=_pick_device())

    def questions(self, prompt: str) -> Questions:
        """What a prompt asks. Raises: InvalidInput if a detector cannot answer it, or the file does not have it."""
        if self.known is None:
            return parse_prompt(prompt)
        found = self.known.get(" ".join(prompt.split()))
        if found is None:
            raise InvalidInput(f"The file of questions has no prompt {prompt[:60]!r}.")
        if isinstance(found, str):
            raise InvalidInput(found)
        return found

    def validate_prompt(self, prompt: str) -> None:
        self.questions(prompt)

    def check(self, prompt: str, image: Image.Image) -> Verdict:
        questions = self.questions(prompt)
        boxes = keep_distinct(self.detector.find(image, questions.nouns))
        return judge_boxes(questions, self._describe(questions, image, boxes))

    def _describe(self, questions: Questions, image: Image.Image, boxes: Sequence[Box]) -> list[Box]:
        """The boxes with colours and attributes, where their noun was asked for with one."""
        described = list(boxes)
        for noun in questions.nouns:
            chosen = [index for index, box in enumerate(described) if box.noun == noun]
            asked = [each for each in questions.objects if each.noun == noun]
            for words in _alternatives(asked):
                named = self.classifier.name(image, [described[index] for index in chosen], noun, words)
                for index, word in zip(chosen, named, strict=True):
                    described[index] = _with_word(described[index], word)
        return described

    def sample_prompts(self, rng: np.random.Generator, held_out: bool = False) -> Iterator[str]:
        """GenEval's categories and objects; none is held out from training, so that `held_out` changes nothing."""
        if self.known is None:
            yield from sample_questions(rng)
        prompts = [prompt for prompt, found in (self.known or {}).items() if isinstance(found, Questions)]
        while prompts:
            yield str(rng.choice(prompts))

    def list_test_prompts(self) -> tuple[str, ...]:
        """Those of the file that can be checked; without one the examples, since GenEval's own are not embedded."""
        found = self.known or {}
        return tuple(prompt for prompt, asked in found.items() if isinstance(asked, Questions)) or self.examples

    def sample_examples(self, rng: np.random.Generator) -> Iterator[tuple[str, Image.Image, bool]]:
        """None: nothing draws photographs whose content is known."""
        yield from ()


def _alternatives(asked: Sequence[Asked]) -> Iterator[tuple[str, ...]]:
    """For each kind of word in the questions about a noun, the words that an object may be described with instead."""
    if any(each.colour for each in asked):
        yield COLOURS
    words = dict.fromkeys(word for each in asked for word in each.attributes)
    yield from dict.fromkeys(next((kind for kind in KINDS_OF_ATTRIBUTE if word in kind), (word, "")) for word in words)


def _with_word(box: Box, word: str) -> Box:
    if word in COLOURS:
        return replace(box, colour=word)
    return replace(box, attributes=(*box.attributes, word)) if word else box


def _pick_device() -> str:
    from ..model import pick_device  # model.py imports checkers.py

    return pick_device("auto")
