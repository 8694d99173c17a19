"""Prompts of the shapes world put together from choices, taken apart again, and looked through for unknown words."""

import re
from collections.abc import Mapping

from ..errors import InvalidInput
from .grammar import (
    BACKGROUNDS,
    COLOURS,
    NUMBERS,
    RELATIONS,
    SHAPES,
    VOCABULARY,
    Group,
    Request,
    nearest_words,
    parse_caption,
    write_caption,
)

ANY, ALONE = "any colour", "alone"
PLAIN = "any background"

_COUNTS, _COLOURS = ("a", *NUMBERS), (ANY, *COLOURS)


class ShapesComposer:
    """The composer of golden/checkers.py: one or two kinds of objects, their relation, and a background."""

    slots: Mapping[str, tuple[str, ...]] = {
        "count": _COUNTS,
        "colour": _COLOURS,
        "shape": SHAPES,
        "relation": (ALONE, "and", *RELATIONS),
        "other count": _COUNTS[:-1],  # beside other objects there is room for three of a kind
        "other colour": _COLOURS,
        "other shape": SHAPES,
        "background": (PLAIN, *BACKGROUNDS),
    }
    needs: Mapping[str, str] = dict.fromkeys(("other count", "other colour", "other shape"), "relation")

    def compose(self, choices: Mapping[str, str]) -> str:
        """Raises: InvalidInput for a choice that is none, or for objects that cannot be told apart."""
        chosen = {name: choices.get(name, allowed[0]) for name, allowed in self.slots.items()}
        for name, allowed in self.slots.items():
            if chosen[name] not in allowed:
                raise InvalidInput(f"The {name} must be one of {', '.join(allowed)}.")
        groups, relation = (_make_group(chosen, ""), _make_group(chosen, "other ")), chosen["relation"]
        alone = relation == ALONE
        counts = [chosen["count"]] if alone else [chosen["count"], chosen["other count"]]
        request = Request(
            groups[:1] if alone else groups,
            (relation,) if relation in RELATIONS else (),
            chosen["background"] if chosen["background"] in BACKGROUNDS else None,
            counted=any(count != "a" for count in counts),
        )
        caption = write_caption(request)
        parse_caption(caption)
        return caption

    def take_apart(self, prompt: str) -> dict[str, str] | None:
        """The choices that compose a prompt, None for one that they cannot compose."""
        try:
            request = parse_caption(prompt)
        except InvalidInput:
            return None
        if len(request.groups) > 2:
            return None
        relation = (*request.relations, "and")[0] if len(request.groups) == 2 else ALONE
        chosen = {"relation": relation, "background": request.background or PLAIN}
        for prefix, group in zip(("", "other "), request.groups, strict=False):
            chosen |= _describe_group(group, prefix, request.counted)
        return {name: chosen.get(name, allowed[0]) for name, allowed in self.slots.items()}

    def find_unknown(self, prompt: str) -> list[tuple[str, list[str]]]:
        """Words that no prompt may use, each with the nearest that it may; not a last word that is being typed."""
        words = re.findall(r"[^\s,.]+", prompt.lower())
        typing = words[-1] if words and prompt[-1:].isalpha() else ""
        unfinished = typing if any(known.startswith(typing) for known in VOCABULARY) else ""
        unknown = [word for word in dict.fromkeys(words) if word not in VOCABULARY and word != unfinished]
        return [(word, nearest_words(word)) for word in unknown]


def _make_group(chosen: Mapping[str, str], prefix: str) -> Group:
    colour = chosen[f"{prefix}colour"]
    count = NUMBERS.get(chosen[f"{prefix}count"], 1)
    return Group(chosen[f"{prefix}shape"], colour if colour in COLOURS else None, count)


def _describe_group(group: Group, prefix: str, counted: bool) -> dict[str, str]:
    words = {count: word for word, count in NUMBERS.items()}
    return {
        f"{prefix}count": words[group.count] if counted else "a",
        f"{prefix}colour": group.colour or ANY,
        f"{prefix}shape": group.shape,
    }
