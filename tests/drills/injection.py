"""Script in whatever text the page takes or shows."""

import json
import tempfile
from itertools import count
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page

from tests.drills.pages import compare, fill, open_tab, wait_for_text

# Each sets window.ran if it is taken for markup or script anywhere.
PAYLOADS = (
    "<script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    "<svg onload=window.ran=1>",
    '"><img src=x onerror=window.ran=1>',
    "'><svg/onload=window.ran=1>",
    "<iframe srcdoc='<script>parent.ran=1</script>'></iframe>",
    "<details open ontoggle=window.ran=1>x</details>",
    "<a href=javascript:window.ran=1>x</a>",
    "javascript:window.ran=1",
    "${window.ran=1}",
    "`${window.ran=1}`",
    "{{constructor.constructor('window.ran=1')()}}",
    "{{#with window}}{{ran=1}}{{/with}}",
    "</textarea><script>window.ran=1</script>",
    "</script><script>window.ran=1</script>",
    '![x](x" onerror="window.ran=1)',
    "[x](javascript:window.ran=1)",
    "<math><mtext><style><img src=x onerror=window.ran=1></style></mtext></math>",
    "<input autofocus onfocus=window.ran=1>",
    "<body onload=window.ran=1>",
    "&lt;img src=x onerror=window.ran=1&gt;",
    "%3Cimg%20src=x%20onerror=window.ran=1%3E",
    "<img src=`x` onerror=window.ran=1>",
    "<style>@import 'javascript:window.ran=1'</style>",
    "<video><source onerror=window.ran=1></video>",
    "<marquee onstart=window.ran=1>x</marquee>",
    "<object data=javascript:window.ran=1></object>",
    "\\u003cimg src=x onerror=window.ran=1\\u003e",
    "<x onclick=window.ran=1 tabindex=1 autofocus onfocus=window.ran=1>",
    "$$\\href{javascript:window.ran=1}{x}$$",
)


def has_run(page: Page) -> bool:
    """Whether a payload ran on a page: each would set a variable."""
    return page.evaluate("window.ran") is not None


def try_payloads(browser: Browser, url: str) -> tuple[int, int]:
    """Send every payload through every place of a page that takes any words for a prompt.

    Returns: (payloads sent, pages on which one ran).
    """
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(60_000)
    page, tried = context.new_page(), count()
    page.goto(url)
    page.wait_for_selector("#compare_button")
    for payload in PAYLOADS:  # the prompt, the address, and later the captions of the history
        compare(page, payload, next(tried), 1)
        assert page.input_value("#prompt textarea") == payload
    page.click("#share button.label-wrap")
    for payload in PAYLOADS:  # error messages
        for settings, words in (
            ({"model": payload}, "for the model"),
            ({"sampler": payload}, "Unknown sampler"),
            ({payload: 1}, "Unknown setting"),
        ):
            next(tried)
            fill(page, "#json", json.dumps({"prompt": "x"} | settings))
            page.click("#apply_json")
            wait_for_text(page, "#status", words)
            fill(page, "#json", "[]")
            page.click("#apply_json")
            wait_for_text(page, "#status", "JSON object")
    with tempfile.TemporaryDirectory() as folder:
        for payload in PAYLOADS[:6]:  # names of files
            next(tried)
            file = Path(folder) / f"{payload.replace('/', '_')}.png"
            file.write_bytes(b"no image")
            page.locator("#share input[type=file]").set_input_files(file)
            wait_for_text(page, "#status", "not a readable PNG")
    open_tab(page, "History")
    page.wait_for_selector("#gallery button.thumbnail-item")
    for payload in PAYLOADS:  # what is searched for
        next(tried)
        fill(page, "#history_search", payload)
        page.wait_for_timeout(100)
    open_tab(page, "Explore")
    for start in range(0, len(PAYLOADS), 10):  # rows of a grid, and its values
        lines = PAYLOADS[start : start + 10]
        fill(page, "#grid_prompts", "\n".join(lines))
        fill(page, "#grid_values", next(tried))
        page.click("#grid_button")
        wait_for_text(page, "#grid_status", f"{len(lines)} comparisons")
        fill(page, "#grid_values", lines[0])
        page.click("#grid_button")
        wait_for_text(page, "#grid_status", "must be a number")
    ran = int(has_run(page))
    for payload in PAYLOADS[:10]:  # a link
        next(tried)
        linked = context.new_page()
        linked.goto(url + "?" + urlencode({"prompt": payload, "num_inference_steps": 1, "model": payload}))
        wait_for_text(linked, "#status", "for the model")
        ran += has_run(linked)
        linked.close()  # a browser has six connections to a server, and every open page holds one
    context.close()
    return next(tried), ran
