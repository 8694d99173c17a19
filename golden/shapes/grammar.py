"""The captions of the shapes world: read, written, sampled, and held out for testing by what they ask for.

    caption    := [opening] objects [","] ["on a" background "background"] ["."]
    opening    := "a picture of" | "a drawing of" | "an image of"
    objects    := group | group "and" group | group "," group ["," ] "and" group
                | group relation group ["and" relation group]
    group      := ["a" | "an" | "one" | "two" | "three" | "four"] [colour] shape
    relation   := "left of" | "right of" | "above" | "below"

Six categories are GenEval's (Ghosh et al. 2023, arXiv 2310.11513); four harder ones combine them. In "A left of B and
above C" both relations are A's.
"""

import difflib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InvalidInput

COLOURS = {
    "red": (216, 44, 48),
    "orange": (245, 135, 28),
    "yellow": (250, 212, 40),
    "green": (46, 160, 72),
    "blue": (42, 96, 214),
    "purple": (142, 62, 186),
}
BACKGROUNDS = {
    "white": (250, 250, 248),
    "grey": (158, 162, 168),
    "black": (26, 27, 32),
    "beige": (232, 217, 192),
}
OPENINGS = ("a picture of", "a drawing of", "an image of")
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
    "heart": "hearts",
}
SHAPES = tuple(PLURALS)
SINGULARS = {plural: shape for shape, plural in PLURALS.items()}
# Where the second object lies as seen from the first, in image coordinates (x to the right, y down).
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

GENEVAL_CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
HARD_CATEGORIES = ("three_object", "two_relation", "two_counting", "group_position")
CATEGORIES = GENEVAL_CATEGORIES + HARD_CATEGORIES

GRAMMAR_WORDS = (
    "a",
    "an",
    "and",
    "of",
    "left",
    "right",
    "above",
    "below",
    "picture",
    "drawing",
    "image",
    "on",
    "background",
)
VOCABULARY = (*GRAMMAR_WORDS, *NUMBERS, *COLOURS, *BACKGROUNDS, *PLURALS, *SINGULARS)
"""Every word that a caption may use."""

MAX_CAPTION_CHARS = 200
MAX_OBJECTS = 5
"""The most objects that one image has room for."""


@dataclass(frozen=True)
class Group:
    """`count` objects of one shape; `colour` None means that any colour will do."""

    shape: str
    colour: str | None = None
    count: int = 1

    def __str__(self) -> str:
        noun = self.shape if self.count == 1 else PLURALS[self.shape]
        return " ".join(filter(None, (str(self.count), self.colour, noun)))


@dataclass(frozen=True)
class Request:
    """What a caption asks for: one to three groups of objects, and where the first lies as seen from the others.

    `relations[i]` is the relation of `groups[0]` to `groups[i + 1]`; there are none, or one for each other group.
    """

    groups: tuple[Group, ...]
    relations: tuple[str, ...] = ()
    background: str | None = None
    counted: bool = False  # "one star" is about counting, "a star" is not

    @property
    def num_objects(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def category(self) -> str:
        """One of CATEGORIES."""
        several = any(group.count > 1 for group in self.groups)
        if self.relations:
            return "two_relation" if len(self.relations) == 2 else "group_position" if several else "position"
        if len(self.groups) == 3:
            return "three_object"
        if len(self.groups) == 2:
            if several:
                return "two_counting"
            return "color_attr" if any(group.colour for group in self.groups) else "two_object"
        if self.counted:
            return "counting"
        return "colors" if self.groups[0].colour else "single_object"


# --- reading ----------------------------------------------------------------------------------------------------------


def parse_caption(caption: str) -> Request:
    """Read a caption of the grammar above; case, articles, commas and a final full stop do not matter.

    Raises: InvalidInput naming the word that is not in the grammar and the nearest ones, or what was expected.
    """
    if not isinstance(caption, str) or not caption.strip():
        raise InvalidInput('The prompt is empty: write something like "a red circle left of a blue square".')
    if len(caption) > MAX_CAPTION_CHARS:
        raise InvalidInput(f"The prompt has {len(caption)} characters: at most {MAX_CAPTION_CHARS} are allowed.")
    words = re.findall(r"[^\s,]+|,", caption.lower().strip().rstrip(". "))
    for word in words:
        if word != "," and word not in VOCABULARY:
            raise InvalidInput(f"The word {word!r} is outside the shapes world. {_suggest(word)}")
    reader = _Words(words)
    for opening in OPENINGS:
        if reader.take(*opening.split()):
            break
    first, counted = _read_group(reader)
    groups, relations = [first], []
    if relation := reader.take_relation():
        while relation:
            group, also_counted = _read_group(reader)
            groups.append(group)
            relations.append(relation)
            counted |= also_counted
            relation = reader.take_relation("and") if len(relations) == 1 else None
    else:
        while reader.take_and():
            group, also_counted = _read_group(reader)
            groups.append(group)
            counted |= also_counted
    background = _read_background(reader)
    if reader.words:
        raise InvalidInput(f"The prompt should end before {reader.rest()}: {GRAMMAR_HINT}")
    request = Request(tuple(groups), tuple(relations), background, counted)
    _check_groups(request)
    return request


GRAMMAR_HINT = (
    'write "three blue stars", "a red circle and a blue square" or "a star above a heart on a grey background".'
)


def describe_vocabulary() -> str:
    """The vocabulary in one sentence, for error messages and help."""
    return (
        f"It knows the shapes {', '.join(SHAPES)}; the colours {', '.join(COLOURS)}; the numbers {', '.join(NUMBERS)}; "
        f"'and', {', '.join(RELATIONS)}; 'on a {'/'.join(BACKGROUNDS)} background'; and the openings "
        f"{', '.join(map(repr, OPENINGS))}."
    )


def nearest_words(word: str) -> list[str]:
    """At most three words of the vocabulary that look like a word, the nearest first."""
    return difflib.get_close_matches(word, VOCABULARY, n=3, cutoff=0.6)


def _suggest(word: str) -> str:
    nearest = nearest_words(word)
    return (f"Did you mean {' or '.join(map(repr, nearest))}? " if nearest else "") + describe_vocabulary()


class _Words:
    """The words of a caption that are still to be read."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def take(self, *expected: str) -> bool:
        """Drop `expected` from the front and answer True, or leave everything and answer False."""
        if tuple(self.words[: len(expected)]) != expected:
            return False
        self.words = self.words[len(expected) :]
        return True

    def take_and(self) -> bool:
        """Drop "and", "," or ", and" between two groups; a comma before "on" belongs to the background."""
        if self.words[:1] == [","] and self.words[1:2] != ["on"] and len(self.words) > 1:
            self.take(",")
            self.take("and")
            return True
        return self.take("and")

    def take_relation(self, *before: str) -> str | None:
        self.take_comma_before(*before)
        return next((name for name in RELATIONS if self.take(*before, *name.split())), None)

    def take_comma_before(self, *words: str) -> None:
        if words and tuple(self.words[: len(words) + 1]) == (",", *words):
            self.take(",")

    def take_one_of(self, allowed, what: str) -> str:
        if not self.words or self.words[0] not in allowed:
            raise InvalidInput(f"Expected {what} ({', '.join(allowed)}), got {self.rest()}.")
        return self.words.pop(0)

    def rest(self) -> str:
        return repr(" ".join(self.words)) if self.words else "the end of the prompt"


def _read_group(reader: _Words) -> tuple[Group, bool]:
    number = reader.words.pop(0) if reader.words and reader.words[0] in ("a", "an", *NUMBERS) else "a"
    count = NUMBERS.get(number, 1)
    colour = reader.words.pop(0) if reader.words and reader.words[0] in COLOURS else None
    noun = reader.take_one_of(SINGULARS if count > 1 else SHAPES, "shapes" if count > 1 else "a shape")
    return Group(SINGULARS.get(noun, noun), colour, count), number in NUMBERS


def _read_background(reader: _Words) -> str | None:
    reader.take_comma_before("on")
    if not reader.take("on"):
        return None
    reader.take("a")
    background = reader.take_one_of(BACKGROUNDS, "a background colour")
    if not reader.take("background"):
        raise InvalidInput(f"Expected 'background' after {background!r}, got {reader.rest()}.")
    return background


def _check_groups(request: Request) -> None:
    """Raises: InvalidInput for more than fits into one image, or for groups that cannot be told apart."""
    groups = request.groups
    if len(groups) > 3:
        raise InvalidInput(f"At most three kinds of objects fit into one image, got {len(groups)}.")
    if len(groups) == 3 and request.num_objects > 3:
        raise InvalidInput(f"Three kinds of objects go one by one, got {', '.join(map(str, groups))}.")
    if request.num_objects > MAX_OBJECTS:
        raise InvalidInput(f"At most {MAX_OBJECTS} objects fit into one image, got {request.num_objects}.")
    if len(groups) > 1 and any(group.count > 3 for group in groups):
        raise InvalidInput(
            f"Beside other objects there is room for three of a kind, got {', '.join(map(str, groups))}."
        )
    for i, one in enumerate(groups):
        for other in groups[:i]:
            if one.shape == other.shape and (one.colour == other.colour or not (one.colour and other.colour)):
                raise InvalidInput(
                    f"Two of the objects cannot be told apart: got {other} and {one}; give them two colours."
                )


# --- writing and sampling ---------------------------------------------------------------------------------------------


def write_caption(request: Request, opening: str = "") -> str:
    """The caption of a request; `parse_caption(write_caption(r)) == r`."""
    number_words = {count: word for word, count in NUMBERS.items()}

    def phrase(group: Group) -> str:
        noun = group.shape if group.count == 1 else PLURALS[group.shape]
        start = number_words[group.count] if request.counted else ("an" if group.colour == "orange" else "a")
        return " ".join(filter(None, (start, group.colour, noun)))

    first, *others = map(phrase, request.groups)
    if request.relations:
        related = (f"{relation} {other}" for relation, other in zip(request.relations, others, strict=True))
        body = f"{first} {' and '.join(related)}"
    elif len(others) == 2:
        body = f"{first}, {others[0]} and {others[1]}"
    else:
        body = " and ".join([first, *others])
    return " ".join(filter(None, (opening, body, request.background and f"on a {request.background} background")))


def sample_request(rng: np.random.Generator, category: str | None = None) -> Request:
    """A random request, of a random one of CATEGORIES if none is given. It may be held out for testing."""
    category = category or str(rng.choice(CATEGORIES))
    groups = _sample_groups(rng, category)
    relations: tuple[str, ...] = ()
    if category in ("position", "two_relation", "group_position"):
        relations = tuple(str(name) for name in rng.choice(list(RELATIONS), len(groups) - 1))
    background = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.5 else None
    counted = category in ("counting", "two_counting", "group_position")
    return Request(groups, relations, background, counted)


def _sample_groups(rng: np.random.Generator, category: str) -> tuple[Group, ...]:
    shapes = [str(shape) for shape in rng.choice(SHAPES, 3, replace=False)]
    colours: list[str | None] = [str(colour) for colour in rng.choice(list(COLOURS), 3)]
    if category == "single_object":
        return (Group(shapes[0]),)
    if category == "colors":
        return (Group(shapes[0], colours[0]),)
    if category == "counting":
        return (Group(shapes[0], colours[0] if rng.random() < 0.5 else None, int(rng.integers(1, 5))),)
    counts = [1, 1, 1]
    if category in ("two_counting", "group_position"):
        while not 3 <= counts[0] + counts[1] <= MAX_OBJECTS:
            counts = [int(count) for count in rng.integers(1, 4, 3)]
    num_groups = 3 if category in ("three_object", "two_relation") else 2
    colourless = {"two_object": 1.0, "color_attr": 0.0}.get(category, 0.3)
    if rng.random() < colourless:
        colours = [None, None, None]
    elif rng.random() < 0.2 and len(set(colours[:num_groups])) == num_groups:
        shapes = [shapes[0]] * 3  # one shape throughout, told apart by colour alone
    return tuple(Group(*parts) for parts in zip(shapes, colours, counts, strict=True))[:num_groups]


def sample_caption(rng: np.random.Generator, category: str | None = None, held_out: bool | None = None) -> str:
    """A random caption in varied wording, of one of CATEGORIES.

    `held_out` True draws what tests ask for, False what trainings may see, None either.
    """
    while True:
        request = sample_request(rng, category)
        if held_out is None or is_held_out(request) == held_out:
            break
    caption = write_caption(request, str(rng.choice(OPENINGS)) if rng.random() < 0.5 else "")
    if rng.random() < 0.1:  # as people type
        caption = re.sub(r"\ban? (?!picture |drawing |image )", "", caption)
    return caption + ("." if rng.random() < 0.05 else "")


def sample_captions(rng: np.random.Generator, held_out: bool = False) -> Iterator[str]:
    """Endless random captions of all categories: what trainings may see, or what is held out for tests."""
    while True:
        yield sample_caption(rng, held_out=held_out)


# --- what is asked, whatever the words --------------------------------------------------------------------------------

NUM_PARTS = 4  # one of which is held out


def request_key(request: Request) -> str:
    """One text for all requests for the same image: "a left of b" is "b right of a", "one star" is "a star"."""
    first, *others = request.groups
    if len(request.relations) == 1 and request.relations[0] in ("right of", "below"):
        first, others = others[0], [first]
        related = [f"{OPPOSITES[request.relations[0]]} {others[0]}"]
    elif request.relations:
        related = sorted(f"{name} {other}" for name, other in zip(request.relations, others, strict=True))
    else:
        first, *rest = sorted(request.groups, key=str)
        related = [f"and {other}" for other in rest]
    return " ".join([str(first), *related, f"on {request.background}"])


def is_held_out(request: Request) -> bool:
    """Whether a request is for testing alone: a fixed quarter of all that can be asked, chosen by a hash."""
    return zlib.crc32(request_key(replace(request, counted=False)).encode()) % NUM_PARTS == 0
