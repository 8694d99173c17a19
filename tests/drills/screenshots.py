"""Screenshots of the page on the embedded model: those of the README, or every tab at every size.

python -m tests.drills.screenshots                        # assets/images/app-*.png
python -m tests.drills.screenshots --all --out runs/shots
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from golden.errors import ArgumentParser, run_command
from golden.flags import add_flags, flag, read_flags
from tests.drills.pages import DESKTOP, PHONE, compare, fill, find_chromium, open_tab, wait_for_text
from tests.drills.serving import ROOT, run_app

SIZES = {"desktop": DESKTOP, "phone": PHONE}
SCHEMES = ("light", "dark")
PROMPT, SEED = "a green heart above a purple cross", 8
GRID = ("a red circle left of a blue square", "three yellow stars", "a green heart above a purple cross")
SECONDS = 600


def show_compare(page: Page) -> None:
    compare(page, PROMPT, SEED, 20)


def show_explore(page: Page) -> None:
    open_tab(page, "Explore")
    fill(page, "#grid_prompts", "\n".join(GRID))
    fill(page, "#grid_values", "0..3")
    page.click("#grid_button")
    wait_for_text(page, "#grid_status", "12 comparisons")


def show_blind(page: Page) -> None:
    open_tab(page, "Blind")
    page.click("#blind_button")
    page.wait_for_selector("#vote_left:not([disabled])")
    page.click("#vote_left")
    wait_for_text(page, "#tally", "of 1")


def show_history(page: Page) -> None:
    open_tab(page, "History")
    page.wait_for_selector("#gallery button.thumbnail-item")


def show_benchmark(page: Page) -> None:
    open_tab(page, "Benchmark")
    fill(page, "#suite_prompts", 8)
    page.click("#suite_button")
    wait_for_text(page, "#suite_status", "images.")


def show_about(page: Page) -> None:
    open_tab(page, "About")


VIEWS = {
    "compare": show_compare,
    "explore": show_explore,
    "blind": show_blind,
    "history": show_history,
    "benchmark": show_benchmark,
    "about": show_about,
}
README = (("compare", "desktop", "light"), ("explore", "desktop", "light"), ("compare", "phone", "dark"))


def take(page: Page, view: str, path: Path) -> None:
    """Show a view and save a screenshot of it, in at most 256 colours and therefore small."""
    VIEWS[view](page)
    page.wait_for_timeout(1000)
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


@dataclass(frozen=True)
class ScreenshotOptions:
    all: bool = flag(False, "every tab, at both sizes, light and dark")
    out: Path = flag(ROOT / "assets" / "images", "folder to write to")


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, ScreenshotOptions)
    options = read_flags(ScreenshotOptions, parser.parse_args())
    options.out.mkdir(parents=True, exist_ok=True)
    every = [(view, size, scheme) for size in SIZES for scheme in SCHEMES for view in VIEWS]
    wanted = every if options.all else README
    with run_app() as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        pages: dict[tuple[str, str], Page] = {}
        for view, size, scheme in wanted:
            if (size, scheme) not in pages:
                width, height = SIZES[size]
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                context.set_default_timeout(1000 * SECONDS)
                pages[size, scheme] = context.new_page()
                pages[size, scheme].goto(url)
                # Of the opening, whose end would pass for that of the comparison that is asked for.
                pages[size, scheme].wait_for_selector("#images .frame img")
            take(pages[size, scheme], view, options.out / f"app-{view}-{size}-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    run_command(main)
