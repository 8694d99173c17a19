"""The page with a tiny model of each family, in a real Chromium: a comparison to its end, and one that is stopped."""

import re
from collections.abc import Iterator

import pytest
from test_app import serve
from test_browser import GOLDEN, STANDARD, shown_pixels

from golden.families import FAMILIES
from golden.request import MAX_STEPS
from tests.drills.pages import compare, fill, wait_for_text

pytestmark = pytest.mark.browser


@pytest.fixture(params=FAMILIES)
def url(request, tiny_of_family) -> Iterator[str]:
    ui, address = serve(tiny_of_family(request.param))
    yield address
    ui.close(verbose=False)


def test_any_family_is_compared_and_stopped(open_page):
    page = open_page()
    compare(page, "a lighthouse", seed=3, steps=2)
    assert page.locator("#images .frame img").count() == 2
    assert shown_pixels(page, STANDARD) != shown_pixels(page, GOLDEN)
    assert re.search(r"NPNet\s+[\d.,]+ ms", page.inner_text("#figures"))
    fill(page, "#num_inference_steps", MAX_STEPS)
    page.click("#compare_button")
    page.click("#stop_button")
    wait_for_text(page, "#status", "Stopped")
