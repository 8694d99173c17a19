"""The Compare and Explore tabs in a real Chromium, by what a visitor wants to do, on a desktop and on a phone."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from test_app import serve
from test_browser import GRADIOS_OWN, keep, shown_pixels

from golden.judges import JUDGES
from golden.models import Sampling
from golden.ui import page as whole_page
from golden.ui.scoreboard import Judging
from tests.drills.pages import DESKTOP, PHONE, compare, fill, open_tab, wait_done, wait_for_text

pytestmark = pytest.mark.browser

SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
FIRST, SECOND = "#images .arm:nth-child(1) .frame img", "#images .arm:nth-child(2) .frame img"


@pytest.fixture(scope="module")
def url(tiny_shapes) -> Iterator[str]:
    """The page as the app serves it: with a comparison when it opens."""
    quick = replace(tiny_shapes, spec=replace(tiny_shapes.spec, sampling=Sampling("ddim", 4, 5.5)))
    build_ui = whole_page.build_ui
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_page, "build_ui", lambda *given: build_ui(*given, opening=True))
        ui, address = serve(quick)
    yield address
    ui.close(verbose=False)


def fits(page, size: tuple[int, int]) -> bool:
    return page.evaluate("document.documentElement.scrollWidth") <= size[0]


# --- the first screen -------------------------------------------------------------------------------------------------


@SIZES
def test_find_out_whether_golden_noise_helps(open_page, size):
    """Nothing is pressed: what it is, the measured answer, a finished comparison, and the rule that drew it."""
    page = open_page(size)
    page.wait_for_selector(SECOND)
    said = page.inner_text("#intro")
    assert "starts from random noise" in said
    assert "Does it help?" in said
    wait_for_text(page, "#rule", "Drawn by rule, not picked: test prompt ")
    assert re.search(r"(In)?correct|Standard (in)?correct, golden (in)?correct", page.inner_text("#status"))
    assert page.input_value("#seed input") == "0"
    assert shown_pixels(page, FIRST) != shown_pixels(page, SECOND)
    assert fits(page, size)
    keep(page, f"first_screen_{size[0]}")
    prompt = page.input_value("#prompt textarea")  # what is on show is what Compare repeats
    before = shown_pixels(page, SECOND)
    page.click("#compare_button")
    wait_done(page, prompt, 0)
    assert shown_pixels(page, SECOND) == before
    assert page.inner_text("#rule").strip() == ""


@SIZES
def test_see_what_changed_in_the_noise(open_page, size):
    """How it works: this comparison's source noise, change, golden noise, and the steps of both images."""
    page = open_page(size)
    page.wait_for_selector(SECOND)
    assert not page.locator("#how").is_visible()
    page.click("[data-action=how]")
    panel = page.locator("#how")
    panel.wait_for(state="visible")
    assert panel.locator("li img").count() == 3
    assert "seed 0" in panel.inner_text()
    assert page.input_value("#prompt textarea") in panel.inner_text()
    assert panel.locator("tbody tr").count() == 2
    assert panel.locator("thead th").count() >= 4
    assert fits(page, size)
    keep(page, f"how_{size[0]}")
    drawn = panel.locator("li img").first.get_attribute("src")
    compare(page, "a star", 5, 4)
    assert "seed 5" in panel.inner_text()
    assert panel.locator("li img").first.get_attribute("src") != drawn


@SIZES
def test_find_out_what_a_word_means(open_page, size, tiny_shapes, tiny_judges):
    """Every term says what it means to who points at it, tabs to it or taps it; judges say what they may miss."""
    ui, address = serve(tiny_shapes, Judging(tiny_judges, "embedded", dict.fromkeys(JUDGES, 0.5)))
    try:
        page = open_page(size, address=address, has_touch=size == PHONE)
        compare(page, "a star above a heart", 1, 2)
        for term, words in (
            ("#health .term >> text=whiteness", "coarse and fine grain"),
            ("#health .term >> text=cosine", "same direction"),
            ("#health .term >> text=singular values", "patterns"),
            ("#scores .term >> text=AES", "never the prompt"),
            ("#scores .term >> text=PickScore", "may miss where things are"),
            ("#lock .term", "does not change the seed"),
            ("#guidance_scale .term >> nth=0", "prompt pulls"),
            ("#sampler .term >> nth=0", "removes noise"),
            ("#arms .term >> text=shorter", "reads no prompt"),
        ):
            page.locator(term).first.scroll_into_view_if_needed()
            page.locator(term).first.focus()
            page.wait_for_selector("#tip")
            assert words in page.inner_text("#tip"), term
            box = page.locator("#tip").bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= size[0]
        page.keyboard.press("Escape")
        assert page.locator("#tip").count() == 0
        unnamed = page.locator("#npnet dt:not(:has(.term)), #scores th.judge:not(:has(.term)):not(:has(.unseen))")
        assert unnamed.all_inner_texts() == []
    finally:
        ui.close(verbose=False)


# --- asking -----------------------------------------------------------------------------------------------------------


@SIZES
def test_make_three_yellow_stars(open_page, size):
    """By choosing, without typing; then the text is edited, and the lists follow."""
    page = open_page(size)
    page.wait_for_selector(SECOND)
    for name, choice in (("relation", "alone"), ("background", "any background")):
        page.select_option(f"#composer select[name={name}]", choice)
    for name, choice in (("count", "three"), ("colour", "yellow"), ("shape", "star")):
        page.select_option(f"#composer select[name={name}]", choice)
    page.wait_for_function("document.querySelector('#prompt textarea').value == 'three yellow stars'")
    page.click("#compare_button")
    wait_done(page, "three yellow stars", 0)
    fill(page, "#prompt", "two red hearts on a black background")
    for name, choice in (("count", "two"), ("colour", "red"), ("shape", "heart"), ("background", "black")):
        page.wait_for_function(
            "([n, c]) => document.querySelector(`#composer select[name=${n}]`).value == c", arg=[name, choice]
        )
    assert fits(page, size)


@SIZES
def test_correct_a_misspelt_word_where_it_stands(open_page, size):
    """Before anything is compared, and without reading the vocabulary in an error."""
    page = open_page(size)
    fill(page, "#prompt", "three yelow strs ")
    page.click(".prompt-help button[data-with=yellow]")
    page.wait_for_function("document.querySelector('#prompt textarea').value == 'three yellow strs '")
    page.click(".prompt-help button[data-with=stars]")
    page.wait_for_function("document.querySelector('#prompt textarea').value == 'three yellow stars '")
    page.wait_for_selector(".prompt-help", state="detached")
    page.click("#compare_button")
    page.wait_for_url("**three+yellow+stars**")


def test_a_refused_request_leaves_no_image_that_seems_to_be_its_own(open_page):
    page = open_page()
    compare(page, "a star", 1, 2)
    opacity = "selector => Number(getComputedStyle(document.querySelector(selector)).opacity)"
    assert page.evaluate(opacity, "#images .frame") == 1
    fill(page, "#prompt", "a dragon")
    page.click("#compare_button")
    wait_for_text(page, "#status", "The word 'dragon' is outside")
    for part in ("#images .frame", "#judged", "#npnet"):
        page.wait_for_function(f"({opacity})('{part}') < 0.5")
    compare(page, "a heart", 1, 2)
    page.wait_for_function(f"({opacity})('#images .frame') == 1")


def test_reroll_only_what_is_not_locked(open_page):
    page = open_page()
    compare(page, "a star", 3, 2)
    page.click("#lock input")
    page.click("#reroll_button")
    wait_for_text(page, "#status", "The seed is locked")
    page.keyboard.press("r")
    page.wait_for_timeout(500)
    assert page.input_value("#seed input") == "3"
    page.click("#lock input")
    page.click("#reroll_button")
    page.wait_for_function("document.querySelector('#seed input').value != '3'")
    wait_done(page, "a star", page.input_value("#seed input"))


# --- more than two ----------------------------------------------------------------------------------------------------


@SIZES
def test_compare_four_noises(open_page, size, tiny_shapes, tiny_judges):
    """Four images of one seed, a score of each, a slider between any two, and a link that brings them back."""
    ui, address = serve(tiny_shapes, Judging(tiny_judges, "embedded", dict.fromkeys(JUDGES, 0.5)))
    try:
        page = open_page(size, address=address)
        for arm in ("norm", "mismatched"):
            page.check(f"#arms input[name={arm}]")
        compare(page, "a star", 7, 2)
        names = page.locator("#images .arm:visible .arm-name").all_inner_texts()
        assert names == ["Standard noise", "Golden noise", "Shorter noise", "Golden, wrong prompt"]
        images = [shown_pixels(page, f"#images .arm:nth-child({place}) .frame img") for place in range(1, 5)]
        assert len(set(images)) == 4
        heads = page.locator("#scores thead th").all_inner_texts()[1:]
        assert heads == ["standard", "golden", "shorter", "wrong prompt"]
        assert re.search(r"won most scores, \d of 6", page.inner_text("#status"))
        assert fits(page, size)
        keep(page, f"four_{size[0]}")

        page.click("[data-view=slide]")
        page.select_option("#pick select[data-side=a]", label="Shorter noise")
        page.select_option("#pick select[data-side=b]", label="Standard noise")
        shown = page.locator("#images .arm .frame:visible")
        assert shown.count() == 2
        assert page.locator("#images .arm.norm .frame").is_visible()
        assert page.locator("#images .arm.standard .frame").is_visible()
        box = page.locator("#slider").bounding_box()
        page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.2 * box["height"])
        assert page.get_attribute("#slider .slider", "aria-valuenow") == "25"
        page.keyboard.press("ArrowRight")
        assert page.get_attribute("#slider .slider", "aria-valuenow") == "27"

        again = open_page(size, address=address, query="?" + page.url.split("?")[1])
        wait_done(again, "a star", 7)
        again_images = [shown_pixels(again, f"#images .arm:nth-child({place}) .frame img") for place in range(1, 5)]
        assert again_images == images
    finally:
        ui.close(verbose=False)


def test_a_fifth_noise_and_none_are_refused_in_a_sentence(open_page):
    page = open_page()
    for arm in ("norm", "mismatched", "random"):
        page.check(f"#arms input[name={arm}]")
    page.click("#compare_button")
    wait_for_text(page, "#status", "At most 4 noises are compared at once, got 5.")
    for arm in ("standard", "npnet", "norm", "mismatched", "random"):
        page.uncheck(f"#arms input[name={arm}]")
    page.click("#compare_button")
    wait_for_text(page, "#status", "The arms must be a list of names")


def test_only_what_the_model_can_do_is_offered(open_page, tiny_shapes):
    ui, address = serve(replace(tiny_shapes, npnet=None, verifier=None))
    try:
        page = open_page(address=address)
        names = [box.get_attribute("name") for box in page.locator("#arms input").all()]
        assert names == ["standard", "inversion", "repaint", "best_norm"]
        assert "No NPNet is known" in page.inner_text("#intro")
        page.check("#arms input[name=repaint]")
        compare(page, "a star", 1, 2)
        assert page.locator("#images .arm:visible .arm-name").all_inner_texts() == ["Standard noise", "Repainted noise"]
    finally:
        ui.close(verbose=False)


# --- many seeds -------------------------------------------------------------------------------------------------------


@SIZES
def test_see_whether_it_holds_for_many_seeds(open_page, size):
    """Standard above golden, counts and diversity in figures, and the difference with its interval."""
    page = open_page(size)
    fill(page, "#num_inference_steps", 1)
    open_tab(page, "Explore")
    fill(page, "#grid_prompts", "a star")
    fill(page, "#grid_values", "0..7")
    page.click("#grid_button")
    wait_for_text(page, "#grid_status", "8 comparisons")
    rows = page.locator("#grid_summary tbody tr")
    assert rows.count() == 2
    standard, golden = (row.inner_text() for row in rows.all())
    assert re.search(r"standard\s+\d of 8\s+–\s+\d+\.\d %", standard)
    assert re.search(r"golden\s+\d of 8\s+[+−]\d+\.\d points \[[+−]\d+\.\d,\s[+−]\d+\.\d\]\s+\d+\.\d %", golden)
    assert "over 8 seeds of this one prompt" in page.inner_text("#grid_summary")
    assert page.locator("#grid img").is_visible()
    assert not page.locator("#grid_pairs img").is_visible()
    keep(page, f"seeds_{size[0]}")
    page.get_by_label("noises side by side").check()
    page.locator("#grid_pairs img").wait_for(state="visible")
    assert not page.locator("#grid img").is_visible()
    assert fits(page, size)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_what_is_opened_and_filled(open_page, scheme):
    """How it works, four noises in the slider, a misspelt word, and the table over a grid."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page, found = open_page(color_scheme=scheme), {}

    def check(place: str) -> None:
        results = axe.Axe().run(page, context={"exclude": [[selector] for selector in GRADIOS_OWN]})
        for violation in results.response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                found[place, violation["id"]] = [node["html"][:160] for node in violation["nodes"]]

    page.wait_for_selector(SECOND)
    page.click("[data-action=how]")
    for arm in ("norm", "mismatched"):
        page.check(f"#arms input[name={arm}]")
    compare(page, "a star", 1, 1)
    page.click("[data-view=slide]")
    page.fill("#prompt textarea", "three yelow stars")
    page.wait_for_selector(".prompt-help")
    check("Compare")
    fill(page, "#prompt", "a star")
    open_tab(page, "Explore")
    fill(page, "#grid_prompts", "a star")
    fill(page, "#grid_values", "0, 1")
    page.click("#grid_button")
    wait_for_text(page, "#grid_status", "2 comparisons")
    check("Explore")
    assert not found
