"""What a visitor wants of the page beyond one comparison, in a real Chromium, at a desktop's size and at a phone's."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from test_app import find_free_port, serve
from test_browser import GOLDEN, GRADIOS_OWN, keep, shown_pixels, url  # noqa: F401

from eval import short_suite
from golden import settings
from golden.compare import run_comparison
from golden.drawing import to_png
from golden.models import MODELS
from golden.request import CompareRequest
from golden.ui import app
from golden.ui.switching import Switch
from golden.ui.tabs import blind
from tests.drills.pages import DESKTOP, PHONE, PROMPT, SECONDS, compare, fill, open_tab, wait_done, wait_for_text

pytestmark = pytest.mark.browser

SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
HISTORY_LENGTH = "(localStorage.getItem('golden-history') || '').length"  # encrypted, it grows with every comparison
DROP = """async ([bytes, name]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name));
    const target = document.querySelector("h1");
    for (const type of ["dragover", "drop"]) {
        target.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: data }));
    }
}"""


@pytest.fixture
def reopen(open_page, monkeypatch) -> Callable:
    """Open the page, and open it again in the same browser: as after a refresh, or on the next day."""

    def open_it(size: tuple[int, int], **options):
        return open_page(size, has_touch=size == PHONE, is_mobile=size == PHONE, **options)

    return open_it


def wait_for_votes(page, number: int) -> None:
    page.wait_for_function(
        "n => document.querySelector('#tally')?.innerText.replace(/\\s+/g, ' ').includes(n)", arg=f"of {number} "
    )


# --- blind ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def never_alike(monkeypatch) -> None:
    """The tiny model's images are nearly alike."""
    monkeypatch.setattr(blind, "MIN_DISTANCE", 0.0)


@SIZES
def test_vote_ten_times_with_one_hand(reopen, never_alike, size):
    """Keys alone, or one thumb alone: after the first pair every vote brings the next; the votes survive a refresh."""
    page = reopen(size)
    fill(page, "#num_inference_steps", 1)
    open_tab(page, "Blind")
    page.click("#blind_button")
    for number in range(1, 11):
        page.wait_for_selector("#vote_left:not([disabled])")
        assert "golden" not in page.inner_text("#blind_images").lower()
        if size == PHONE:
            box = page.locator("#vote_right").bounding_box()
            assert box["y"] > PHONE[1] / 2, "out of the thumb's reach"
            assert box["y"] + box["height"] <= PHONE[1]
            assert box["height"] >= 44
            page.tap("#vote_right")
        else:
            page.keyboard.press("ArrowLeft")
        wait_for_votes(page, number)
    page.wait_for_selector("#tally figure")
    keep(page, f"blind_{size[0]}")
    assert "Ranking by your votes" in page.inner_text("#tally")
    page.wait_for_selector("#vote_left:not([disabled])")
    page.reload()
    page.wait_for_selector("#compare_button")
    open_tab(page, "Blind")
    wait_for_votes(page, 10)
    with page.expect_download() as download:
        page.click("#blind_csv")
    assert Path(download.value.path()).read_text().count("\n") == 11


def test_pairs_that_look_alike_are_skipped_and_counted(open_page, monkeypatch):
    distances = iter([0.01, 0.02, 0.5, 0.5])
    monkeypatch.setattr(blind, "measure_distance", lambda images: next(distances))
    page = open_page()
    fill(page, "#num_inference_steps", 1)
    open_tab(page, "Blind")
    page.click("#blind_button")
    page.wait_for_selector("#vote_left:not([disabled])")
    page.keyboard.press("T")  # as with Caps Lock
    page.wait_for_function("document.querySelector('#tally')?.innerText.match(/skipped as alike\\s+2/)")
    page.wait_for_selector("#vote_left:not([disabled])")  # and the next pair is there
    assert "less than 5% (root mean square" in page.inner_text("#blind")


def test_vote_on_any_two_noises(open_page, never_alike):
    page = open_page()
    fill(page, "#num_inference_steps", 1)
    open_tab(page, "Blind")
    page.click("#blind_arms button.label-wrap")
    page.click("#blind_first input")
    page.get_by_role("option", name="golden noise", exact=True).click()
    page.click("#blind_button")
    wait_for_text(page, "#blind_status", "Both images would be from golden noise")
    page.click("#blind_first input")
    page.get_by_role("option", name="randomly changed noise").click()
    page.click("#blind_button")
    page.wait_for_selector("#vote_left:not([disabled])")
    page.keyboard.press("ArrowRight")
    wait_for_text(page, "#reveal", "randomly changed noise")


def wait_for_longer_history(page, before: int) -> int:
    """The browser keeps a comparison a moment after its images are there. Returns: the length of what it keeps."""
    page.wait_for_function(f"before => {HISTORY_LENGTH} > before", arg=before)
    return page.evaluate(HISTORY_LENGTH)


# --- nothing is lost ------------------------------------------------------------------------------------------------


@SIZES
def test_reopen_yesterdays_comparison(reopen, size):
    page = reopen(size)
    empty = page.evaluate(HISTORY_LENGTH)
    compare(page, "a star", 1, 1)
    pixels = shown_pixels(page, GOLDEN)
    one = wait_for_longer_history(page, empty)
    compare(page, "two hearts", 2, 1)
    wait_for_longer_history(page, one)
    other = page.context.new_page()  # a new visit: nothing in the address, nothing in the session
    other.goto(page.url.split("?")[0])
    page.close()
    other.wait_for_selector("#compare_button")
    open_tab(other, "History")
    wait_for_text(other, "#history_status", "2 of 2")
    keep(other, f"history_{size[0]}")
    other.locator("#gallery button.thumbnail-item", has_text="a star").click()
    wait_done(other, "a star", 1)
    assert shown_pixels(other, GOLDEN) == pixels
    open_tab(other, "History")
    wait_for_text(other, "#history_status", "3 of 3")
    other.click("#history_forget")
    wait_for_text(other, "#history_status", "No comparisons yet")
    other.reload()
    other.wait_for_selector("#compare_button")
    open_tab(other, "History")
    other.wait_for_timeout(500)
    assert other.locator("#gallery button.thumbnail-item").count() <= 1  # what the address makes again


def test_a_refresh_while_it_runs_makes_the_comparison_again(open_page):
    page = open_page()
    fill(page, "#prompt", "a star")
    fill(page, "#seed", 9)
    fill(page, "#num_inference_steps", 60)
    page.click("#compare_button")
    page.wait_for_selector("#status .running")
    page.wait_for_function("new URLSearchParams(location.search).get('seed') === '9'")
    assert page.locator("#status .running").count()
    page.reload()
    page.wait_for_selector("#status")
    wait_done(page, "a star", 9)


def test_a_refresh_while_a_grid_runs_says_that_it_stopped(open_page):
    page = open_page()
    fill(page, "#num_inference_steps", 100)
    open_tab(page, "Explore")
    page.click("#grid_button")
    page.wait_for_selector("#grid_status .running")
    page.reload()
    page.wait_for_selector("#compare_button")
    assert "reloaded while the grid ran" in page.inner_text(".reloaded")
    page.click(".reloaded button")
    assert not page.locator(".reloaded").count()


@SIZES
def test_drop_a_picture_from_last_week(reopen, tiny_shapes, size, tmp_path):
    """Anywhere, on any tab, with every part of the page closed; what is no PNG of ours is refused in a sentence."""
    request = CompareRequest(prompt="three yellow stars", seed=12, num_inference_steps=2)
    comparison = run_comparison(request, tiny_shapes)
    data = to_png(settings.label_images(comparison, tiny_shapes.spec)["npnet"])
    page = reopen(size)
    open_tab(page, "About")
    page.evaluate(DROP, [list(data), "old.png"])
    wait_done(page, "three yellow stars", 12)
    assert page.locator("#compare_button").is_visible()
    page.evaluate(DROP, [list(b"no image"), "notes.txt"])
    wait_for_text(page, "#status", "not a readable PNG")


def test_a_download_says_what_it_is(open_page):
    page = open_page()
    compare(page, "a red star", 4, 1)
    page.hover(GOLDEN)
    with page.expect_download() as download:
        page.locator("#images .golden a[download]").first.click()
    assert re.fullmatch(r"golden-a-red-star-4-npnet\.png", download.value.suggested_filename)


def test_letters_are_keys_again_after_enter(open_page):
    page = open_page()
    fill(page, "#num_inference_steps", 1)
    page.locator("#prompt textarea").fill(PROMPT)
    page.keyboard.press("Enter")
    wait_done(page, PROMPT, page.input_value("#seed input"))
    page.keyboard.down("f")
    assert page.locator("#images .arm.golden").is_visible()
    assert not page.locator("#images .arm.standard").is_visible()
    page.keyboard.up("f")
    assert page.input_value("#prompt textarea") == PROMPT
    page.click("#prompt textarea")
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.wait_for_function("document.querySelector('#seed input').value != '3'")
    assert page.input_value("#prompt textarea") == PROMPT


def test_a_link_without_a_prompt_or_with_unknown_names_says_so(open_page):
    page = open_page(query="?seed=5&steps=10&cfg=7")
    wait_for_text(page, "#status", "Unknown settings 'steps', 'cfg': the settings are model, prompt, seed, ")
    page = open_page(query="?seed=5")
    wait_for_text(page, "#status", "The prompt is empty")


# --- benchmark --------------------------------------------------------------------------------------------------------


def test_the_models_own_report_opens_with_the_tab(open_page, tiny_shapes, tmp_path, monkeypatch):
    (tmp_path / "shapes.html").write_text("<h1>Measured</h1><script>parent.ran=1</script>")
    monkeypatch.setattr(short_suite, "STORED", tmp_path)
    monkeypatch.setitem(MODELS, "shapes", tiny_shapes.spec)
    ui, address = serve(tiny_shapes)
    try:
        page = open_page(address=address)
        open_tab(page, "Benchmark")
        page.frame_locator("iframe.report").get_by_role("heading", name="Measured").wait_for()
        assert page.evaluate("window.ran") is None
        assert "This model on the whole test set" in page.input_value("#reports input")
    finally:
        ui.close(verbose=False)


@SIZES
def test_see_how_sure_the_short_suite_is_while_it_runs(reopen, size):
    page = reopen(size)
    fill(page, "#num_inference_steps", 1)
    open_tab(page, "Benchmark")
    fill(page, "#suite_prompts", 32)
    page.click("#suite_button")
    # Both at once: from here, the suite might finish between one question and the other.
    page.wait_for_function(
        "['#report .gain .at', '#suite_status .running'].every(part => document.querySelector(part))"
    )
    wait_for_text(page, "#suite_status", "64 images.")
    keep(page, f"benchmark_{size[0]}")
    label = page.locator("#report .gain .span").get_attribute("aria-label")
    assert re.fullmatch(r"golden: [+-][\d.]+ points, 95 % interval [+-][\d.]+ to [+-][\d.]+", label)
    said = page.inner_text("#report")
    for words in ("over 32 prompts", "count prompts, not images", "Holm's method", "A tie is not a win"):
        assert words in said
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_at_another_size_the_page_says_that_nothing_is_checked(open_page):
    page = open_page()
    page.click("#size button")
    fill(page, "#height", 96)
    compare(page, seed=5, steps=1)
    wait_for_text(page, "#status", "At 64 x 96 nothing is checked")
    fill(page, "#height", "")
    compare(page, seed=6, steps=1)
    assert "nothing is checked" not in page.inner_text("#status")


# --- a phone ----------------------------------------------------------------------------------------------------------


def test_look_at_a_grid_on_a_phone(reopen):
    """At its own size, moved by a finger within its frame, and not the page with it."""
    page = reopen(PHONE)
    fill(page, "#num_inference_steps", 1)
    open_tab(page, "Explore")
    fill(page, "#grid_prompts", "a star")
    page.click("#grid_button")
    wait_for_text(page, "#grid_status", "4 comparisons")
    keep(page, "explore_390")
    wide = page.evaluate(
        """() => {
            const image = document.querySelector("#grid img");
            let frame = image.parentElement;
            while (frame && frame.scrollWidth <= frame.clientWidth) frame = frame.parentElement;
            frame.scrollLeft = 100;
            return [image.clientWidth, image.naturalWidth, frame.scrollLeft, document.documentElement.scrollWidth];
        }"""
    )
    assert wide[0] == wide[1] > PHONE[0]
    assert wide[2:] == [100, PHONE[0]]


def test_hints_for_keys_are_where_there_are_keys(reopen):
    for size in (DESKTOP, PHONE):
        page = reopen(size)
        page.wait_for_selector("#status", state="attached")
        assert page.locator("#status .keys").is_visible() == (size == DESKTOP)
        open_tab(page, "Blind")
        assert page.locator("#blind .keys").is_visible() == (size == DESKTOP)
        assert page.locator("#blind .for-touch").is_visible() == (size == PHONE)


def test_flip_with_a_finger(reopen):
    page = reopen(PHONE)
    compare(page, steps=1)
    page.evaluate("golden.setView('flip')")
    box = page.locator("#images .standard .frame").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    page.wait_for_selector("#images .arm.golden", state="visible")
    touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": y - 60}]})
    page.wait_for_timeout(300)
    assert page.locator("#images .arm.golden").is_visible()  # the finger's move is not taken for scrolling
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_selector("#images .arm.standard", state="visible")


@SIZES
def test_the_flow_is_drawn_for_the_width(reopen, size):
    page = reopen(size)
    open_tab(page, "About")
    shown = [svg.bounding_box() for svg in page.locator("svg.flow").all() if svg.is_visible()]
    keep(page, f"about_{size[0]}")
    assert len(shown) == 1
    assert shown[0]["x"] >= 0
    assert shown[0]["x"] + shown[0]["width"] <= size[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@SIZES
def test_axe_finds_nothing_serious_once_the_tabs_are_full(reopen, never_alike, size, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = reopen(size, color_scheme=scheme)
    compare(page, steps=1)
    found = {}

    def look(tab: str) -> None:
        results = axe.Axe().run(page, context={"exclude": [[selector] for selector in GRADIOS_OWN]})
        for violation in results.response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                found[tab, violation["id"]] = [node["html"][:160] for node in violation["nodes"]]

    open_tab(page, "Blind")
    page.click("#blind_button")
    page.wait_for_selector("#vote_left:not([disabled])")
    page.click("#vote_left")
    wait_for_text(page, "#reveal", "golden noise")
    page.wait_for_selector("#vote_left:not([disabled])")
    look("Blind")
    open_tab(page, "History")
    page.wait_for_selector("#gallery button.thumbnail-item")
    look("History")
    open_tab(page, "Benchmark")
    fill(page, "#suite_prompts", 8)
    page.click("#suite_button")
    wait_for_text(page, "#suite_status", "images.")
    look("Benchmark")
    open_tab(page, "About")
    look("About")
    assert not found


# --- another model ----------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Ends an app that would go on for ever."""


@pytest.fixture
def two_models_url(tiny_sdxl_folder, tmp_path, monkeypatch) -> Iterator[str]:
    """The app with two models to choose from, which ends with the test."""
    folders = [str(shutil.copytree(tiny_sdxl_folder, tmp_path / name)) for name in ("first", "second")]
    stop, wait = threading.Event(), Switch.wait

    def wait_or_stop(switch: Switch) -> None:
        while not switch._asked.wait(0.2):
            if stop.is_set():
                raise Stopped
        wait(switch)

    monkeypatch.setattr(Switch, "wait", wait_or_stop)
    port = find_free_port()
    options = app.AppOptions(models=tuple(folders), port=port, device="cpu", judges=("none",))

    def serve_until_stopped() -> None:
        with suppress(Stopped):
            app.serve(options, "eval.short_suite")

    thread = threading.Thread(target=serve_until_stopped, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}/"
    stop.set()
    thread.join(60)


def test_try_another_model_without_leaving_the_page(open_page, two_models_url):
    wait_until_answered(two_models_url)
    page = open_page(address=two_models_url)
    assert page.inner_text(".model-name") == "first"
    compare(page, "a lighthouse", 3, 1)
    page.click("#model_choice input")
    page.get_by_role("option", name="second").click()
    wait_for_text(page, "#model_status", "Loading second, for everybody on this page")
    page.wait_for_function("document.querySelector('.model-name')?.textContent === 'second'")
    page.wait_for_selector("#compare_button")
    compare(page, "a lighthouse", 3, 1)


def wait_until_answered(address: str) -> None:
    """Wait for the page before the page."""
    for _ in range(SECONDS):
        try:
            httpx.get(address, timeout=SECONDS)
            return
        except httpx.HTTPError:
            time.sleep(1)
