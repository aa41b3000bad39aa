"""Takes the pictures of the page in docs/, from a running service with the bundled models.

penwright-serve --port 8000 &
python -m tests.browser.pictures http://127.0.0.1:8000 docs
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import FLAGS, finished

COLOURS = 256
KMEANS = 3
PROMPT = "The old king looked at his daughter and"
TOKEN = 20
"""Of the text, that whose alternatives are shown."""


def main(url: str, out: Path) -> None:
    chromium = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        _write(_open(browser, url, 1200, 760), out / "page-write.png")
        _classify(_open(browser, f"{url}/#classify", 1200, 900), out / "page-classify.png")
        _phone(_open(browser, url, 390, 800, color_scheme="dark"), out / "page-phone.png")
        dark = _open(browser, f"{url}/#instruct", 1200, 760, color_scheme="dark")
        _instruct(dark, out / "page-instruct.png")
        browser.close()


def _open(browser: Browser, url: str, width: int, height: int, **options: object) -> Page:
    size = {"width": width, "height": height}
    context = browser.new_context(viewport=size, device_scale_factor=2, **options)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#models li")
    return page


def _generate(page: Page, seed: int, tokens: int) -> None:
    for name, value in (("seed", seed), ("max_new_tokens", tokens), ("temperature", 0.7)):
        page.locator(f"#write-settings-{name}").evaluate(
            """(box, value) => {
                box.value = value;
                box.dispatchEvent(new Event("input", { bubbles: true }));
            }""",
            str(value),
        )
    page.click("#write-go")
    finished(page, "write")


def _write(page: Page, path: Path) -> None:
    # Several times, for the line of tokens a second.
    for tokens in (200, 40, 150, 80):
        page.click("#write-clear")
        page.fill("#prompt", PROMPT)
        _generate(page, 15, tokens)
        page.wait_for_timeout(1500)
    page.locator(".token").nth(TOKEN).hover()
    _save(page, path)


def _classify(page: Page, path: Path) -> None:
    page.click("#classify-go")
    finished(page, "classify")
    page.click(".by-word summary >> nth=0")
    page.wait_for_timeout(1500)
    page.evaluate("document.activeElement.blur()")
    _save(page, path)


def _instruct(page: Page, path: Path) -> None:
    page.click("#instruct-go")
    finished(page, "instruct")
    page.click("#instruct .curl summary")
    page.wait_for_timeout(1500)
    page.evaluate("document.activeElement.blur()")
    _save(page, path)


def _phone(page: Page, path: Path) -> None:
    _generate(page, 15, 48)
    page.wait_for_timeout(1200)
    page.mouse.move(0, 0)
    page.locator(".token").nth(TOKEN).focus()
    _save(page, path)


def _save(page: Page, path: Path) -> None:
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    # Few colours are all that there are, but for the edges of letters; k-means keeps the rare ones.
    few = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, KMEANS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), Path(sys.argv[2]))
