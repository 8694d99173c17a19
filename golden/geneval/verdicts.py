"""From boxes to a verdict: the logic of GenEval's checker, without any model.

Source: Ghosh et al. 2023, arXiv 2310.11513, section 3.2. Differs from GenEval: an object is used for one group of the
prompt only, a colour must hold of as many objects as were asked for or, if there are fewer, of all, and what is seen
faintly is "unclear" instead of missing. The score is the share of questions that hold, which is Soft-TIFA's arithmetic
mean (arXiv 2512.16853) with hard answers in place of probabilities.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..checkers import FAULTS, Verdict
from .questions import Asked, Placed, Questions

# Of OWLv2's scores, which are those of independent yes-or-no questions: about what its authors show boxes at, and more
# where surplus boxes count. Without its weights at hand they could not be tuned to people's verdicts here.
PRESENT = 0.2
COUNTED = 0.3
UNCLEAR = 0.1
MAX_OVERLAP = 0.5  # intersection over union above which two boxes of a noun are one object
MARGIN = 0.1  # of the two objects' summed sides: how far centres must be apart to lie on one side. Source: GenEval
DOMINANT = 0.5  # share of a displacement that must lie along an axis: up to 60 degrees off it. Source: GenEval


@dataclass(frozen=True)
class Box:
    """A detected object: corners in any unit, y downwards, the detector's score, and what it was seen to be."""

    noun: str
    score: float
    left: float
    top: float
    right: float
    bottom: float
    colour: str | None = None
    attributes: tuple[str, ...] = ()

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def sides(self) -> tuple[float, float]:
        return self.right - self.left, self.bottom - self.top

    def __str__(self) -> str:
        return " ".join(filter(None, (self.colour, *self.attributes, self.noun)))


@dataclass(frozen=True)
class _Answer:
    """What was found of one kind of objects: the objects taken for it, all of its noun, and the questions' outcomes."""

    taken: list[Box]
    outcomes: list[tuple[str, bool]]
    faults: set[str]
    reason: str


def judge_boxes(questions: Questions, boxes: Sequence[Box]) -> Verdict:
    """The verdict on the boxes that a detector found in an image; nouns that were not asked for are ignored."""
    boxes = keep_distinct(boxes)
    answers = [_answer(questions, index, boxes) for index in range(len(questions.objects))]
    outcomes = [outcome for answer in answers for outcome in answer.outcomes]
    faults = {fault for answer in answers for fault in answer.faults}
    reasons = [answer.reason for answer in answers]
    for placed in questions.relations:
        name, holds, reason = _check_relation(questions, placed, answers)
        outcomes.append((name, holds))
        reasons.append(reason)
        if not holds and answers[placed.first].taken and answers[placed.second].taken:
            faults.add("position")
    right = all(ok for _, ok in outcomes)
    return Verdict(right, tuple(reasons), tuple(outcomes), tuple(sorted(faults, key=FAULTS.index)))


def keep_distinct(boxes: Sequence[Box]) -> list[Box]:
    """Boxes without repetitions, the surest first: of two of a noun that overlap too much the surer one is kept."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: -box.score):
        if all(box.noun != other.noun or overlap(box, other) <= MAX_OVERLAP for other in kept):
            kept.append(box)
    return kept


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, from 0 to 1."""
    width = max(0.0, min(a.right, b.right) - max(a.left, b.left))
    height = max(0.0, min(a.bottom, b.bottom) - max(a.top, b.top))
    union = math.prod(a.sides) + math.prod(b.sides) - width * height
    return width * height / union if union > 0 else 0.0


def _answer(questions: Questions, index: int, boxes: Sequence[Box]) -> _Answer:
    """The answers to the questions about one kind of objects."""
    asked = questions.objects[index]
    same = [each for each in questions.objects if each.noun == asked.noun]
    of_noun = [box for box in boxes if box.noun == asked.noun]
    found = [box for box in of_noun if box.score >= (COUNTED if asked.exact else PRESENT)]
    # What is present is there to be described and placed, even if it is too faint to be counted.
    visible = found or [box for box in of_noun if box.score >= PRESENT]
    taken = _share_out(same, visible)[same.index(asked)]
    outcomes, faults = [(f"{asked.noun} object", bool(taken))], set()
    if not taken:
        faults.add("unclear" if any(UNCLEAR <= box.score < PRESENT for box in of_noun) else "missing")
    countable = asked.exact or asked.count > 1 or len(same) > 1
    if countable and questions.objects.index(same[0]) == index:  # of groups of one noun, once
        wanted = sum(each.count for each in same)
        holds = len(found) == wanted if asked.exact else len(found) >= wanted
        outcomes.append((f"{asked.noun} count", holds))
        if taken and not holds:
            faults.add("extra" if wanted == 1 and len(found) > 1 else "count")
    needed = min(asked.count, len(taken))
    if asked.colour:
        holds = bool(taken) and sum(box.colour == asked.colour for box in taken) >= needed
        outcomes.append((f"{asked.noun} colour", holds))
        faults |= {"colour"} if taken and not holds else set()
    for word in asked.attributes:
        holds = bool(taken) and sum(word in box.attributes for box in taken) >= needed
        outcomes.append((f"{asked.noun} {word}", holds))
        faults |= {"attribute"} if taken and not holds else set()
    return _Answer(taken, outcomes, faults, f"asked: {asked}; found: {_describe(visible)}")


def _share_out(groups: Sequence[Asked], boxes: Sequence[Box]) -> list[list[Box]]:
    """By group of one noun the objects taken for it, each for one group at most, so that as much as possible fits."""
    places = [number for number, asked in enumerate(groups) for _ in range(asked.count)]
    worth = np.array([[_worth(groups[number], box) for box in boxes] for number in places])
    taken: list[list[Box]] = [[] for _ in groups]
    if boxes:
        for place, index in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            taken[places[place]].append(boxes[index])
    return taken


def _worth(asked: Asked, box: Box) -> float:
    """More for each thing that fits; among equals the surer box."""
    fits = (asked.colour in (None, box.colour)) + sum(word in box.attributes for word in asked.attributes)
    return 2 * fits + box.score


def _check_relation(questions: Questions, placed: Placed, answers: Sequence[_Answer]) -> tuple[str, bool, str]:
    """(name, whether it holds, reason): every object of the one kind must lie so to every object of the other."""
    ones, others = answers[placed.first].taken, answers[placed.second].taken
    seen = [relations_between(one, other) for one in ones for other in others]
    holds = bool(seen) and all(placed.relation in each for each in seen)
    first, second = (questions.objects[index].noun for index in (placed.first, placed.second))
    found = " or ".join(dict.fromkeys(name for each in seen for name in each)) or "neither side" if seen else "nothing"
    return placed.relation, holds, f"asked: {first} {placed.relation} {second}; found: {found}"


def relations_between(one: Box, other: Box) -> tuple[str, ...]:
    """How `one` lies to `other`: a name of RELATIONS, two on a diagonal, none if the centres are too close."""
    return tuple(_relations_of_offset(one, other))


def _relations_of_offset(one: Box, other: Box) -> Iterator[str]:
    offset = [a - b for a, b in zip(one.centre, other.centre, strict=True)]
    distance = math.hypot(*offset)
    if not distance:
        return
    for axis, (before, after) in enumerate((("left of", "right of"), ("above", "below"))):
        beyond = abs(offset[axis]) - MARGIN * (one.sides[axis] + other.sides[axis])
        if beyond / distance > DOMINANT:
            yield before if offset[axis] < 0 else after


def _describe(boxes: Sequence[Box]) -> str:
    names = [str(box) for box in boxes]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "nothing"
