"""The page in a real Chromium, used as a person uses it. GOLDEN_SCREENSHOTS=FOLDER keeps screenshots of it."""

import os
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from test_app import serve

from golden import settings
from golden.compare import run_comparison
from golden.drawing import to_png
from golden.judges import ALL_JUDGES
from golden.request import CompareRequest
from golden.ui.scoreboard import Judging
from tests.conftest import break_judge
from tests.drills.injection import PAYLOADS, try_payloads
from tests.drills.pages import DESKTOP, PHONE, PROMPT, SECONDS, compare, fill, open_tab, wait_done, wait_for_text

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(tiny_shapes) -> Iterator[str]:
    ui, address = serve(tiny_shapes)
    yield address
    ui.close(verbose=False)


def keep(page, name: str) -> None:
    """A screenshot, where they are wanted."""
    if folder := os.environ.get("GOLDEN_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def shown_pixels(page, selector: str) -> str:
    """An image as the page shows it, as a data URL."""
    page.wait_for_function("s => document.querySelector(s)?.complete", arg=selector)
    return page.evaluate(
        """selector => {
            const image = document.querySelector(selector);
            const canvas = Object.assign(document.createElement("canvas"),
                {width: image.naturalWidth, height: image.naturalHeight});
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();
        }""",
        selector,
    )


STANDARD, GOLDEN = "#images .standard .frame img", "#images .golden .frame img"


def test_a_comparison_fits_one_screen(open_page):
    page = open_page()
    compare(page)
    keep(page, "desktop")
    for selector in (STANDARD, GOLDEN):
        image = page.locator(selector)
        assert image.get_attribute("src").endswith(".png")
        assert image.bounding_box()["width"] > 300
    for arm in ("standard", "golden"):
        assert "asked: 1 red circle and 1 blue square" in page.inner_text(f"#images .arm.{arm} .verdict")
    figures = page.inner_text("#figures")
    assert re.search(r"NPNet\s+[\d.,]+ ms", figures)
    assert re.search(r"overhead per image\s+[\d.]+ %", figures)
    height, width = page.evaluate("[document.documentElement.scrollHeight, document.documentElement.scrollWidth]")
    assert height <= DESKTOP[1]
    assert width <= DESKTOP[0]


def test_a_phone_needs_no_sideways_scrolling(open_page):
    page = open_page(PHONE)
    compare(page)
    keep(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    for tab in ("Explore", "Blind", "History", "Benchmark", "About"):
        open_tab(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0], tab
        for box in (words.bounding_box() for words in page.locator("p, dd, button.primary").all()):
            assert not box or box["x"] + box["width"] <= PHONE[0], tab


@pytest.fixture
def judged_url(tiny_shapes, tiny_judges) -> Iterator[str]:
    """A page whose images are scored, and on which one judge is unavailable."""
    break_judge(tiny_judges, "HPSv2", "There is <img src=x onerror=window.ran=1> no HPSv2 here.")
    ui, address = serve(tiny_shapes, Judging(tiny_judges, "embedded", dict.fromkeys(ALL_JUDGES, 0.5)))
    yield address
    ui.close(verbose=False)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_scores_appear_beside_the_images(open_page, judged_url, size):
    page = open_page(size, address=judged_url)
    assert "Embedded judges" in page.inner_text("#scores")
    compare(page)
    page.wait_for_function("document.querySelector('#scores').textContent.includes('of 5')")
    page.locator("#scores").scroll_into_view_if_needed()
    keep(page, f"scores_{size[0]}")
    rows = [row.inner_text().split() for row in page.locator("#scores tbody tr").all()]
    assert [row[0] for row in rows] == [*ALL_JUDGES, "exact"]
    numbers = [cell for row in rows for cell in row if re.fullmatch(r"−?[0-9]+[.][0-9]+", cell)]
    assert len(numbers) >= 2 * 5
    assert "unavailable There is <img src=x" in page.inner_text("#scores .unavailable td").replace("\n", " ")
    assert page.evaluate("window.ran") is None
    assert page.locator("#scores .track").count() == 5
    assert re.search("golden won [0-5] of 5 scores, in", page.inner_text("#status"))
    height, width = page.evaluate("[document.documentElement.scrollHeight, document.documentElement.scrollWidth]")
    assert width <= size[0]
    if size == DESKTOP:
        assert height <= DESKTOP[1]
    for cell in page.locator("#scores :is(th, td, p)").all():
        box, fits = cell.bounding_box(), cell.evaluate("cell => cell.scrollWidth <= cell.clientWidth + 1")
        assert box["x"] + box["width"] <= size[0]
        assert fits, cell.inner_text()
    open_tab(page, "History")
    page.wait_for_selector("#gallery button.thumbnail-item")
    assert re.search("golden [0-5] of 5", page.inner_text("#gallery"))


def test_stop_while_judges_score(open_page, tiny_shapes, tiny_judges):
    """The third judge waits until the page has stopped: so nothing depends on speed."""
    go_on = threading.Event()

    def wait(loader):
        go_on.wait(SECONDS)
        time.sleep(1)
        return loader()

    for name, loader in list(tiny_judges._loaders.items())[2:]:
        tiny_judges._loaders[name] = partial(wait, loader)
    ui, address = serve(tiny_shapes, Judging(tiny_judges, "embedded"))
    try:
        page = open_page(address=address)
        fill(page, "#num_inference_steps", 2)
        page.click("#compare_button")
        page.wait_for_function("document.querySelector('#status').textContent.includes('Scored by 2 of 6')")
        assert page.locator(STANDARD).is_visible()  # the images do not wait for the scores
        page.click("#stop_button")
        page.wait_for_function("document.querySelector('#status').textContent.includes('Stopped')")
        page.wait_for_timeout(500)
        go_on.set()
        page.wait_for_timeout(3000)
        assert len(tiny_judges._resident) <= 4
        compare(page)
        assert "of 6 scores" in page.inner_text("#status")
    finally:
        ui.close(verbose=False)


def test_keys(open_page):
    page = open_page()
    compare(page, steps=20)  # long enough to be seen running
    page.evaluate("document.activeElement.blur()")
    golden_arm = page.locator("#images .arm.golden")
    page.keyboard.down("f")
    assert golden_arm.is_visible()
    assert not page.locator("#images .arm.standard").is_visible()
    page.keyboard.up("f")
    assert not golden_arm.is_visible()

    page.keyboard.press("ArrowRight")  # the first arrow opens the slider
    handle = page.locator("#slider [data-testid=slider]")
    handle.wait_for(state="visible")
    page.wait_for_timeout(500)
    before = handle.bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    assert handle.bounding_box()["x"] > before + 2
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_timeout(200)
    assert handle.bounding_box()["x"] < before

    page.keyboard.press("r")
    page.wait_for_function("document.querySelector('#seed input').value != '3'")
    seed = page.input_value("#seed input")
    wait_done(page, PROMPT, seed)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Enter")
    page.wait_for_selector("#status .running")
    wait_done(page, PROMPT, seed)
    assert page.input_value("#seed input") == seed

    page.click("#prompt textarea")
    page.keyboard.press("Control+End")  # a click leaves the caret where it hit
    page.keyboard.type(" r f")  # letters are letters where one writes
    assert page.input_value("#prompt textarea").endswith(" r f")
    assert page.input_value("#seed input") == seed


def test_stop(open_page, tiny_shapes, monkeypatch):
    forward = tiny_shapes.pipeline.unet.forward

    def slow_forward(*args, **kwargs):
        time.sleep(0.1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(tiny_shapes.pipeline.unet, "forward", slow_forward)
    page = open_page()
    fill(page, "#num_inference_steps", 200)
    page.click("#compare_button")
    page.wait_for_function("document.querySelector('#status').textContent.match(/Step [0-9]+ of 200/)")
    keep(page, "running")
    page.click("#stop_button")
    page.wait_for_function("document.querySelector('#status').textContent.includes('Stopped')")
    assert tiny_shapes.lock.acquire(timeout=10)
    tiny_shapes.lock.release()
    assert page.locator("#compare_button").is_visible()


def test_images_of_another_size(open_page):
    """The size goes into the link, from which the page opens it again; empty is the native size again."""
    page = open_page()
    page.click("#size button")
    fill(page, "#height", 96)
    fill(page, "#width", 128)
    compare(page, seed=5)
    keep(page, "size")
    shape = "s => { const img = document.querySelector(s); return [img.naturalWidth, img.naturalHeight]; }"
    assert page.evaluate(shape, STANDARD) == page.evaluate(shape, GOLDEN) == [128, 96]
    query = page.evaluate("location.search")
    again = open_page(query=query)
    wait_done(again, PROMPT, 5)
    assert again.evaluate(shape, GOLDEN) == [128, 96]
    assert shown_pixels(again, GOLDEN) == shown_pixels(page, GOLDEN)
    fill(page, "#height", "")
    fill(page, "#width", "")
    compare(page, seed=6)
    assert page.evaluate(shape, GOLDEN) == [64, 64]
    fill(page, "#height", 4000)
    page.click("#compare_button")
    wait_for_text(page, "#status", "The height must be at most 128 pixels, twice the native size, got 4000.")


def test_a_controlnet_takes_a_control_image(open_page, tiny_steered, edges, tmp_path):
    """The status asks for one; what is no image is refused; both arms follow the one that is there."""
    edges.save(tmp_path / "edges.png")
    edges.rotate(180).save(tmp_path / "turned.webp")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    ui, address = serve(tiny_steered)
    try:
        page = open_page(address=address)
        picked = page.locator("#ask input[type=file]")
        page.click("#compare_button")
        wait_for_text(page, "#status", "needs a control image")
        picked.set_input_files(tmp_path / "broken.jpg")
        wait_for_text(page, "#status", "not a readable PNG, JPEG or WebP file")
        seen = []
        for name in ("edges.png", "turned.webp"):
            picked.set_input_files(tmp_path / name)
            wait_for_text(page, "#status", "Control image loaded")
            page.wait_for_selector("#control img")
            compare(page)
            seen.append((shown_pixels(page, STANDARD), shown_pixels(page, GOLDEN)))
        keep(page, "controlnet")
        assert len({*seen[0], *seen[1]}) == 4
        fill(page, "#num_inference_steps", 200)
        page.click("#compare_button")
        page.wait_for_function("document.querySelector('#status').textContent.match(/Step [0-9]+ of 200/)")
        page.click("#stop_button")
        wait_for_text(page, "#status", "Stopped")
        assert tiny_steered.lock.acquire(timeout=10)
        tiny_steered.lock.release()
    finally:
        ui.close(verbose=False)


def test_a_link_opens_the_same_comparison(open_page):
    page = open_page()
    compare(page, seed=11)
    page.wait_for_url("**seed=11**")
    images = [shown_pixels(page, selector) for selector in (STANDARD, GOLDEN)]
    other = open_page(query="?" + page.url.split("?")[1])
    wait_done(other, PROMPT, 11)
    assert [shown_pixels(other, selector) for selector in (STANDARD, GOLDEN)] == images
    assert other.input_value("#seed input") == "11"


def test_bad_input_gets_one_sentence_in_the_page(open_page):
    page = open_page()
    for prompt, sentence in (("a dragon", "The word 'dragon' is outside"), ("", "The prompt is empty")):
        fill(page, "#prompt", prompt)
        page.click("#compare_button")
        page.wait_for_function("s => document.querySelector('#status').textContent.includes(s)", arg=sentence)
    linked = open_page(query="?prompt=a+star&num_inference_steps=10000")
    linked.wait_for_function("document.querySelector('#status').textContent.includes('must be a whole number')")
    linked = open_page(query="?prompt=a+star&steps=10")
    wait_for_text(linked, "#status", "Unknown setting 'steps': the settings are model, prompt, seed, ")
    page.click("#share button.label-wrap")
    fill(page, "#json", '{"prompt": "a star", "cfg": 7}')
    page.click("#apply_json")
    wait_for_text(page, "#status", "Unknown setting 'cfg'")


def test_settings_come_back_from_json_and_png(open_page, tiny_shapes, tmp_path):
    page = open_page()
    page.click("#share button.label-wrap")
    request = CompareRequest(
        prompt="three yellow stars", seed=77, num_inference_steps=2, guidance_scale=4.5, sampler="euler", strength=0.5
    )
    fill(page, "#json", settings.to_json(request, tiny_shapes.spec))
    page.click("#apply_json")
    wait_done(page, "three yellow stars", 77)
    assert page.input_value("#prompt textarea") == "three yellow stars"
    assert page.input_value("#seed input") == "77"

    comparison = run_comparison(CompareRequest(prompt="a star", seed=5, num_inference_steps=2), tiny_shapes)
    labelled = settings.label_images(comparison, tiny_shapes.spec)
    file = tmp_path / "an image.png"
    file.write_bytes(to_png(labelled["npnet"]))
    page.locator("#share input[type=file]").set_input_files(file)
    wait_done(page, "a star", 5)
    assert page.input_value("#prompt textarea") == "a star"


def test_dark_and_light(open_page):
    page = open_page(color_scheme="dark")
    assert page.evaluate("document.body.classList.contains('dark')")
    keep(page, "dark")
    page.click("[data-action=theme]")
    assert not page.evaluate("document.body.classList.contains('dark')")


def test_explore(open_page):
    page = open_page()
    fill(page, "#num_inference_steps", 1)
    open_tab(page, "Explore")
    fill(page, "#grid_prompts", "a star\ntwo hearts")
    fill(page, "#grid_values", "0..2")
    page.click("#grid_button")
    page.wait_for_function("document.querySelector('#grid_status').textContent.includes('6 comparisons')")
    keep(page, "explore")
    assert page.locator("#grid img").is_visible()
    with page.expect_download() as download:
        page.click("#grid_csv")
    assert Path(download.value.path()).read_text().count("\n") == 7


def test_history(open_page):
    page = open_page()
    compare(page, "a star", 1, 1)
    compare(page, "two hearts", 2, 1)
    open_tab(page, "History")
    page.wait_for_function("document.querySelector('#history_status').textContent.includes('2 of 2')")
    fill(page, "#history_search", "star")
    page.wait_for_function("document.querySelector('#history_status').textContent.includes('1 of 2')")
    keep(page, "history")
    page.locator("#gallery button.thumbnail-item").first.click()
    wait_done(page, "a star", 1)
    assert page.locator("#compare_button").is_visible()
    assert page.input_value("#prompt textarea") == "a star"


def test_benchmark(open_page):
    page = open_page()
    fill(page, "#num_inference_steps", 1)
    open_tab(page, "Benchmark")
    fill(page, "#suite_prompts", 4)
    page.locator("#suite_arms").get_by_label("random change", exact=True).check()
    page.click("#suite_button")
    wait_for_text(page, "#suite_status", "12 images.")
    keep(page, "benchmark")
    assert page.locator("#report .table figcaption").all_inner_texts() == [
        "golden against standard",
        "random change against standard",
    ]
    assert "right images" in page.inner_text("#report tbody tr >> nth=0")
    with page.expect_download() as download:
        page.click("#suite_csv")
    assert Path(download.value.path()).read_text().count("\n") == 13


def test_one_short_suite_at_a_time_and_stop(open_page, tiny_shapes, monkeypatch):
    """The first waits in its second batch until the test has seen what it wants to see."""
    forward, go_on, calls = tiny_shapes.pipeline.unet.forward, threading.Event(), []

    def waiting_forward(*args, **kwargs):
        calls.append(None)
        if len(calls) > 1:
            go_on.wait(SECONDS)
        return forward(*args, **kwargs)

    monkeypatch.setattr(tiny_shapes.pipeline.unet, "forward", waiting_forward)
    page, other = open_page(), open_page()
    for each in (page, other):
        fill(each, "#num_inference_steps", 1)
        open_tab(each, "Benchmark")
    page.click("#suite_button")
    wait_for_text(page, "#suite_status", "1 of 4 batches")
    other.click("#suite_button")
    wait_for_text(other, "#suite_status", "Another short suite is running")
    page.click("#suite_stop")
    wait_for_text(page, "#suite_status", "Stopped")
    go_on.set()
    page.wait_for_function("document.querySelector('#report figcaption')")  # what is done stays
    page.wait_for_timeout(1000)
    assert len(calls) == 2
    other.click("#suite_button")
    wait_for_text(other, "#suite_status", "32 images.")


def test_a_finished_report_is_shown_and_nothing_in_it_runs(open_page, tiny_shapes, tmp_path):
    for name, text in (
        ("first", "<h1>First</h1><script>parent.ran=1</script><img src=x onerror=top.ran=1>"),
        ("b", ""),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").write_text(text)
    ui, address = serve(tiny_shapes, runs=tmp_path)
    try:
        page = open_page(address=address)
        open_tab(page, "Benchmark")
        page.click("#reports input")
        page.get_by_role("option", name="first").click()
        page.frame_locator("iframe.report").get_by_role("heading", name="First").wait_for()
        page.wait_for_timeout(300)
        assert page.evaluate("window.ran") is None
        (tmp_path / "b" / "report.html").unlink()  # gone between the list and the choice
        page.click("#reports input")
        page.get_by_role("option", name="b", exact=True).click()
        wait_for_text(page, "#suite_status", "no such report")
    finally:
        ui.close(verbose=False)


def test_zoom_is_one_for_both_images(open_page):
    page = open_page()
    compare(page)

    def read_zoom() -> list[str]:
        transform = "image => getComputedStyle(image).transform"
        return [page.locator(image).evaluate(transform) for image in (STANDARD, GOLDEN)]

    whole = read_zoom()
    page.mouse.move(*centre_of(page, STANDARD))
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    first, second = read_zoom()
    assert first == second != whole[0]
    page.keyboard.down("f")  # the zoom is kept while the images are flipped
    assert read_zoom()[1] == first
    page.keyboard.up("f")
    page.evaluate("golden.setView('pair')")
    x, y = centre_of(page, GOLDEN)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 30, steps=4)
    page.mouse.up()
    moved = read_zoom()
    assert moved[0] == moved[1] != first
    page.mouse.dblclick(x, y)
    assert read_zoom() == whole


def test_an_image_held_down_flips(open_page):
    page = open_page()
    compare(page)
    page.evaluate("golden.setView('flip')")
    page.mouse.move(*centre_of(page, STANDARD))
    page.mouse.down()
    page.wait_for_selector("#images .arm.golden", state="visible")
    assert not page.locator("#images .arm.standard").is_visible()
    page.mouse.up()
    page.wait_for_selector("#images .arm.standard", state="visible")


def test_two_fingers_zoom_both_images(open_page):
    page = open_page(PHONE, has_touch=True)
    compare(page)
    x, y = centre_of(page, GOLDEN)
    touch = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 60), ("touchEnd", 0)):
        points = [{"x": x - apart, "y": y}, {"x": x + apart, "y": y}] if apart else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.wait_for_function("Number(document.querySelector('#images').style.getPropertyValue('--scale')) > 2")
    assert page.evaluate("window.visualViewport.scale") == 1


def centre_of(page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


# Not our markup: what axe says of Gradio's own parts is Gradio's.
GRADIOS_OWN = ("[aria-label='Empty value']",)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_our_own_markup(open_page, tiny_shapes, tiny_judges, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    ui, address = serve(tiny_shapes, Judging(tiny_judges, "embedded", dict.fromkeys(ALL_JUDGES, 0.5)))
    try:
        page = open_page(address=address, color_scheme=scheme)
        compare(page, steps=1)
        found = {}
        for tab in ("Compare", "Explore", "Blind", "History", "Benchmark", "About"):
            open_tab(page, tab)
            results = axe.Axe().run(page, context={"exclude": [[selector] for selector in GRADIOS_OWN]})
            for violation in results.response["violations"]:
                if violation["impact"] in ("serious", "critical"):
                    found[tab, violation["id"]] = [node["html"][:160] for node in violation["nodes"]]
        assert not found
    finally:
        ui.close(verbose=False)


def test_about(open_page):
    page = open_page()
    open_tab(page, "About")
    assert page.locator(".flow-wide .flow").is_visible()
    assert page.locator(".card").count() >= 4
    keep(page, "about")


@pytest.fixture(scope="module")
def free_url(tiny_model) -> Iterator[str]:
    """A page that takes any words for a prompt."""
    ui, address = serve(tiny_model)
    yield address
    ui.close(verbose=False)


def test_no_text_runs_as_script(browser, free_url):
    tried, ran = try_payloads(browser, free_url)
    assert tried >= 3 * len(PAYLOADS) >= 90
    assert not ran
