"""A real service with the models from scratch, and headless Chromium that looks at its page."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.server import SCRATCH, serve

pytest.importorskip("playwright", reason="needs the extra `browser` (playwright)")

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

HERE = Path(__file__).parent
# Without its calls of home, which a machine without internet refuses by the hundreds.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
POLICY = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; "
    "frame-ancestors 'none'; img-src 'self' data:"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("browser")


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service with the models from scratch."""
    log = tmp_path_factory.mktemp("serve") / "log"
    with serve(log, "--models", SCRATCH, "--threads", "1") as (client, _):
        yield str(client.base_url).rstrip("/")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """What must not happen on any page: errors, and requests to anywhere else."""

    origin: str
    problems: list[str] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)
    """Statuses that the test provokes; Chromium reports each as an error."""
    offline: bool = False
    """The test takes the service away."""

    def look(self, context: BrowserContext) -> None:
        context.on("request", lambda request: self._request(request.url))
        context.on("console", lambda message: self._console(message.type, message.text))
        context.on("weberror", lambda error: self.problems.append(str(error.error)))

    def _request(self, address: str) -> None:
        parts = urlsplit(address)
        if (
            parts.scheme not in ("data", "blob")
            and f"{parts.scheme}://{parts.netloc}" != self.origin
        ):
            self.problems.append(f"asked {address}")

    def _console(self, kind: str, text: str) -> None:
        known = any(f"status of {status}" in text for status in self.expected)
        known = known or (self.offline and "net::ERR" in text)
        if kind in ("error", "warning") and not known:
            self.problems.append(f"{kind}: {text}")


Open = Callable[..., Page]


@pytest.fixture
def watched(url: str) -> Iterator[Watched]:
    watched = Watched(url)
    yield watched
    assert not watched.problems


@pytest.fixture
def open_page(browser: Browser, url: str, watched: Watched) -> Iterator[Open]:
    """Opens the page in a fresh context; keyword arguments are those of `new_context`."""
    contexts = []

    def open_page(
        path: str = "/",
        *,
        at: str = url,
        before: Callable[[Page], None] | None = None,
        loaded: bool = True,
        **options: object,
    ) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        contexts.append(context)
        watched.origin = at
        watched.look(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        if before:
            before(page)
        answer = page.goto(at + path)
        assert answer is not None
        assert answer.ok
        if loaded:
            page.wait_for_selector("#models li")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page()


@pytest.fixture
def api(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def finished(page: Page, name: str) -> str:
    """Wait for the end of a panel's run: what it says of it."""
    page.wait_for_selector(f"#{name}-go:visible")
    return page.locator(f"#{name}-outcome").inner_text()


def set_field(page: Page, field: str, value: object) -> None:
    """Put a value into one of Write's settings."""
    box = page.locator(f"#write-settings-{field}")
    if not box.is_visible():
        page.click("#write-settings details.more > summary")
    if isinstance(value, bool):
        box.set_checked(value)
    else:
        box.fill(str(value))


def written(page: Page) -> str:
    """The tokens that Write shows, the mark of the end included."""
    text: str = page.evaluate(
        "[...document.querySelectorAll('.token')].map(t => t.textContent).join('')"
    )
    return text


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    wide: int = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return wide
