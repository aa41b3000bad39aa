"""Write: tokens as they come, what else could have come, and stopping."""

import json
import re
import time

import httpx
from playwright.sync_api import Page, expect

from .conftest import Open, Watched, finished, set_field, written

PROMPT = "The old king looked at his daughter and"


def metric(api: httpx.Client, name: str) -> float:
    for line in api.get("/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise AssertionError(name)


def test_tokens_come_in_pieces_and_make_the_text(page: Page, api: httpx.Client) -> None:
    page.evaluate(
        """() => {
            window.batches = [];
            new MutationObserver((records) => window.batches.push(records.length))
              .observe(document.getElementById("tokens"), { childList: true });
        }"""
    )
    set_field(page, "seed", 5)
    set_field(page, "temperature", 0.5)
    set_field(page, "max_new_tokens", 40)
    page.click("#write-go")
    said = finished(page, "write")
    assert said.startswith("40 tokens") or "the model ended it" in said
    body = {"prompt": PROMPT, "seed": 5, "temperature": 0.5, "top_p": 0.95, "max_new_tokens": 40}
    answer = api.post("/generate", json=body).json()
    assert written(page).removesuffix("∎") == answer["choices"][0]["text"]
    assert len(page.evaluate("window.batches")) > 5
    assert page.input_value("#prompt") == PROMPT


def test_characters_of_several_tokens_are_whole(page: Page) -> None:
    cut = page.evaluate(
        """async () => {
            const { align } = await import("./web/align.js");
            const token = (text) => ({ text, logprob: -1, top: [] });
            const cut = (text, ...tokens) =>
              align(text, tokens.map(token)).map((piece) => [piece.text, piece.tokens.length]);
            return [
              cut("né!", "n", "\\ufffd", "\\ufffd", "!"),
              cut(" 😀 ok", " \\ufffd", "\\ufffd", "\\ufffd", " ok"),
              cut("ab", "a", "<|endoftext|>", "b", "<|endoftext|>"),
              cut("cut", "c", "ut\\n"),
              cut("x\\ufffd", "x", "\\ufffd"),
            ];
        }"""
    )
    assert cut == [
        [["n", 1], ["é", 2], ["!", 1]],
        [[" 😀", 3], [" ok", 1]],
        [["a", 1], ["", 1], ["b", 1], ["", 1]],
        [["c", 1], ["ut", 1]],
        [["x", 1], ["\ufffd", 1]],
    ]


def test_a_character_of_several_tokens_in_a_real_stream(page: Page) -> None:
    page.fill("#prompt", "naïve café naïve café naïve café naïve")
    set_field(page, "max_new_tokens", 60)
    # Very hot: of 480 tokens, some are the bytes of characters.
    set_field(page, "temperature", 3)
    set_field(page, "n", 8)
    page.click("#write-go")
    finished(page, "write")
    for card in page.locator("#choices .card").all():
        card.click()
        text = card.locator(".prose").text_content()
        assert written(page).removesuffix("∎") == text


def test_hovering_shows_the_alternatives(page: Page) -> None:
    page.click("#write-go")
    finished(page, "write")
    token = page.locator(".token:not(.break, .end)").nth(2)
    token.hover()
    box = page.locator("#alternatives")
    expect(box).to_be_visible()
    shares = [float(text.strip("%<> ")) for text in box.locator("button .number").all_inner_texts()]
    assert len(shares) in (5, 6)
    assert shares[:5] == sorted(shares[:5], reverse=True)
    assert 0 < sum(shares) <= 101
    assert box.locator("button.taken").count() == 1
    share = box.locator(".chance > span").inner_text()
    assert share in (token.get_attribute("aria-label") or "")
    # Into the box, to choose there, and away.
    box.hover()
    page.wait_for_timeout(300)
    expect(box).to_be_visible()
    page.mouse.move(5, 5)
    expect(box).to_be_hidden()


def test_the_keyboard_walks_the_tokens_and_chooses_another(page: Page) -> None:
    set_field(page, "max_new_tokens", 12)
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    finished(page, "write")
    page.keyboard.press("Tab")
    active = "document.activeElement"
    assert page.evaluate(f"{active}.classList.contains('token')")
    first = page.locator(".token").nth(0)
    expect(first).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token").nth(2)).to_be_focused()
    expect(page.locator("#alternatives")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#alternatives")).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    before = page.locator(".token").nth(0).text_content()
    page.keyboard.press("Enter")
    buttons = page.locator("#alternatives button:not(.taken, [aria-disabled])")
    wanted = buttons.nth(0).locator(".word").inner_text().replace("␣", " ")
    buttons.nth(0).focus()
    page.keyboard.press("Enter")
    finished(page, "write")
    assert page.locator(".token").nth(0).text_content() == before
    chosen = page.locator(".token").nth(1)
    expect(chosen).to_have_class(re.compile(r"\bchosen\b"))
    assert chosen.text_content() == wanted
    expect(chosen).to_be_focused()
    assert page.locator(".token").count() > 2


def test_stop_frees_the_slot(page: Page, api: httpx.Client) -> None:
    set_field(page, "max_new_tokens", 490)
    set_field(page, "n", 8)
    set_field(page, "temperature", 1)
    set_field(page, "ignore_eos", True)
    page.click("#write-go")
    page.wait_for_selector(".token >> nth=3", state="attached")
    expect(page.locator("#write-stop")).to_be_visible()
    assert metric(api, "penwright_requests_running") == 8
    page.click("#write-stop")
    assert finished(page, "write") == "Stopped."
    deadline = time.monotonic() + 5
    while metric(api, "penwright_requests_running"):
        assert time.monotonic() < deadline
    assert 0 < page.locator(".token").count() < 490
    assert page.locator("#choices .card").count() == 8


def test_continue_again_edit_and_clear(page: Page) -> None:
    set_field(page, "max_new_tokens", 6)
    set_field(page, "temperature", 0)
    set_field(page, "ignore_eos", True)
    page.click("#write-go")
    finished(page, "write")
    first = written(page)
    page.click("#write-go")
    finished(page, "write")
    assert written(page).startswith(first)
    assert len(written(page)) > len(first)
    page.click("#write-again")
    finished(page, "write")
    assert written(page) == first
    page.click("#write-edit")
    assert page.input_value("#prompt") == PROMPT + first
    assert page.locator(".token").count() == 0
    page.click("#write-clear")
    assert page.input_value("#prompt") == ""
    assert page.locator("#write-copy").is_disabled()


def test_the_text_and_its_tokens_are_one_text_to_the_eye(page: Page) -> None:
    """The area that is typed into lies exactly on the copy that is drawn."""
    page.fill("#prompt", "One line.\nAnother, which is long enough to be broken in two. " * 5)
    page.click("#write-go")
    finished(page, "write")
    ends = page.evaluate(
        """() => {
            const area = document.querySelector("#prompt"), copy = document.querySelector(".copy");
            const a = area.getBoundingClientRect(), b = copy.getBoundingClientRect();
            const names = ["font", "whiteSpace", "overflowWrap", "letterSpacing", "width"];
            const [x, y] = [getComputedStyle(area), getComputedStyle(copy)];
            return [a.left - b.left, a.top - b.top, names.filter((name) => x[name] !== y[name])];
        }"""
    )
    assert ends == [0, 0, []]


def test_choices_stand_side_by_side(page: Page) -> None:
    set_field(page, "n", 3)
    set_field(page, "max_new_tokens", 16)
    set_field(page, "temperature", 1)
    page.click("#write-go")
    finished(page, "write")
    cards = page.locator("#choices .card")
    expect(cards).to_have_count(3)
    page.locator("#choices input").nth(0).focus()
    page.keyboard.press("ArrowDown")
    assert written(page).removesuffix("∎") == cards.nth(1).locator(".prose").text_content()


def test_tint_can_be_turned_off(page: Page) -> None:
    page.click("#write-go")
    finished(page, "write")
    expect(page.locator("#legend")).to_be_visible()
    colour = "getComputedStyle(document.querySelector('.p2, .p3, .p4')).backgroundColor"
    tinted = page.evaluate(colour)
    page.uncheck("#tint")
    assert page.evaluate(colour) != tinted
    expect(page.locator("#legend")).to_be_hidden()


def test_settings_go_into_the_request_and_the_command(page: Page, url: str) -> None:
    page.fill("#prompt", 'It\'s a "test"\nof lines')
    set_field(page, "stop", "\\n\nend")
    set_field(page, "top_k", 12)
    set_field(page, "presence_penalty", 0.5)
    page.locator("#write-settings input[type=range][aria-label=Temperature]").fill("1.5")
    page.click("#write .curl summary")
    with page.expect_request("**/generate") as request:
        page.click("#write-go")
    sent = request.value.post_data_json
    assert sent == {
        "prompt": 'It\'s a "test"\nof lines',
        "temperature": 1.5,
        "top_p": 0.95,
        "top_k": 12,
        "max_new_tokens": 64,
        "presence_penalty": 0.5,
        "stop": ["\n", "end"],
        "logprobs": 5,
        "stream": True,
    }
    page.click("#write-clear")
    page.fill("#prompt", "It's")
    command = page.locator("#write .curl pre")
    start = f"curl -N {url}/generate \\ --json '{{\"prompt\":\"It'\\''s\""
    expect(command).to_contain_text(start)


def test_markup_is_text(page: Page) -> None:
    page.fill("#prompt", "<img src=x onerror=alert(1)><b>bold</b>")
    page.click("#write-go")
    finished(page, "write")
    assert page.locator("main img, #manuscript b").count() == 0
    assert page.locator("#prompt-copy").text_content() == "<img src=x onerror=alert(1)><b>bold</b>"


def test_a_wrong_field_is_told_beside_it(page: Page, watched: Watched) -> None:
    watched.expected = {400, 422}
    set_field(page, "temperature", 101)
    page.click("#write-go")
    box = page.locator("#write-settings-temperature")
    expect(box).to_have_attribute("aria-invalid", "true")
    expect(box).to_be_focused()
    told = page.locator("#write [data-error=temperature]")
    expect(told).to_contain_text("100")
    assert told.get_attribute("id") in (box.get_attribute("aria-describedby") or "")
    set_field(page, "temperature", "warm")
    page.click("#write-go")
    expect(told).to_contain_text("“warm” is no number")
    set_field(page, "temperature", 1)
    set_field(page, "max_new_tokens", 600)
    page.click("#write-go")
    expect(page.locator("#write [data-error=prompt]")).to_contain_text("context of 512")
    set_field(page, "max_new_tokens", 8)
    page.click("#write-go")
    finished(page, "write")
    assert page.locator("[aria-invalid]").count() == 0


def test_a_full_queue_and_loading_models_are_waited_for(open_page: Open, watched: Watched) -> None:
    watched.expected = {429, 503}
    problems = [
        (429, "queue-full", "the queue is full"),
        (503, "loading", "the models are being loaded and verified"),
    ]

    def refuse(page: Page) -> None:
        def answer(route: object) -> None:
            if not problems:
                route.continue_()  # type: ignore[attr-defined]
                return
            status, name, detail = problems.pop(0)
            body = {"type": f"tag:penwright,2025:{name}", "status": status, "detail": detail}
            route.fulfill(  # type: ignore[attr-defined]
                status=status,
                headers={"Retry-After": "1", "Content-Type": "application/problem+json"},
                body=json.dumps(body),
            )

        page.route("**/generate", answer)

    page = open_page(before=refuse)
    page.click("#write-go")
    expect(page.locator("#write-outcome")).to_have_text("The service is busy; waiting for a place…")
    expect(page.locator("#write-outcome")).to_have_text("The models are being loaded…")
    finished(page, "write")
    assert page.locator(".token").count() > 1
    assert not problems


def test_what_is_cleared_while_it_runs_stays_cleared(page: Page) -> None:
    set_field(page, "max_new_tokens", 490)
    set_field(page, "n", 8)
    set_field(page, "ignore_eos", True)
    page.click("#write-go")
    page.wait_for_selector(".token >> nth=3", state="attached")
    page.click("#write-clear")
    finished(page, "write")
    assert page.locator(".token").count() == 0
    # And choosing another token in the middle of a run goes on from it.
    page.fill("#prompt", PROMPT)
    set_field(page, "n", 1)
    page.click("#write-go")
    page.locator(".token:not(.break, .end)").nth(1).hover()
    page.locator("#alternatives button:not(.taken, [aria-disabled])").nth(0).click()
    expect(page.locator(".token.chosen")).to_have_count(1)
    page.click("#write-stop")
    finished(page, "write")
