"""What works with which family of pipelines: the table in golden/families/README.md, made from the families' own data.

python -m golden.features > golden/families/README.md
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .families import FAMILIES, Family
from .models import MODELS, ModelSpec
from .npnet import NPNETS

INTRODUCTION = """# Families of pipelines

What works with which family, made from the families' own data by `python -m golden.features`. Golden noise in three
lines, rendering, rewards, selection and ascent work with all of them. The tests try each row on a tiny pipeline with
random weights (tests/test_every_family.py).

"""

NOTES = """
**Noise**: the channels of latents, and the side of one of their cells in pixels of the image. **Re-denoise pairs**
need a difference between guidance and none: NPNets of models that were distilled to do without learn from rewards.
"""


class Column(NamedTuple):
    title: str
    show: Callable[[Family, Sequence[ModelSpec]], str]


def _show_pairs(family: Family, specs: Sequence[ModelSpec]) -> str:
    """ "yes", "no", or all but some models."""
    without = [spec.name for spec in specs if not spec.has_guidance_gap]
    if len(without) == len(specs):
        return "no"
    return _but_for("yes", without)


def _show_npnets(family: Family, specs: Sequence[ModelSpec]) -> str:
    """The names of the published NPNets, and the models without one, or "no"."""
    names = dict.fromkeys(str(spec.npnet) for spec in specs if spec.npnet in NPNETS)
    without = [spec.name for spec in specs if spec.npnet is None]
    return _but_for(", ".join(names), without) if names else "no"


def _but_for(said: str, without: Sequence[str]) -> str:
    return f"{said}, but for {', '.join(without)}" if without else said


def _yes(value: object) -> str:
    return "yes" if value else "no"


COLUMNS = (
    Column("family", lambda family, specs: family.title),
    Column("`--model`", lambda family, specs: ", ".join(spec.name for spec in specs)),
    Column("noise", lambda family, specs: family.noise),
    Column("samplers", lambda family, specs: ", ".join(family.samplers)),
    Column("tokens read", lambda family, specs: str(family.num_tokens)),
    Column("re-denoise pairs", _show_pairs),
    Column("published NPNet", _show_npnets),
    Column("ControlNet", lambda family, specs: _yes(family.controlnet_class)),
    Column("img2img", lambda family, specs: _yes(family.takes_start_image)),
)


def make_table() -> list[list[str]]:
    """The titles of the columns, and a row a family."""
    rows = [[column.title for column in COLUMNS]]
    for family in FAMILIES.values():
        specs = [spec for spec in MODELS.values() if spec.family is family]
        rows.append([column.show(family, specs) for column in COLUMNS])
    return rows


def make_page() -> str:
    """The table as Markdown, with what it says in words."""
    titles, *rows = make_table()
    lines = [titles, ["---"] * len(titles), *rows]
    return INTRODUCTION + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + NOTES


if __name__ == "__main__":
    print(make_page(), end="")
