"""The page as a person's hands use it; for the browser tests, the drills and the screenshots."""

import shutil

from golden.errors import GoldenError

PROMPT = "a red circle left of a blue square"
DESKTOP, PHONE = (1440, 900), (390, 844)
SECONDS = 60
"""How long a page may take for anything."""


def find_chromium() -> str:
    """Raises: GoldenError if there is none on this machine."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        raise GoldenError("There is no chromium on this machine.")
    return found


def wait_for_text(page, selector: str, words: str) -> None:
    """Wait until an element contains these words."""
    page.wait_for_function(
        "([selector, words]) => document.querySelector(selector)?.textContent.includes(words)", arg=[selector, words]
    )


def fill(page, selector: str, value: object) -> None:
    """Write into a field and leave it."""
    page.locator(f"{selector} :is(input, textarea)").first.fill(str(value))
    page.keyboard.press("Tab")


def compare(page, prompt: str = PROMPT, seed: int = 3, steps: int = 3) -> None:
    """Fill in a comparison, run it, and wait for its end."""
    fill(page, "#prompt", prompt)
    fill(page, "#seed", seed)
    fill(page, "#num_inference_steps", steps)
    page.click("#compare_button")
    wait_done(page, prompt, seed)


def wait_done(page, prompt: str, seed: int) -> None:
    """Wait for a comparison to finish: its link is in the address, its time in the status line, its images loaded.

    The status line may be drawn before the images: previews have other file names than images that are finished.
    """
    page.wait_for_function(
        """([prompt, seed]) => {
            const query = new URLSearchParams(location.search);
            const said = document.querySelector("#status")?.textContent || "";
            const images = Array.from(document.querySelectorAll("#images .frame img"))
                .filter((image) => image.offsetParent);
            const finished = (image) => /[/]golden-[^/]*$/.test(image.src) && image.src.includes(`-${seed}-`);
            return query.get("prompt") === prompt && query.get("seed") === seed && / in [0-9.]+ s[.]/.test(said)
                && images.every((image) => finished(image) && image.complete && image.naturalWidth);
        }""",
        arg=[prompt, str(seed)],
    )


def open_tab(page, name: str) -> None:
    """Show a tab, also one that a narrow screen keeps in its menu."""
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():  # folded into the menu of tabs that have no room
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        tab.click()
    page.wait_for_timeout(300)
