"""The shapes world: captions, pictures, and a checker that is right about them."""

import subprocess
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from golden.errors import InvalidInput, run_command
from golden.shapes import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    IMAGE_SIZE,
    MAX_CAPTION_CHARS,
    OPENINGS,
    RELATIONS,
    SHAPES,
    VOCABULARY,
    Group,
    Request,
    Scene,
    SceneObject,
    change_one_attribute,
    check_image,
    find_objects,
    load_test_prompts,
    main,
    open_image,
    parse_caption,
    render,
    sample_caption,
    sample_scene,
    training_captions,
    write_caption,
)


def draw(caption: str, seed: int = 0) -> Image.Image:
    return render(sample_scene(parse_caption(caption), np.random.default_rng(seed)))


def put(*objects: SceneObject, background: str = "white") -> Image.Image:
    return render(Scene(background, objects))


# --- captions ---------------------------------------------------------------------------------------------------------

shapes, colours = st.sampled_from(SHAPES), st.sampled_from(list(COLOURS))
backgrounds = st.none() | st.sampled_from(list(BACKGROUNDS))


@st.composite
def requests(draw_from) -> Request:
    """Any request that the grammar can say."""
    background = draw_from(backgrounds)
    if draw_from(st.booleans()):
        count = draw_from(st.integers(1, 4))
        group = Group(draw_from(shapes), draw_from(st.none() | colours), count)
        return Request((group,), None, background, counted=count > 1 or draw_from(st.booleans()))
    one = Group(draw_from(shapes), draw_from(st.none() | colours))
    # Two of a shape can only be told apart by their colours.
    another = st.builds(Group, shapes, st.none() | colours)
    two = draw_from(another.filter(lambda g: g.shape != one.shape or (g.colour and one.colour not in (None, g.colour))))
    return Request(
        (one, two), draw_from(st.none() | st.sampled_from(list(RELATIONS))), background, draw_from(st.booleans())
    )


@given(requests(), st.sampled_from(["", *OPENINGS]))
@settings(deadline=None)
def test_a_written_caption_reads_back(request, opening):
    caption = write_caption(request, opening)
    assert parse_caption(caption) == request
    assert parse_caption(f"  {caption.upper()}.  ") == request


@given(st.lists(st.sampled_from(VOCABULARY), max_size=14).map(" ".join))
@settings(deadline=None)
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
        ("a star and a heart", "two_object"),
        ("three stars", "counting"),
        ("one blue star", "counting"),
        ("an orange star", "colors"),
        ("a star above a heart", "position"),
        ("a red star right of a blue star", "position"),
        ("a red star and a blue heart", "color_attr"),
        ("a red star and a blue star on a black background", "color_attr"),
    ],
)
def test_categories(caption, category):
    assert parse_caption(caption).category == category


@pytest.mark.parametrize(("caption", "word"), [("a red dog", "dog"), ("a réd star", "réd"), ("a star, red", "star,")])
def test_a_word_outside_the_grammar_is_named_and_the_vocabulary_listed(caption, word):
    with pytest.raises(InvalidInput) as caught:
        parse_caption(caption)
    message = str(caught.value)
    assert repr(word) in message
    assert all(known in message for known in (*SHAPES, *COLOURS, *RELATIONS, *BACKGROUNDS, "three"))


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        (None, "empty"),
        (7, "empty"),
        ("star", "number of objects"),
        ("a red", "a shape"),
        ("two star", "shapes"),
        ("a stars", "a shape"),
        ("a star and", "number of objects"),
        ("a star on a", "background colour"),
        ("a star on a red background", "background colour"),
        ("a star on a grey", "'background'"),
        ("a star a heart", "should end before 'a heart'"),
        ("a star and a star", "told apart"),
        ("a red star above a star", "told apart"),
        ("two stars and a heart", "one by one"),
        ("a star " * 1000, "at most 200"),
    ],
)
def test_refusals_say_what_was_expected(caption, says):
    with pytest.raises(InvalidInput, match=says):
        parse_caption(caption)


def test_frozen_test_set():
    rows = load_test_prompts()
    counts = Counter(row["category"] for row in rows)
    assert [counts[category] for category in CATEGORIES] == [80, 99, 80, 94, 100, 100]
    assert len({row["prompt"] for row in rows}) == len(rows) == 553
    assert all(parse_caption(row["prompt"]).category == row["category"] for row in rows)


def test_training_captions_are_none_of_the_test_set():
    held_out = {row["prompt"] for row in load_test_prompts()}
    captions = list(islice(training_captions(np.random.default_rng(0)), 5000))
    assert not held_out.intersection(captions)
    assert {parse_caption(caption).category for caption in captions} == set(CATEGORIES)
    # The filter has work to do, or this test would say nothing.
    rng = np.random.default_rng(0)
    assert held_out.intersection(sample_caption(rng) for _ in range(5000))


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_seed_makes_one_picture():
    caption = "two red stars on a black background"
    assert draw(caption, 3).tobytes() == draw(caption, 3).tobytes()
    assert draw(caption, 3).tobytes() != draw(caption, 4).tobytes()
    assert draw(caption).size == (IMAGE_SIZE, IMAGE_SIZE)


def test_pictures_are_anti_aliased():
    pixels = np.asarray(draw("a red circle on a white background")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 8


def test_the_checker_is_right_on_rendered_scenes_and_rejects_a_changed_attribute():
    rng = np.random.default_rng(2024)
    num_right = num_rejected = 0
    for _ in range(2000):
        request = parse_caption(sample_caption(rng))
        scene = sample_scene(request, rng)
        num_right += check_image(request, render(scene)).correct
        num_rejected += not check_image(request, render(change_one_attribute(scene, request, rng))).correct
    assert num_right >= 0.995 * 2000
    assert num_rejected >= 0.99 * 2000


def test_the_checker_reads_pictures_of_other_sizes():
    for size in (64, 256, 512):
        scene = sample_scene(parse_caption("a red heart below a blue cross"), np.random.default_rng(1))
        assert check_image("a red heart below a blue cross", render(scene, size)).correct


def test_the_checker_forgives_slight_blur_and_noise():
    picture = draw("a red star and a blue heart on a grey background").filter(ImageFilter.GaussianBlur(0.7))
    pixels = np.asarray(picture, np.float32) + np.random.default_rng(0).normal(0, 4, (IMAGE_SIZE, IMAGE_SIZE, 3))
    noisy = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    assert check_image("a red star and a blue heart on a grey background", noisy).correct


# Each is a picture that shows almost, but not quite, what its caption asks for.
def blob() -> Image.Image:
    picture = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUNDS["white"])
    ImageDraw.Draw(picture).polygon(
        [(30, 40), (64, 60), (100, 34), (90, 70), (104, 98), (50, 84), (36, 100)], fill=COLOURS["red"]
    )
    return picture


def stretched_circle() -> Image.Image:
    picture = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUNDS["white"])
    ImageDraw.Draw(picture).ellipse([20, 46, 108, 82], fill=COLOURS["red"])
    return picture


def two_coloured() -> Image.Image:
    left, right = (put(SceneObject("circle", colour, 0.5, 0.5, 0.28)) for colour in ("red", "blue"))
    left.paste(right.crop((64, 0, 128, 128)), (64, 0))
    return left


def touching() -> Image.Image:
    return put(SceneObject("circle", "red", 0.35, 0.5, 0.2), SceneObject("circle", "red", 0.65, 0.5, 0.2))


def touching_colours() -> Image.Image:
    return put(SceneObject("circle", "red", 0.35, 0.5, 0.2), SceneObject("square", "blue", 0.65, 0.5, 0.2))


def off_colour() -> Image.Image:
    picture = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUNDS["white"])
    ImageDraw.Draw(picture).ellipse([30, 30, 98, 98], fill=(0, 255, 255))
    return picture


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))


def empty() -> Image.Image:
    return put()


@pytest.mark.parametrize("caption", ["a red circle", "a circle"])
@pytest.mark.parametrize("picture", [blob, stretched_circle, two_coloured, touching, off_colour, noise, empty])
def test_no_red_circle(picture, caption):
    assert not check_image(caption, picture()).correct


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
    picture = Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    assert not any(check_image(f"a {shape}", picture).correct for shape in SHAPES)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (128, 128, 128)])
def test_plain_pictures_show_nothing(colour):
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
    path = tmp_path / "new folder" / "picture.png"
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
    picture = tmp_path / "picture.png"
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    draw("a star").save(picture)
    cut = tmp_path / "cut.png"
    cut.write_bytes(picture.read_bytes()[:200])
    for arguments in (
        ("check", "a red dog", picture),
        ("check", "a star", tmp_path / "absent.png"),
        ("check", "a star", text),
        ("check", "a star", cut),
        ("check", "a star", tmp_path),
        ("render", "a star", tmp_path / "picture.jpg"),
        ("render", "a star", tmp_path / "folder.png"),
        ("render", "a star", picture, "--seed", -1),
        ("render", "a star", picture, "--seed", "x"),
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
