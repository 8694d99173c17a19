"""The shapes world: captions, images, and a checker that is right about them."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice, permutations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from golden.checkers import FAULTS
from golden.errors import InvalidInput, run_command
from golden.files import open_image
from golden.shapes import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    GENEVAL_CATEGORIES,
    HARD_CATEGORIES,
    IMAGE_SIZE,
    OPENINGS,
    RELATIONS,
    SHAPES,
    TEST_SETS,
    VOCABULARY,
    Group,
    Request,
    Scene,
    SceneObject,
    change_one_attribute,
    check_image,
    check_scene,
    find_objects,
    is_held_out,
    load_test_prompts,
    parse_caption,
    possible_changes,
    render,
    request_key,
    sample_caption,
    sample_captions,
    sample_request,
    sample_scene,
    write_caption,
)
from golden.shapes.__main__ import main
from golden.shapes.grammar import MAX_CAPTION_CHARS, MAX_OBJECTS, OPPOSITES


def draw(caption: str, seed: int = 0) -> Image.Image:
    return render(sample_scene(parse_caption(caption), np.random.default_rng(seed)))


def put(*objects: SceneObject, background: str = "white") -> Image.Image:
    return render(Scene(background, objects))


# --- captions ---------------------------------------------------------------------------------------------------------

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines may be busy
shapes, colours = st.sampled_from(SHAPES), st.sampled_from(list(COLOURS))
backgrounds = st.none() | st.sampled_from(list(BACKGROUNDS))
relations = st.sampled_from(list(RELATIONS))


@st.composite
def requests(draw_from) -> Request:
    """Any request that the grammar can say."""
    num_groups = draw_from(st.integers(1, 3))
    most = {1: 4, 2: 3, 3: 1}[num_groups]
    apart_by_shape = draw_from(st.booleans())  # else by colour, of which each group needs one then
    size = {"min_size": num_groups, "max_size": num_groups}
    groups = tuple(
        map(
            Group,
            draw_from(st.lists(shapes, unique=apart_by_shape, **size)),
            draw_from(st.lists(st.none() | colours if apart_by_shape else colours, unique=not apart_by_shape, **size)),
            draw_from(st.lists(st.integers(1, most), **size)),
        )
    )
    if sum(group.count for group in groups) > MAX_OBJECTS:
        groups = (groups[0], replace(groups[1], count=1))
    counted = any(group.count > 1 for group in groups) or draw_from(st.booleans())
    related = (
        () if num_groups == 1 or draw_from(st.booleans()) else draw_from(st.tuples(*[relations] * (num_groups - 1)))
    )
    return Request(groups, related, draw_from(backgrounds), counted)


@given(requests(), st.sampled_from(["", *OPENINGS]))
@PATIENT
def test_a_written_caption_reads_back(request, opening):
    caption = write_caption(request, opening)
    assert parse_caption(caption) == request
    assert parse_caption(f"  {caption.upper()}.  ") == request
    assert parse_caption(caption.replace(" on a ", ", on a ").replace(",", " , ") + " .") == request
    assert request.category in CATEGORIES


@given(requests())
@PATIENT
def test_articles_may_be_left_out(request):
    bare = write_caption(replace(request, counted=any(group.count > 1 for group in request.groups)))
    bare = " ".join(word for word in bare.split() if word not in ("a", "an"))
    assert request_key(parse_caption(bare)) == request_key(request)


@given(st.lists(st.sampled_from((*VOCABULARY, ",")), max_size=18).map(" ".join))
@PATIENT
def test_any_words_are_read_or_refused_in_one_line(caption):
    complaint = ""
    try:
        request = parse_caption(caption)
    except InvalidInput as error:
        complaint = str(error)
    if complaint:
        assert "\n" not in complaint
    else:
        assert parse_caption(write_caption(request)) == request


@pytest.mark.parametrize(
    ("caption", "category"),
    [
        ("a star", "single_object"),
        ("star", "single_object"),
        ("a star and a heart", "two_object"),
        ("star, heart.", "two_object"),
        ("three stars", "counting"),
        ("one blue star", "counting"),
        ("an orange star", "colors"),
        ("a star above a heart", "position"),
        ("a red star right of a blue star", "position"),
        ("a red star and a blue heart", "color_attr"),
        ("a red star and a blue star on a black background", "color_attr"),
        ("two circles and a square", "two_counting"),
        ("a star, a heart and a cross", "three_object"),
        ("a star and a heart and a cross", "three_object"),
        ("a red star, a blue star, and a green star, on a grey background.", "three_object"),
        ("a star left of a heart and above a cross", "two_relation"),
        ("a star left of a heart, and above a cross", "two_relation"),
        ("two circles above three squares", "group_position"),
    ],
)
def test_categories(caption, category):
    assert parse_caption(caption).category == category


@pytest.mark.parametrize(
    ("caption", "word", "nearest"),
    [
        ("a red dog", "dog", None),
        ("a réd star", "réd", "red"),
        ("a red start", "start", "star"),
        ("three blu hexagons", "blu", "blue"),
        ("a star; red", "star;", "star"),
    ],
)
def test_a_word_outside_the_grammar_is_named_and_the_vocabulary_listed(caption, word, nearest):
    with pytest.raises(InvalidInput) as caught:
        parse_caption(caption)
    message = str(caught.value)
    assert repr(word) in message
    assert all(known in message for known in (*SHAPES, *COLOURS, *RELATIONS, *BACKGROUNDS, "three"))
    assert ("Did you mean" in message) == bool(nearest)
    if nearest:
        assert repr(nearest) in message.partition("Did you mean")[2].partition("?")[0]


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        (None, "empty"),
        (7, "empty"),
        (".", "a shape"),
        (",", "a shape"),
        ("a red", "a shape"),
        ("two star", "shapes"),
        ("a stars", "a shape"),
        ("a star and", "a shape"),
        ("a star, and", "a shape"),
        ("a star on a", "background colour"),
        ("a star on a red background", "background colour"),
        ("a star on a grey", "'background'"),
        ("a star a heart", "should end before 'a heart'"),
        ("a star left of a heart and a cross", "should end before 'and a cross'"),
        ("a star and a star", "told apart"),
        ("a red star above a star", "told apart"),
        ("one circle and three red circles", "told apart"),
        ("a star, a heart and a red star", "told apart"),
        ("a star, a heart, a cross and a circle", "At most three kinds"),
        ("two stars, a heart and a cross", "one by one"),
        ("three stars and three hearts", "At most 5 objects"),
        ("four stars and a heart", "room for three of a kind"),
        ("a star " * 1000, "at most 200"),
    ],
)
def test_refusals_say_what_was_expected(caption, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        parse_caption(caption)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("category", CATEGORIES)
def test_sampled_requests_are_of_their_category(category):
    rng = np.random.default_rng(5)
    for _ in range(100):
        request = sample_request(rng, category)
        assert request.category == category
        assert parse_caption(write_caption(request)) == request
        assert parse_caption(sample_caption(rng, category)).category == category or category == "counting"


# --- what is held out for testing -------------------------------------------------------------------------------------


def in_other_words(request: Request) -> list[Request]:
    """Requests for the same image."""
    others = [replace(request, counted=True), replace(request, counted=False)]
    if not request.relations:
        others += [replace(request, groups=groups) for groups in permutations(request.groups)]
    elif len(request.relations) == 1:
        relation = OPPOSITES[request.relations[0]]
        others.append(replace(request, groups=request.groups[::-1], relations=(relation,)))
    else:
        first, *rest = request.groups
        others.append(replace(request, groups=(first, *rest[::-1]), relations=request.relations[::-1]))
    return others


@given(requests())
@PATIENT
def test_what_is_asked_in_other_words_is_held_out_with_it(request):
    for other in in_other_words(request):
        assert request_key(other) == request_key(request)
        assert is_held_out(other) == is_held_out(request)


@given(requests(), requests())
@PATIENT
def test_requests_for_different_images_have_different_keys(one, other):
    assert (request_key(one) == request_key(other)) == any(
        replace(one, counted=False) == replace(same, counted=False) for same in in_other_words(other)
    )


def test_training_captions_ask_for_nothing_that_is_held_out():
    requests = [parse_caption(caption) for caption in islice(sample_captions(np.random.default_rng(0)), 3000)]
    assert not any(map(is_held_out, requests))
    assert {request.category for request in requests} == set(CATEGORIES)


@pytest.mark.parametrize(
    ("name", "num_prompts", "categories"),
    [("shapes-553", 553, GENEVAL_CATEGORIES), ("shapes-hard-400", 400, HARD_CATEGORIES)],
)
def test_the_frozen_test_sets_are_held_out(name, num_prompts, categories):
    rows = load_test_prompts(TEST_SETS[name])
    requests = [parse_caption(row["prompt"]) for row in rows]
    assert len({row["prompt"] for row in rows}) == len(rows) == num_prompts
    assert [request.category for request in requests] == [row["category"] for row in rows]
    assert {request.category for request in requests} == set(categories)
    assert all(map(is_held_out, requests))


def test_a_quarter_of_every_category_is_held_out():
    rng = np.random.default_rng(1)
    for category in ("position", "color_attr", *CATEGORIES[-4:]):
        share = np.mean([is_held_out(sample_request(rng, category)) for _ in range(600)])
        assert 0.18 < share < 0.32, category
    for held_out in (True, False):
        captions = [sample_caption(rng, held_out=held_out) for _ in range(100)]
        assert {is_held_out(parse_caption(caption)) for caption in captions} == {held_out}


def test_the_first_test_set_has_genevals_proportions():
    counts = Counter(row["category"] for row in load_test_prompts())
    assert [counts[category] for category in GENEVAL_CATEGORIES] == [80, 99, 80, 94, 100, 100]


# --- images -----------------------------------------------------------------------------------------------------------


def test_a_seed_makes_one_image():
    caption = "two red stars on a black background"
    assert draw(caption, 3).tobytes() == draw(caption, 3).tobytes()
    assert draw(caption, 3).tobytes() != draw(caption, 4).tobytes()
    assert draw(caption).size == (IMAGE_SIZE, IMAGE_SIZE)


def test_images_are_anti_aliased():
    pixels = np.asarray(draw("a red circle on a white background")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 8


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_checker_is_right_on_rendered_scenes(category):
    rng = np.random.default_rng(2024)
    num_right = 0
    for _ in range(150):
        request = sample_request(rng, category)
        scene = sample_scene(request, rng)
        meant = check_scene(request, scene)
        assert meant.correct, (request, scene)
        assert meant.faults == ()
        assert meant.fault is None
        assert meant.score == 1
        num_right += check_image(request, render(scene)).correct
    assert num_right >= 149


EXPECTED_FAULTS = {
    "shape": {"shape"},
    "colour": {"colour"},
    "count": {"missing", "extra", "count"},
    "position": {"position"},
    "background": {"background"},
}


@pytest.mark.parametrize("change", EXPECTED_FAULTS)
def test_the_checker_refuses_one_changed_attribute_and_says_which(change):
    rng = np.random.default_rng(2025)
    seen = Counter()
    while seen.total() < 150:
        request = sample_request(rng)
        if change not in possible_changes(request):
            continue
        changed = change_one_attribute(sample_scene(request, rng), request, rng, change)
        meant, verdict = check_scene(request, changed), check_image(request, render(changed))
        assert not meant.correct, (request, changed)
        assert meant.fault in EXPECTED_FAULTS[change], (request, meant)
        assert meant.score < 1
        assert (verdict.correct, verdict.fault) == (False, meant.fault), (request, changed)
        seen[meant.fault] += 1
    assert set(seen) == EXPECTED_FAULTS[change]


def test_a_change_is_drawn_at_random_where_none_is_named():
    rng = np.random.default_rng(3)
    request = parse_caption("a red star above a heart on a grey background")
    assert set(possible_changes(request)) == set(EXPECTED_FAULTS)
    scene = sample_scene(request, rng)
    faults = {check_scene(request, change_one_attribute(scene, request, rng)).fault for _ in range(60)}
    assert faults == {"shape", "colour", "missing", "extra", "position", "background"}
    assert possible_changes(parse_caption("a star")) == ["shape", "count"]


def test_the_checker_reads_images_of_other_sizes():
    for size in (64, 256, 512):
        scene = sample_scene(parse_caption("a red heart below a blue cross"), np.random.default_rng(1))
        assert check_image("a red heart below a blue cross", render(scene, size)).correct


def test_the_checker_forgives_slight_blur_and_noise():
    image = draw("a red star and a blue heart on a grey background").filter(ImageFilter.GaussianBlur(0.7))
    pixels = np.asarray(image, np.float32) + np.random.default_rng(0).normal(0, 4, (IMAGE_SIZE, IMAGE_SIZE, 3))
    noisy = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    assert check_image("a red star and a blue heart on a grey background", noisy).correct


# Each is an image that shows almost, but not quite, what its caption asks for.
def blob() -> Image.Image:
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUNDS["white"])
    ImageDraw.Draw(image).polygon(
        [(30, 40), (64, 60), (100, 34), (90, 70), (104, 98), (50, 84), (36, 100)], fill=COLOURS["red"]
    )
    return image


def stretched_circle() -> Image.Image:
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUNDS["white"])
    ImageDraw.Draw(image).ellipse([20, 46, 108, 82], fill=COLOURS["red"])
    return image


def two_coloured() -> Image.Image:
    left, right = (put(SceneObject("circle", colour, 0.5, 0.5, 0.28)) for colour in ("red", "blue"))
    left.paste(right.crop((64, 0, 128, 128)), (64, 0))
    return left


def touching() -> Image.Image:
    return put(SceneObject("circle", "red", 0.35, 0.5, 0.2), SceneObject("circle", "red", 0.65, 0.5, 0.2))


def touching_colours() -> Image.Image:
    return put(SceneObject("circle", "red", 0.35, 0.5, 0.2), SceneObject("square", "blue", 0.65, 0.5, 0.2))


def off_colour() -> Image.Image:
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUNDS["white"])
    ImageDraw.Draw(image).ellipse([30, 30, 98, 98], fill=(0, 255, 255))
    return image


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))


def empty() -> Image.Image:
    return put()


@pytest.mark.parametrize("image", [blob, stretched_circle, two_coloured, touching, off_colour, noise, empty])
def test_no_red_circle(image):
    assert not check_image("a red circle", image()).correct


@pytest.mark.parametrize("image", [blob, stretched_circle, touching, noise, empty])
def test_no_circle(image):
    assert not check_image("a circle", image()).correct


def test_colour_counts_only_where_it_was_asked_for():
    assert check_image("a circle", two_coloured()).correct
    assert check_image("a circle", off_colour()).correct
    assert check_image("a red circle", two_coloured()).fault == "unclear"


@pytest.mark.parametrize("caption", ["two red circles", "two circles"])
def test_touching_objects_are_not_two(caption):
    assert not check_image(caption, touching()).correct


@pytest.mark.parametrize("caption", ["a red circle and a blue square", "a circle left of a square"])
def test_touching_objects_of_two_colours_are_not_two(caption):
    assert not check_image(caption, touching_colours()).correct


@pytest.mark.parametrize("seed", range(20))
def test_noise_shows_nothing_whatever_its_colour(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8 << seed % 4, 8 << seed % 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    assert not any(check_image(f"a {shape}", image).correct for shape in SHAPES)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (128, 128, 128)])
def test_plain_images_show_nothing(colour):
    verdict = check_image("a star", Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), colour))
    assert not verdict.correct
    assert "found: nothing" in str(verdict)


def test_reasons_say_what_was_asked_and_found():
    two_kinds = put(
        SceneObject("star", "blue", 0.25, 0.25, 0.15),
        SceneObject("star", "blue", 0.75, 0.25, 0.15),
        SceneObject("star", "red", 0.25, 0.75, 0.15),
    )
    verdict = check_image("three blue stars", two_kinds)
    assert not verdict.correct
    assert verdict.reasons == ("asked: 3 blue stars; found: 2 blue stars, 1 red star",)
    assert str(verdict).startswith("wrong: asked")
    assert dict(verdict.attributes) == {"count": True, "star shape": True, "star colour": False}
    assert verdict.score == pytest.approx(2 / 3)

    pair = put(SceneObject("star", "blue", 0.25, 0.5, 0.15), SceneObject("heart", "red", 0.75, 0.5, 0.15))
    verdict = check_image("a star right of a heart on a grey background", pair)
    assert verdict.reasons[1:] == (
        "asked: star right of heart; found: star left of heart",
        "asked: grey background; found: white background",
    )
    assert check_image("a star left of a heart", pair).correct
    assert check_image("a heart right of a star", pair).correct
    assert check_image("a blue star and a red heart on a white background", pair).correct
    assert not check_image("a red star and a blue heart", pair).correct


def found(*objects: str | None) -> Scene:
    """A scene of objects in a row, each "COLOUR SHAPE"."""
    places = np.linspace(0, 1, len(objects) + 2)[1:-1]
    row = (SceneObject(*item.split()[::-1], x=x, y=0.5, radius=0.1) for item, x in zip(objects, places, strict=True))
    return Scene("white", tuple(row))


@pytest.mark.parametrize(
    ("caption", "scene", "faults"),
    [
        ("a star", found(), ["missing"]),
        ("a star", found("red star", "red star"), ["extra"]),
        ("a star", found("red heart"), ["shape"]),
        ("a star and a heart", found("red star"), ["missing"]),
        ("a star and a heart", found("red star", "red heart", "red cross"), ["extra"]),
        ("two stars", found("red star"), ["count"]),
        ("two stars", found("red star", "blue star", "red star"), ["count"]),
        ("two stars", found(), ["missing"]),
        ("two stars", found("red star", "red heart", "red star"), ["extra"]),
        ("two stars and a heart", found("red star", "red heart", "red heart"), ["shape"]),
        ("a red star and a blue heart", found("blue star", "red heart"), ["colour"]),
        ("a red star and a blue star", found("red star", "red star"), ["colour"]),
        ("a red star on a grey background", found("blue heart"), ["shape", "background"]),
        ("a red star right of a blue star", found("red star", "blue star"), ["position"]),
        (
            "a red star right of a blue star on a black background",
            found("red star", "blue star"),
            ["position", "background"],
        ),
        ("a red star right of a heart", found("blue star", "red heart"), ["colour"]),
    ],
)
def test_faults(caption, scene, faults):
    verdict = check_scene(parse_caption(caption), scene)
    assert list(verdict.faults) == faults
    assert verdict.fault == faults[0]
    assert sorted(faults, key=FAULTS.index) == faults


def test_a_colour_counts_only_where_one_is_asked_for():
    image = off_colour()
    (found,) = find_objects(image)[1]
    assert (found.shape, found.colour) == ("circle", None)
    assert (found.x, found.y) == pytest.approx((0.5, 0.5), abs=0.02)
    assert check_image("a circle", image).correct
    verdict = check_image("a red circle", image)
    assert (verdict.correct, verdict.faults) == (False, ("unclear",))
    assert verdict.reasons == ("asked: 1 red circle; found: 1 off-colour circle",)


def test_a_shape_that_is_like_none_is_unclear():
    verdict = check_image("a circle", blob())
    assert verdict.faults == ("unclear",)
    assert "red blob" in str(verdict)


def test_two_relations_are_both_the_first_objects():
    cross = put(
        SceneObject("cross", "red", 0.25, 0.3, 0.12),
        SceneObject("heart", "blue", 0.75, 0.3, 0.12),
        SceneObject("star", "green", 0.25, 0.75, 0.12),
    )
    assert check_image("a cross left of a heart and above a star", cross).correct
    verdict = check_image("a cross left of a heart and below a star", cross)
    assert verdict.faults == ("position",)
    assert verdict.reasons[1:] == (
        "asked: cross left of heart; found: cross left of heart",
        "asked: cross below star; found: cross above star",
    )
    assert dict(verdict.attributes)["left of"]
    assert not dict(verdict.attributes)["below"]


def test_objects_are_found_where_they_are():
    background, found = find_objects(put(SceneObject("cross", "green", 0.3, 0.6, 0.2), background="beige"))
    assert background == "beige"
    assert [str(item) for item in found] == ["green cross"]
    assert (found[0].x, found[0].y) == pytest.approx((0.3, 0.6), abs=0.02)


# --- command line -----------------------------------------------------------------------------------------------------


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: main([str(argument) for argument in arguments]))
    return caught.value.code


def test_render_and_check(tmp_path, capsys):
    path = tmp_path / "new folder" / "image.png"
    assert exit_code("render", "a red circle left of a blue square", path, "--seed", 3) == 0
    assert exit_code("check", "a red circle left of a blue square", path) == 0
    assert exit_code("check", "a red circle right of a blue square", path) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("right: asked: 1 red circle and 1 blue square; found: ")
    assert printed[1].startswith("wrong: ")
    first = path.read_bytes()
    assert exit_code("render", "a red circle left of a blue square", path, "--seed", 3) == 0
    assert path.read_bytes() == first


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    image = tmp_path / "image.png"
    text = tmp_path / "text.png"
    text.write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    draw("a star").save(image)
    cut = tmp_path / "cut.png"
    cut.write_bytes(image.read_bytes()[:200])
    for arguments in (
        ("check", "a red dog", image),
        ("check", "a star", tmp_path / "absent.png"),
        ("check", "a star", text),
        ("check", "a star", cut),
        ("check", "a star", tmp_path),
        ("render", "a star", tmp_path / "image.jpg"),
        ("render", "a star", tmp_path / "folder.png"),
        ("render", "a star", image, "--seed", -1),
        ("render", "a star", image, "--seed", "x"),
        ("render", "a star"),
        ("paint",),
        (),
    ):
        assert exit_code(*arguments) == 2, arguments
        complaint = capsys.readouterr().err
        assert complaint.count("\n") == 1, complaint


def test_module_is_a_command(tmp_path):
    draw("a star").save(tmp_path / "star.png")
    command = [sys.executable, "-m", "golden.shapes", "check", "a heart", str(tmp_path / "star.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("wrong: asked: 1 heart; found: 1 ")
    assert done.stderr == ""


def test_open_image_drops_transparency(tmp_path):
    Image.new("RGBA", (4, 4), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").mode == "RGB"


def test_captions_have_a_limit():
    assert len(max((row["prompt"] for row in load_test_prompts()), key=len)) < MAX_CAPTION_CHARS
