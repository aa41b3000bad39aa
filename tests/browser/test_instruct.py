"""Instruct: an instruction and its answer."""

import httpx
from playwright.sync_api import Page, expect

from .conftest import Open, Watched, finished


def test_examples_are_answered_as_the_service_answers(open_page: Open, api: httpx.Client) -> None:
    page = open_page("/#instruct")
    for chip in page.locator("#examples button").all():
        chip.click()
        page.click("#instruct-go")
        finished(page, "instruct")
        body = {
            "instruction": page.input_value("#instruction"),
            "input": page.input_value("#input"),
        }
        wanted = api.post("/instruct", json=body).json()["response"]
        assert page.locator("#answer").text_content() == wanted
    assert page.locator("#examples button").count() >= 4


def test_the_passive_voice(open_page: Open) -> None:
    page = open_page("/#instruct")
    page.click("#instruct .curl summary")
    page.get_by_role("button", name="Passive voice").click()
    page.keyboard.press("Control+Enter")
    finished(page, "instruct")
    assert page.locator("#answer").text_content() == "The flowers were watered by the gardener."
    expect(page.locator("#announcer")).to_have_text(
        "Answer: The flowers were watered by the gardener."
    )
    expect(page.locator("#instruct .curl pre")).to_contain_text('"input":"The gardener')


def test_an_instruction_is_needed(open_page: Open, watched: Watched) -> None:
    page: Page = open_page("/#instruct")
    page.fill("#instruction", " ")
    page.click("#instruct-go")
    expect(page.locator("#instruct [data-error=instruction]")).to_have_text(
        "Say what is to be done."
    )
    expect(page.locator("#instruction")).to_be_focused()
