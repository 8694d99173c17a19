"""Hand-made boxes and what they are to be called: prompts, boxes and faults, written out or laid out in tables.

A box is "NOUN@X,Y" with its centre in percent of the image, and optionally ":WIDTHxHEIGHT" (default 10x10), "*SCORE"
(default 0.9) and "=WORD+WORD" for what it was seen to be.
"""

import re

from golden.geneval import Box
from golden.geneval.questions import COLOURS

_BOX = re.compile(r"([a-z_]+)@(\d+),(\d+)(?::(\d+)x(\d+))?(?:\*([\d.]+))?(?:=([a-z+]+))?")


def parse_boxes(text: str) -> list[Box]:
    boxes = []
    for each in text.split():
        noun, x, y, width, height, score, words = _BOX.fullmatch(each).groups()
        half_width, half_height = int(width or 10) / 2, int(height or 10) / 2
        words = words.split("+") if words else []
        colour = next((word for word in words if word in COLOURS), None)
        others = tuple(word for word in words if word != colour)
        corners = (int(x) - half_width, int(y) - half_height, int(x) + half_width, int(y) + half_height)
        boxes.append(Box(noun.replace("_", " "), float(score or 0.9), *corners, colour, others))
    return boxes


def row(noun: str, count: int, words: str = "") -> str:
    """`count` objects of a noun beside each other, far enough apart."""
    return " ".join(f"{noun}@{10 + 15 * index},20{f'={words}' if words else ''}" for index in range(count))


Case = tuple[str, str, str]
"""(prompt, boxes, the faults in order, "" if the image is right)."""

PRESENCE: list[Case] = [
    ("a photo of a dog", "dog@50,50", ""),
    ("a photo of a dog", "", "missing"),
    ("a photo of a dog", "cat@50,50", "missing"),
    ("a photo of a dog", "cat@50,50 dog@20,20", ""),
    ("a photo of a dog", "dog@20,20 dog@70,70 dog@40,40", ""),  # an article asks for one at least
    ("a photo of a dog", "dog@50,50*0.2", ""),
    ("a photo of a dog", "dog@50,50*0.19", "unclear"),
    ("a photo of a dog", "dog@50,50*0.1", "unclear"),
    ("a photo of a dog", "dog@50,50*0.09", "missing"),
    ("a photo of a dog", "cat@50,50*0.15", "missing"),
    ("a photo of a teddy bear", "bear@50,50", "missing"),
    ("a photo of a teddy bear", "teddy_bear@50,50", ""),
    ("a photo of an orange", "orange@50,50", ""),
    ("a photo of an orange", "orange@50,50=green", ""),
    ("a photo of a dog and a cat", "dog@20,50 cat@70,50", ""),
    ("a photo of a dog and a cat", "cat@20,50 dog@70,50", ""),
    ("a photo of a dog and a cat", "dog@20,50", "missing"),
    ("a photo of a dog and a cat", "cat@20,50", "missing"),
    ("a photo of a dog and a cat", "", "missing"),
    ("a photo of a dog and a cat", "dog@20,50 dog@60,50", "missing"),
    ("a photo of a dog and a cat", "dog@50,50 cat@50,50", ""),  # two nouns may share a place
    ("a photo of a dog and a cat", "dog@20,50 cat@70,50*0.15", "unclear"),
    ("a photo of a dog and a cat", "cat@70,50*0.15", "unclear missing"),
    ("a dog, a cat and a cow", "dog@20,20 cat@50,20 cow@80,20", ""),
    ("a dog, a cat and a cow", "dog@20,20 cat@50,20", "missing"),
    ("a dog, a cat, and a cow", "dog@20,20 cat@50,20 cow@80,20", ""),
    ("a dog, a cat and a cow", "cow@20,20*0.15 cat@50,20", "unclear missing"),
    ("a picture of a dog.", "dog@20,20", ""),
    ("A Photo of A DOG", "dog@20,20", ""),
    ("a photo of a hot dog", "dog@20,20", "missing"),
    ("a photo of a hot dog", "hot_dog@20,20", ""),
    ("a photo of a wine glass", "wine_glass@20,20", ""),
]

NUMBERS = ("one", "two", "three", "four", "five")


def _count_fault(asked: int, found: int) -> str:
    if found == asked:
        return ""
    if found == 0:
        return "missing"
    return "extra" if asked == 1 else "count"


COUNTS: list[Case] = [
    (f"a photo of {number} {'dog' if asked == 1 else 'dogs'}", row("dog", found), _count_fault(asked, found))
    for asked, number in enumerate(NUMBERS, start=1)
    for found in range(6)
] + [
    ("a photo of two benchs", row("bench", 2), ""),  # GenEval's own plurals
    ("a photo of two benches", row("bench", 2), ""),
    ("a photo of two knifes", row("knife", 2), ""),
    ("a photo of two knives", row("knife", 2), ""),
    ("a photo of three sheeps", row("sheep", 3), ""),
    ("a photo of three sheep", row("sheep", 3), ""),
    ("a photo of four buses", row("bus", 4), ""),
    ("a photo of two wine glasses", row("wine_glass", 2), ""),
    ("a photo of three persons", row("person", 3), ""),
    ("a photo of three people", row("person", 3), ""),
    ("a photo of two dogs", "dog@20,20 dog@21,21", "count"),  # the same object, found twice
    ("a photo of two dogs", "dog@20,20 dog@20,20*0.5 dog@60,60", ""),
    ("a photo of two dogs", "dog@20,20 dog@26,20", ""),  # overlapping by a quarter
    ("a photo of two dogs", "dog@20,20 dog@60,60*0.29", "count"),  # too faint to count
    ("a photo of two dogs", "dog@20,20 dog@60,60*0.3", ""),
    ("a photo of two dogs", "dog@20,20 dog@60,60 dog@80,80*0.25", ""),  # too faint to be one too many
    ("a photo of two dogs", "dog@20,20 dog@60,60 cat@80,80", ""),
    ("a photo of two dogs", "dog@20,20*0.25 dog@60,60*0.25", "count"),  # there, but none to be counted
    ("a photo of two dogs", "dog@20,20*0.15 dog@60,60*0.15", "unclear"),
    ("two dogs and three cats", f"{row('dog', 2)} cat@20,60 cat@50,60 cat@80,60", ""),
    ("two dogs and three cats", f"{row('dog', 2)} cat@20,60 cat@50,60", "count"),
    ("two dogs and three cats", f"{row('dog', 3)} cat@20,60 cat@50,60", "count"),
    ("two dogs and three cats", f"{row('dog', 2)}", "missing"),
    ("one dog and two cats", f"{row('dog', 2)} cat@20,60 cat@50,60", "extra"),
    ("one dog and two cats", f"{row('dog', 2)} cat@20,60", "extra count"),
    ("one dog and a cat", "dog@20,20 cat@20,60 cat@50,60", ""),
]

COLOUR_NAMES: list[Case] = [
    (f"a photo of a {asked} car", f"car@50,50={seen}", "" if asked == seen else "colour")
    for number, asked in enumerate(COLOURS)
    for seen in (asked, COLOURS[(number + 1) % len(COLOURS)], COLOURS[(number + 5) % len(COLOURS)])
] + [
    ("a photo of a red car", "", "missing"),
    ("a photo of a red car", "car@50,50*0.15=red", "unclear"),
    ("a photo of a red car", "car@50,50", "colour"),  # a box that nobody named a colour of
    ("a photo of a red car", "car@20,20=blue car@70,70=red", ""),  # one of them is
    ("a photo of a red car", "car@20,20=blue car@70,70*0.25=red", ""),
    ("a photo of an orange orange", "orange@20,20=orange", ""),
    ("a photo of an orange orange", "orange@20,20=green", "colour"),
    ("a photo of two red cars", row("car", 2, "red"), ""),
    ("a photo of two red cars", "car@20,20=red car@60,20=blue", "colour"),
    ("a photo of two red cars", "car@20,20=red", "count"),  # the one there is red
    ("a photo of two red cars", "car@20,20=blue", "count colour"),
    ("a photo of two red cars", row("car", 3, "red"), "count"),
    ("a photo of two red cars", "car@20,20=red car@60,20=red car@80,20=blue", "count"),
    ("a red car and a blue dog", "car@20,20=red dog@60,60=blue", ""),
    ("a red car and a blue dog", "car@20,20=blue dog@60,60=red", "colour"),  # bound to the wrong object
    ("a red car and a blue dog", "car@20,20=red dog@60,60=red", "colour"),
    ("a red car and a blue dog", "car@20,20=red", "missing"),
    ("a red car and a blue dog", "car@20,20=green", "missing colour"),
    ("a red car and a dog", "car@20,20=red dog@60,60=red", ""),
    ("a red car and a blue car", "car@20,20=red car@60,60=blue", ""),
    ("a red car and a blue car", "car@20,20=blue car@60,60=red", ""),
    ("a red car and a blue car", "car@20,20=red car@60,60=red", "colour"),
    ("a red car and a blue car", "car@20,20=red", "missing count"),
    ("a red car and two blue cars", "car@20,20=blue car@50,20=red car@80,20=blue", ""),
    ("a red car and two blue cars", "car@20,20=blue car@50,20=red car@80,20=red", "colour"),
]

ATTRIBUTES: list[Case] = [
    ("a plastic cow", "cow@50,50=plastic", ""),
    ("a plastic cow", "cow@50,50=metal", "attribute"),
    ("a plastic cow", "cow@50,50", "attribute"),
    ("a plastic cow", "", "missing"),
    ("a striped cat", "cat@50,50=striped", ""),
    ("a striped cat", "cat@50,50=spotted", "attribute"),
    ("a red metal chair", "chair@50,50=red+metal", ""),
    ("a red metal chair", "chair@50,50=blue+metal", "colour"),
    ("a red metal chair", "chair@50,50=red+wooden", "attribute"),
    ("a red metal chair", "chair@50,50=blue+wooden", "colour attribute"),
    ("three wooden spoons", row("spoon", 3, "wooden"), ""),
    ("three wooden spoons", row("spoon", 2, "wooden"), "count"),
    ("three wooden spoons", row("spoon", 3, "metal"), "attribute"),
    ("three wooden spoons", "spoon@10,20=wooden spoon@40,20=wooden spoon@70,20=metal", "attribute"),
    ("a wooden spoon and a metal spoon", "spoon@10,20=metal spoon@40,20=wooden", ""),
    ("a wooden spoon and a metal spoon", "spoon@10,20=metal spoon@40,20=metal", "attribute"),
    ("a glass bowl left of a stone bench", "bowl@20,50=glass bench@80,50=stone", ""),
    ("a glass bowl left of a stone bench", "bowl@80,50=glass bench@20,50=stone", "position"),
    ("a glass bowl left of a stone bench", "bowl@80,50=metal bench@20,50=stone", "attribute position"),
]

# Where the dog is, seen from a cat in the middle, and which relations hold: a little off the axis changes nothing, on a
# diagonal two relations hold at once.
PLACES = {
    (20, 50): ("left of",),
    (20, 40): ("left of",),
    (20, 60): ("left of",),
    (80, 50): ("right of",),
    (80, 60): ("right of",),
    (50, 20): ("above",),
    (60, 20): ("above",),
    (40, 20): ("above",),
    (50, 80): ("below",),
    (40, 80): ("below",),
    (20, 20): ("left of", "above"),
    (80, 20): ("right of", "above"),
    (20, 80): ("left of", "below"),
    (80, 80): ("right of", "below"),
    (50, 50): (),
    (51, 51): (),
}
RELATIONS = ("left of", "right of", "above", "below")

POSITIONS: list[Case] = [
    (f"a photo of a dog {relation} a cat", f"dog@{x},{y} cat@50,50", "" if relation in holding else "position")
    for (x, y), holding in PLACES.items()
    for relation in RELATIONS
] + [
    ("a photo of a dog to the left of a cat", "dog@20,50 cat@80,50", ""),
    ("a photo of a dog on the right of a cat", "dog@20,50 cat@80,50", "position"),
    ("a photo of a dog on top of a bench", "dog@50,30 bench@50,50:40x20", ""),
    ("a photo of a dog under a bench", "dog@50,30 bench@50,50:40x20", "position"),
    ("a photo of a dog beneath a bench", "dog@50,80 bench@50,50:40x20", ""),
    ("a photo of a dog left of a cat", "dog@20,50", "missing"),  # nothing is misplaced
    ("a photo of a dog left of a cat", "cat@20,50", "missing"),
    ("a photo of a dog left of a cat", "", "missing"),
    ("a photo of a dog left of a cat", "dog@20,50 cat@80,50*0.15", "unclear"),
    ("a photo of a dog left of a cat", "dog@20,50 cat@80,50*0.25", ""),
    ("a photo of a dog left of a cat", "dog@20,50:60x20 cat@28,50:60x20", "position"),  # large, and hardly apart
    ("a photo of a dog left of a cat", "dog@20,50:60x20 cat@60,50:60x20", ""),
    ("a photo of a dog left of a cat", "dog@20,50 dog@90,50*0.5 cat@50,50", ""),  # the surest counts
    ("a photo of a dog left of a cat", "dog@20,50*0.5 dog@90,50 cat@50,50", "position"),
    ("two dogs left of a cat", "dog@20,20 dog@20,60 cat@80,40", ""),
    ("two dogs left of a cat", "dog@20,40 dog@90,40 cat@60,40", "position"),  # one of the two is not
    ("two dogs left of a cat", "dog@20,40 cat@60,40", "count"),
    ("a dog left of two cats", "dog@10,40 cat@50,20 cat@60,60", ""),
    ("a dog left of two cats", "dog@50,40 cat@20,40 cat@80,40", "position"),
    ("a red dog left of a blue dog", "dog@20,40=red dog@80,40=blue", ""),
    ("a red dog left of a blue dog", "dog@20,40=blue dog@80,40=red", "position"),
    ("a dog left of a cat above a cow", "dog@10,20 cat@50,20 cow@50,80", ""),  # each relation joins its neighbours
    ("a dog left of a cat above a cow", "dog@10,20 cat@50,80 cow@50,20", "position"),
    ("a red dog left of a cat", "dog@80,40=blue cat@20,40", "colour position"),
]

CASES = {
    "presence": PRESENCE,
    "counts": COUNTS,
    "colours": COLOUR_NAMES,
    "attributes": ATTRIBUTES,
    "positions": POSITIONS,
}
