"""What a prompt asks a detector: read from the prompt's own words, or from a file of GenEval or GenEval 2.

    prompt   := [("a" | "an") ("photo" | "picture" | "image" | "drawing") "of"] objects ["."]
    objects  := object ((relation | "and" | ",") object)*
    object   := ["a" | "an" | number] [colour] [attribute] noun
    relation := "left of" | "right of" | "above" | "below", in several wordings

The nouns are GenEval's, those of COCO; a file brings its own. As in GenEval, an article asks for at least one object,
and a number for exactly so many.

Source: Ghosh et al. 2023, arXiv 2310.11513 (GenEval); Kamath et al. 2025, arXiv 2512.16853 (GenEval 2).
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInput

# fmt: off
NOUNS = (
    "airplane", "apple", "backpack", "banana", "baseball bat", "baseball glove", "bear", "bed", "bench", "bicycle",
    "bird", "boat", "book", "bottle", "bowl", "broccoli", "bus", "cake", "car", "carrot", "cat", "cell phone", "chair",
    "clock", "computer keyboard", "computer mouse", "couch", "cow", "cup", "dining table", "dog", "donut", "elephant",
    "fire hydrant", "fork", "frisbee", "giraffe", "hair drier", "handbag", "horse", "hot dog", "kite", "knife",
    "laptop", "microwave", "motorcycle", "orange", "oven", "parking meter", "person", "pizza", "potted plant",
    "refrigerator", "sandwich", "scissors", "sheep", "sink", "skateboard", "skis", "snowboard", "spoon", "sports ball",
    "stop sign", "suitcase", "surfboard", "teddy bear", "tennis racket", "tie", "toaster", "toilet", "toothbrush",
    "traffic light", "train", "truck", "tv", "tv remote", "umbrella", "vase", "wine glass", "zebra",
)
# fmt: on
"""The 80 classes of COCO, in GenEval's spelling."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's."""
KINDS_OF_ATTRIBUTE = (
    ("plastic", "metal", "wooden", "glass", "stone", "paper", "leather"),
    ("striped", "spotted", "checkered"),
)
"""Attributes that exclude each other. A file may bring others, which are then only told from their absence."""
_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: number for number, word in enumerate(_NUMBER_WORDS, start=1)}
ARTICLES = ("a", "an")
MAX_CHARS = 400

RELATIONS = {
    "left of": ("to the left of", "on the left of", "left of"),
    "right of": ("to the right of", "on the right of", "right of"),
    "above": ("on top of", "above", "over"),
    "below": ("underneath", "beneath", "below", "under"),
}
"""What boxes can tell, and its wordings; depth ("in front of") and deeds ("playing with") they cannot."""
_RELATION_OF = {wording: relation for relation, wordings in RELATIONS.items() for wording in wordings}
_OPENING = re.compile(r"an? (?:photo|picture|image|drawing) of ")
_WORDINGS = sorted(_RELATION_OF, key=len, reverse=True)
_JOINT = re.compile(rf"\s*,\s*(?:and )?|\s+(and|{'|'.join(_WORDINGS)})\s+")
_IRREGULAR = {"knives": "knife", "people": "person", "mice": "mouse", "computer mice": "computer mouse"}
_IRREGULAR |= {"loaves": "loaf", "leaves": "leaf", "wolves": "wolf", "geese": "goose", "buses": "bus"}
_INVARIABLE = ("sheep", "scissors", "skis", "broccoli", "bus", "glass", "wine glass")


@dataclass(frozen=True)
class Asked:
    """`count` objects of one noun: `exact`, or at least so many; each of the colour and with the attributes named."""

    noun: str
    count: int = 1
    exact: bool = False
    colour: str | None = None
    attributes: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = " ".join(filter(None, (self.colour, *self.attributes, self.noun)))
        return f"{'' if self.exact else 'at least '}{self.count} {words}"


@dataclass(frozen=True)
class Placed:
    """That the objects of number `first` lie in a relation of RELATIONS to those of number `second`."""

    relation: str
    first: int
    second: int


@dataclass(frozen=True)
class Questions:
    """All that is asked about one image: one or more kinds of objects, and how they are placed."""

    objects: tuple[Asked, ...]
    relations: tuple[Placed, ...] = ()

    @property
    def nouns(self) -> tuple[str, ...]:
        """What to look for, each noun once."""
        return tuple(dict.fromkeys(asked.noun for asked in self.objects))


# --- from the prompt's own words ------------------------------------------------------------------------------------


def parse_prompt(prompt: str, nouns: Collection[str] = NOUNS) -> Questions:
    """The questions of a prompt. Raises: InvalidInput that names the first words beyond the grammar above."""
    if len(prompt) > MAX_CHARS:
        raise InvalidInput(f"A prompt that is checked has at most {MAX_CHARS} characters, got {len(prompt)}.")
    text = " ".join(prompt.lower().split()).rstrip(". ")
    text = _OPENING.sub("", text, count=1) if _OPENING.match(text) else text
    objects, relations, start = [], [], 0
    for joint in [*_JOINT.finditer(text), None]:
        objects.append(_parse_object(text[start : joint.start() if joint else None], nouns))
        if joint and joint[1] in _RELATION_OF:
            relations.append(Placed(_RELATION_OF[joint[1]], len(objects) - 1, len(objects)))
        start = joint.end() if joint else start
    return Questions(tuple(objects), tuple(relations))


def _parse_object(phrase: str, nouns: Collection[str]) -> Asked:
    words = phrase.split()
    number = NUMBERS.get(words[0]) if words else None
    words = words[1:] if number or words[:1] in ([article] for article in ARTICLES) else words
    # The longest noun wins: a "teddy bear" is no bear that is "teddy".
    noun, start = next(
        ((known, i) for i in range(len(words)) if (known := _known_noun(" ".join(words[i:]), nouns))), (None, 0)
    )
    if noun is None:
        raise InvalidInput(f"The detector is asked for GenEval's objects, of which {phrase[:60]!r} names none.")
    asked = Asked(noun, number or 1, exact=number is not None)
    for word in words[:start]:
        asked = _describe_with(asked, word)
    return asked


def _describe_with(asked: Asked, word: str) -> Asked:
    if word in COLOURS and asked.colour is None:
        return replace(asked, colour=word)
    if any(word in kind for kind in KINDS_OF_ATTRIBUTE):
        return replace(asked, attributes=(*asked.attributes, word))
    known = ", ".join((*COLOURS, *(each for kind in KINDS_OF_ATTRIBUTE for each in kind)))
    raise InvalidInput(f"The detector cannot tell whether a {asked.noun} is {word[:40]!r}; it knows {known}.")


def _known_noun(words: str, nouns: Collection[str]) -> str | None:
    # GenEval's own plurals only add an s: "benchs", "knifes", "sheeps".
    forms = (words, words.removesuffix("s"), singular(words))
    return next((form for form in forms if form in nouns), None)


def singular(noun: str) -> str:
    """The singular of a plural noun; a singular is left as it is."""
    if noun in _INVARIABLE or not noun.endswith("s"):
        return _IRREGULAR.get(noun, noun)
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith("ies") and not noun.endswith(("ties", "kies")):
        return f"{noun[:-3]}y"
    if noun.endswith(("ches", "shes", "sses", "xes")):
        return noun[:-2]
    return noun if noun.endswith("ss") else noun[:-1]


# --- from a file ------------------------------------------------------------------------------------------------------


def read_questions(path: Path) -> dict[str, Questions | str]:
    """By prompt its questions, or one sentence if a detector cannot answer one of them.

    Args:
        path: a .jsonl file of GenEval (`include`, `exclude`) or of GenEval 2 (`vqa_list`).
    Raises: InvalidInput in one sentence for a missing file or a line of another layout.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The questions in {path} cannot be read: {error}.") from None
    found: dict[str, Questions | str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            prompt = " ".join(entry["prompt"].split())
            read: Questions | str = _read_geneval(entry) if "include" in entry else _read_geneval_2(entry["vqa_list"])
        except InvalidInput as error:
            read = str(error)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidInput(
                f"Line {number} of {path.name} is neither GenEval's ({{'prompt', 'include'}}) nor GenEval 2's "
                "({'prompt', 'vqa_list'})."
            ) from None
        found[prompt] = read
    if not found:
        raise InvalidInput(f"There are no questions in {path}.")
    return found


def _read_geneval(entry: Mapping[str, Any]) -> Questions:
    limits = {each["class"]: int(each["count"]) for each in entry.get("exclude", ())}
    objects, relations = [], []
    for index, each in enumerate(entry["include"]):
        noun, count = str(each["class"]), int(each["count"])
        objects.append(Asked(noun, count, limits.get(noun) == count + 1, each.get("color")))
        if "position" in each:
            relation, second = each["position"]
            if relation not in RELATIONS:
                raise InvalidInput(f"A detector cannot see whether a {noun} is {relation[:40]!r}.")
            relations.append(Placed(relation, index, int(second)))
    return Questions(tuple(objects), tuple(relations))


_HOW_MANY = re.compile(r"how many (.+) are (?:there )?in the image\?")
_IS_THERE = re.compile(r"(?:is|are) there (?:any|an?) (.+) in the image\?")
_IS_SO = re.compile(r"(?:is|are) the (.+)\?")


def _read_geneval_2(pairs: list[list[str]]) -> Questions:
    """Questions in words, each with its answer; those about how many and whether any name the nouns."""
    pairs = [[question.lower().strip(), answer.lower().strip()] for question, answer in pairs]
    objects: dict[str, Asked] = {}
    spellings: dict[str, str] = {}
    rest = []
    for question, answer in pairs:
        if match := _HOW_MANY.fullmatch(question) or _IS_THERE.fullmatch(question):
            noun = spellings.setdefault(match[1], singular(match[1]))
            asked = objects.setdefault(noun, Asked(noun))
            if match.re is _HOW_MANY:
                count = NUMBERS.get(answer) or int(answer)
                objects[noun] = replace(asked, count=count, exact=True)
        else:
            rest.append(question)
    spellings |= {noun: noun for noun in objects}
    order, relations = list(objects), []
    for question in rest:
        noun, said = _split_statement(question, spellings)
        wording = next((wording for wording in _WORDINGS if said.startswith(f"{wording} the ")), None)
        if wording:
            other = said.removeprefix(f"{wording} the ")
            second = spellings.get(other, singular(other))
            relations.append(Placed(_RELATION_OF[wording], order.index(noun), order.index(second)))
        elif " " in said:
            raise InvalidInput(f"A detector cannot see whether a {noun} is {said[:60]!r}.")
        elif said in COLOURS:
            objects[noun] = replace(objects[noun], colour=said)
        else:
            objects[noun] = replace(objects[noun], attributes=(*objects[noun].attributes, said))
    return Questions(tuple(objects[noun] for noun in order), tuple(relations))


def _split_statement(question: str, spellings: Mapping[str, str]) -> tuple[str, str]:
    """(noun, what is said of it) of "Are the cows plastic?"."""
    match = _IS_SO.fullmatch(question)
    rest = match[1] if match else ""
    for spelling in sorted(spellings, key=len, reverse=True):
        if rest.startswith(f"{spelling} "):
            return spellings[spelling], rest.removeprefix(f"{spelling} ")
    raise InvalidInput(f"A detector cannot answer {question[:80]!r}.")


def sample_questions(rng: np.random.Generator) -> Iterator[str]:
    """Endless prompts of GenEval's six categories, about equally often."""
    others = [noun for noun in NOUNS if noun not in ("person", "orange")]  # no coloured people, no blue oranges
    while True:
        one, two = (str(noun) for noun in rng.choice(others, 2, replace=False))
        first, second = (str(colour) for colour in rng.choice(COLOURS, 2, replace=False))
        number, relation = str(rng.choice(list(NUMBERS)[1:4])), str(rng.choice(list(RELATIONS)))
        yield "a photo of " + str(
            rng.choice(
                [
                    with_article(one),
                    f"{with_article(one)} and {with_article(two)}",
                    f"{number} {one}s",
                    with_article(f"{first} {one}"),
                    f"{with_article(one)} {relation} {with_article(two)}",
                    f"{with_article(f'{first} {one}')} and {with_article(f'{second} {two}')}",
                ]
            )
        )


def with_article(words: str) -> str:
    """ "an apple", "a dog"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
