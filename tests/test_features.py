"""The table of what works with which family is what the families say, and the file holds it."""

from pathlib import Path

import golden.families
from golden.families import FAMILIES
from golden.features import COLUMNS, make_page, make_table
from golden.models import MODELS

PAGE = Path(golden.families.__file__).parent / "README.md"


def test_every_family_and_every_model_has_its_place():
    titles, *rows = make_table()
    assert titles == [column.title for column in COLUMNS]
    assert [row[0] for row in rows] == [family.title for family in FAMILIES.values()]
    assert sorted(name for row in rows for name in row[1].split(", ")) == sorted(MODELS)


def test_models_without_guidance_are_said_to_have_no_pairs():
    pairs = {row[0]: row[5] for row in make_table()}
    assert pairs["FLUX.1"] == "yes, but for flux-schnell"
    assert pairs["Z-Image"] == "yes, but for z-image-turbo"
    assert pairs["SANA"] == "yes"


def test_published_npnets_are_named_and_models_without_one_too():
    published = {row[0]: row[6] for row in make_table()}
    assert published["Stable Diffusion XL"] == "sdxl, dreamshaper, but for sdxl-turbo"
    assert published["Hunyuan-DiT"] == "hunyuan-dit"
    assert published["Stable Diffusion 3"] == "no"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == make_page(), "run python -m golden.features > golden/families/README.md"
