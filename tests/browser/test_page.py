"""The page as a whole: tabs, colours, a phone's width, keys, figures, and what may go wrong."""

import os
import subprocess
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.app.conftest import process, until_ready
from tests.e2e.server import SCRATCH, serve

from .conftest import POLICY, Open, Watched, finished, overflow, set_field

FLAGS = ("--models", str(SCRATCH), "--log-level", "error")
TABS = ("write", "instruct", "classify")


def run_all(page: Page) -> None:
    """Every tab with a result on it."""
    for name in TABS:
        page.click(f"#tab-{name}")
        page.click(f"#{name}-go")
        finished(page, name)


def test_tabs_work_by_keyboard(page: Page) -> None:
    page.focus("#tab-write")
    for key, name in (
        ("ArrowRight", "instruct"),
        ("ArrowRight", "classify"),
        ("ArrowRight", "write"),
        ("End", "classify"),
        ("Home", "write"),
        ("ArrowLeft", "classify"),
    ):
        page.keyboard.press(key)
        expect(page.locator(f"#tab-{name}")).to_be_focused()
        expect(page.locator(f"#tab-{name}")).to_have_attribute("aria-selected", "true")
        for other in TABS:
            expect(page.locator(f"#{other}")).to_be_visible(visible=other == name)
        assert page.url.endswith(f"#{name}")
    # One stop for all tabs, then into the panel.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('[role=tab]')") is None


def test_everything_is_reached_by_keyboard(page: Page) -> None:
    for name in TABS:
        page.click(f"#tab-{name}")
        page.evaluate("document.body.tabIndex = -1; document.body.focus()")
        seen: list[str] = []
        for _ in range(80):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                """() => {
                    const e = document.activeElement;
                    const ring = getComputedStyle(e);
                    const box = e.closest(".choose, .sheet") ?? e;
                    const seen = ring.outlineStyle !== "none" || box !== e;
                    const name = e.id || e.textContent.trim() || e.name;
                    return e === document.body ? null : [name, seen];
                }"""
            )
            if focused is None:
                break
            assert focused[1], f"no focus ring on {focused[0]}"
            seen.append(focused[0])
        assert {f"{name}-go", "theme", f"tab-{name}"} <= set(seen)


def test_names_and_roles(page: Page) -> None:
    run_all(page)
    for name in TABS:
        page.click(f"#tab-{name}")
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("button, input, textarea, select, a, [role]")]
              .filter((e) => e.checkVisibility() && !e.closest("[aria-hidden]"))
              .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby")
                || e.textContent.trim() || e.labels?.length))
              .map((e) => e.outerHTML.slice(0, 120))"""
        )
        assert unnamed == [] or unnamed == ['<p class="problem" role="alert" hidden=""></p>']
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    for attribute in ("aria-controls", "aria-labelledby", "aria-describedby", "for"):
        for value in page.evaluate(
            "(name) => [...document.querySelectorAll(`[${name}]`)].map(e => e.getAttribute(name))",
            attribute,
        ):
            assert set(value.split()) <= set(ids), (attribute, value)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Open, scheme: str) -> None:
    """Also contrast: with PENWRIGHT_AXE naming axe-core's axe.min.js, which no package here has."""
    axe = os.environ.get("PENWRIGHT_AXE")
    if not axe:
        pytest.skip("PENWRIGHT_AXE names no axe.min.js")
    page = open_page(color_scheme=scheme, bypass_csp=True)
    page.evaluate(Path(axe).read_text())
    page.click("#write .curl summary")
    set_field(page, "n", 2)
    set_field(page, "seed", 1)
    for name in TABS:
        page.click(f"#tab-{name}")
        page.click(f"#{name}-go")
        finished(page, name)
        if name == "write":
            page.locator(".token").nth(4).focus()
        if name == "classify":
            page.click(".by-word summary >> nth=0")
            row = b"text\nhello\n"
            page.set_input_files("#file", {"name": "a.csv", "mimeType": "text/csv", "buffer": row})
        found = page.evaluate("axe.run().then((r) => r.violations)")
        told = [
            (violation["id"], [node["html"][:160] for node in violation["nodes"]][:3])
            for violation in found
        ]
        assert told == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_choice(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 128"
    assert page.evaluate(light) == (scheme == "light")
    button = page.locator("#theme")
    expect(button).to_have_attribute("aria-pressed", str(scheme == "dark").lower())
    button.click()
    expect(button).to_have_attribute("aria-pressed", str(scheme == "light").lower())
    assert page.evaluate(light) == (scheme == "dark")
    page.reload()
    assert page.evaluate(light) == (scheme == "dark")
    page.click("#theme")
    assert page.evaluate("localStorage.length") == 0


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_scrolls_sideways(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 700})
    for name in TABS:
        page.click(f"#tab-{name}")
        page.click(f"#{name}-go")
        finished(page, name)
        for summary in page.locator(f"#{name} summary:visible").all():
            if summary.evaluate("(s) => !s.parentElement.open"):
                summary.click()
        assert overflow(page) == 0, name
    page.click("#tab-write")
    # The box stays on the page wherever its token is.
    for token in page.locator(".token:not(.break)").all()[::7]:
        token.focus()
        box = page.locator("#alternatives").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert overflow(page) == 0


def test_less_motion(open_page: Open) -> None:
    page = open_page(reduced_motion="reduce")
    running = "document.getAnimations().length"
    page.evaluate("document.getElementById('writing').hidden = false")
    assert page.evaluate(running) == 0


def test_figures_are_live_and_only_while_looked_at(page: Page) -> None:
    expect(page.locator("#f-state")).to_have_text("ready")
    expect(page.locator("#f-running")).to_have_text("0")
    assert page.locator("#f-cache").inner_text().endswith(" MB")
    set_field(page, "max_new_tokens", 400)
    set_field(page, "ignore_eos", True)
    page.click("#write-go")
    expect(page.locator("#f-speed")).not_to_have_text("0")
    finished(page, "write")
    assert page.locator("#spark polyline").get_attribute("points").count(",") >= 2
    hide = "Object.defineProperty(document, 'hidden', { configurable: true, value: %s });"
    page.evaluate(hide % "true")
    page.wait_for_timeout(1200)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert asked == []
    page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(1500)
    assert any(address.endswith("/metrics") for address in asked)


def test_models_are_named_with_their_hashes(page: Page, api: httpx.Client) -> None:
    shown = page.locator("#models li").all_inner_texts()
    models = api.get("/models").json()["models"]
    for text, model in zip(shown, models, strict=True):
        assert text.startswith(model["name"])
        assert text.endswith(model["sha256"][:8])


def test_metrics_are_read(page: Page) -> None:
    text = '# HELP a b\na{x="1",y="}"} 2\na{x="2"} 3.5e1\nb 1\nc +Inf\n'
    read = page.evaluate(
        "async (t) => Object.fromEntries((await import('./web/live-figures.js')).parseMetrics(t))",
        text,
    )
    assert read["a"] == 37
    assert read['a{x="1"}'] == 2
    assert read["b"] == 1


def test_a_strict_policy_is_kept(open_page: Open) -> None:
    """Whatever header the service sends: nothing inline, nothing from elsewhere."""

    def stricter(page: Page) -> None:
        def add(route: Route) -> None:
            answer = route.fetch()
            route.fulfill(
                response=answer, headers={**answer.headers, "content-security-policy": POLICY}
            )

        page.route("**/*", add, times=None)

    page = open_page(before=stricter)
    run_all(page)
    page.click("#tab-write")
    page.locator(".token").nth(1).focus()
    expect(page.locator("#alternatives")).to_be_visible()
    assert page.locator("#alternatives i.bar").first.evaluate(
        "(bar) => bar.style.getPropertyValue('--share') !== ''"
    )


def test_under_a_prefix(open_page: Open, url: str) -> None:
    """A proxy gives the service a part of its own addresses."""

    def strip(page: Page) -> None:
        def forward(route: Route) -> None:
            route.fulfill(response=route.fetch(url=route.request.url.replace("/inner/", "/")))

        page.route("**/inner/**", forward)
        page.on("request", lambda request: outside.append(request.url))

    outside: list[str] = []
    page = open_page("/inner/", before=strip)
    run_all(page)
    assert outside
    assert all(address.startswith((f"{url}/inner/", "blob:")) for address in outside)


def test_a_key_is_asked_for_kept_and_forgotten(
    open_page: Open, watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "a-key-for-this-test-only"
    monkeypatch.setenv("PENWRIGHT_API_KEY", key)
    watched.expected = {401}
    with process(*FLAGS, PENWRIGHT_API_KEY=key) as (started, address):
        until_ready(started, address)
        page = open_page(at=address, loaded=False)
        dialog = page.locator("#key-dialog")
        expect(dialog).to_be_visible()
        # Whoever would rather not is not asked again before doing something that needs a key.
        page.keyboard.press("Escape")
        page.wait_for_timeout(2500)
        expect(dialog).to_be_hidden()
        expect(page.locator("#f-state")).to_have_text("needs a key")
        page.click("#write-go")
        expect(page.locator("#key")).to_be_focused()
        page.keyboard.type("a-wrong-key-for-this-test")
        page.keyboard.press("Enter")
        expect(page.locator("#key-reason")).to_have_text("The key that you gave is not accepted.")
        page.keyboard.type(key)
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        page.wait_for_selector("#models li")
        finished(page, "write")
        assert page.locator(".token").count() > 0
        expect(page.locator("#f-state")).to_have_text("ready")
        page.click("#write .curl summary")
        expect(page.locator("#write .curl pre")).to_contain_text("$PENWRIGHT_API_KEY")
        assert key not in page.content()
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        page.click("#forget-key")
        assert page.evaluate("sessionStorage.length") == 0
        page.click("#write-go")
        expect(dialog).to_be_visible()
        page.click("#key-cancel")
        expect(page.locator("#write .problem")).to_contain_text("needs an API key")
        page.close()


def test_a_task_without_a_model_is_explained(open_page: Open, tmp_path: Path) -> None:
    flags = ("--threads", "1", "--base", SCRATCH / "base")
    with serve(tmp_path / "log", *flags) as (client, _):
        page = open_page(at=str(client.base_url).rstrip("/"))
        page.click("#tab-classify")
        expect(page.locator("#classify .missing")).to_contain_text(
            "No model here answers /classify"
        )
        expect(page.locator("#classify-go")).to_be_hidden()
        page.click("#tab-write")
        page.click("#write-go")
        finished(page, "write")
        assert page.locator(".token").count() > 0
        page.close()


def test_loading_is_told_and_waited_for(open_page: Open, watched: Watched) -> None:
    watched.expected = {503}
    left = [3]

    def loading(page: Page) -> None:
        def answer(route: Route) -> None:
            if not left[0]:
                route.continue_()
                return
            left[0] -= 1
            body = '{"type": "tag:penwright,2025:loading", "detail": "not yet"}'
            headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
            route.fulfill(status=503, headers=headers, body=body)

        page.route("**/models", answer)

    page = open_page(before=loading, loaded=False)
    expect(page.locator("#notice")).to_have_text("The models are being loaded…")
    page.wait_for_selector("#models li")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_lost_connection_is_told(open_page: Open, watched: Watched) -> None:
    watched.offline = True
    started: subprocess.Popen[str]
    with process(*FLAGS) as (started, address):
        until_ready(started, address)
        page = open_page(at=address)
        for field, value in (("max_new_tokens", 490), ("n", 8), ("ignore_eos", True)):
            set_field(page, field, value)
        page.click("#write-go")
        page.wait_for_selector(".token >> nth=3", state="attached")
        started.kill()
        expect(page.locator("#write .problem")).to_contain_text("The connection was lost")
        assert page.locator(".token").count() >= 4
        expect(page.locator("#f-state")).to_have_text("not reached")
        page.click("#write-again")
        expect(page.locator("#write .problem")).to_contain_text("The service does not answer.")
