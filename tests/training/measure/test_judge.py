"""A judge behind HTTP: how it is found, asked, waited for and understood."""

import asyncio
import time
from typing import Any

import pytest

from model.errors import PenwrightError, UsageError
from tests.training.fake_judge import KEY, Answer, FakeJudge
from training.measure.judge import (
    Judge,
    JudgeSettings,
    Refused,
    Unavailable,
    connect,
    parse_score,
    question,
)


def ask(settings: JudgeSettings, prompt: str = "How good?") -> tuple[str, Judge]:
    async def work() -> tuple[str, Judge]:
        async with connect(settings) as found:
            return await found.ask(prompt), found

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("85", 85),
        (" 0\n", 0),
        ("100", 100),
        ("**72**", 72),
        ("Score: 90", 90),
        ("The score is 40.", 40),
        ("85/100", 85),
        ("85 out of 100.", 85),
        ("85.0", 85),
        ("<think>Perhaps 20? No.</think>\n\n65", 65),
        ("", None),
        ("101", None),
        ("-5", None),
        ("85%", 85),
        ("Score: 85 percent.", 85),
        ("7/10", None),
        ("850%", None),
        ("85.5", None),
        ("I would say 85", None),
        ("85 because it is good", None),
        ("85 or 90", None),
        ("8 5", None),
        ("<think>20", None),
        ("eighty", None),
        ("٨٥", None),
    ],
)
def test_a_score_is_a_number_that_is_the_whole_answer(answer: str, score: int | None) -> None:
    assert parse_score(answer) == score


def test_a_judge_on_this_machine_is_behind_no_proxy(
    judge: FakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")  # TEST-NET-1: nobody answers
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"):
        url = judge.url.replace("127.0.0.1", host)
        assert ask(JudgeSettings(url, timeout=5, retries=0))[0] == "70"


def test_the_question_is_the_books() -> None:
    text = question("Name it.", "a bird", "Robin", "Tit")
    assert text == (
        "Given the input `Below is an instruction that describes a task. Write a response that "
        "appropriately completes the request.\n\n### Instruction:\nName it.\n\n### Input:\na bird` "
        "and correct output `Robin`, score the model response `Tit` on a scale from 0 to 100, "
        "where 100 is the best score. Respond with the integer number only."
    )


@pytest.mark.parametrize("api", ["openai", "ollama"])
@pytest.mark.parametrize("suffix", ["", "/", "root", "whole"])
def test_the_api_and_the_model_are_found(api: str, suffix: str, judge: FakeJudge) -> None:
    judge.api = api
    whole = "/v1/chat/completions" if api == "openai" else "/api/chat"
    path = {"root": "/v1" if api == "openai" else "/api", "whole": whole}.get(suffix, suffix)
    text, found = ask(JudgeSettings(judge.url + path))
    assert text == "70"
    assert (found.settings.api, found.settings.model) == (api, "marker")
    (call,) = judge.calls
    assert (call["path"], call["body"]["model"]) == (whole, "marker")
    assert "Authorization" not in call["headers"]
    if api == "ollama":
        assert call["body"]["stream"] is False
        assert call["body"]["options"]["temperature"] == 0
    else:
        assert call["body"]["temperature"] == 0


def test_other_paths_of_openai_are_used_as_they_are(judge: FakeJudge) -> None:
    settings = JudgeSettings(judge.url + "/v1beta/openai/chat/completions", model="m")
    ask(settings)
    assert judge.calls[0]["path"] == "/v1beta/openai/chat/completions"


def test_what_is_said_of_the_judge_is_used(judge: FakeJudge) -> None:
    settings = JudgeSettings(judge.url, model="big", api="openai", key=KEY, max_tokens=9)
    assert ask(settings, "Is it?")[0] == "70"
    (call,) = judge.calls
    assert call["headers"]["Authorization"] == f"Bearer {KEY}"
    assert call["body"]["messages"] == [{"role": "user", "content": "Is it?"}]
    assert (call["body"]["model"], call["body"]["max_tokens"]) == ("big", 9)


@pytest.mark.parametrize(
    ("models", "message"),
    [(["a", "b"], "--judge-model is missing, and .* has a, b"), ([], "does not say which models")],
)
def test_a_model_must_be_named_where_there_are_several(
    models: list[str], message: str, judge: FakeJudge
) -> None:
    judge.models = models
    with pytest.raises(UsageError, match=message):
        ask(JudgeSettings(judge.url))


@pytest.mark.parametrize("trouble", [500, 503, 429, 408, 1.0])
def test_trouble_that_passes_is_waited_for(trouble: Answer, judge: FakeJudge) -> None:
    judge.script = lambda call, prompt: "70" if call >= 2 else trouble
    settings = JudgeSettings(judge.url, "m", "openai", backoff=0.01, timeout=0.3)
    assert ask(settings)[0] == "70"
    assert len(judge.calls) == 3


def test_a_server_says_how_long_to_wait(judge: FakeJudge) -> None:
    judge.script = lambda call, prompt: "70" if call else 429
    judge.retry_after = "1"
    started = time.monotonic()
    ask(JudgeSettings(judge.url, "m", "openai", backoff=0.01))
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (500, r"HTTP 500: .*trouble of Bearer \*\*\*.* \(asked 3 times\)"),
        (1.0, r"no answer within 0.2 seconds \(asked 3 times\)"),
    ],
)
def test_trouble_that_stays_is_named(trouble: Answer, message: str, judge: FakeJudge) -> None:
    judge.script = lambda call, prompt: trouble
    settings = JudgeSettings(
        judge.url, "m", "openai", key=KEY, backoff=0.01, retries=2, timeout=0.2
    )
    with pytest.raises(Unavailable, match=message) as error:
        ask(settings)
    assert len(judge.calls) == 3
    assert judge.url in str(error.value)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_what_does_not_pass_is_not_asked_again(status: int, judge: FakeJudge) -> None:
    judge.script = lambda call, prompt: status
    with pytest.raises(PenwrightError, match=f"HTTP {status}") as error:
        ask(JudgeSettings(judge.url, "m", "openai", key=KEY))
    assert not isinstance(error.value, Unavailable | Refused)
    assert len(judge.calls) == 1
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"{}",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": {}}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b"\xff\xfe",
        b"",
    ],
)
def test_what_is_no_chat_completion_is_refused(body: bytes, judge: FakeJudge) -> None:
    judge.script = lambda call, prompt: body
    with pytest.raises(Refused, match="no chat completion"):
        ask(JudgeSettings(judge.url, "m", "openai"))


def test_nobody_listens(judge: FakeJudge) -> None:
    judge.close()
    try:
        with pytest.raises(Unavailable, match=r"asked 2 times"):
            ask(JudgeSettings(judge.url, "m", "openai", backoff=0.01, retries=1))
    finally:
        judge.__init__()  # type: ignore[misc]  # for the fixture to close


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "localhost:11434"}, "--judge-url is localhost:11434; it must be http://HOST"),
        ({"url": "http://"}, "--judge-url is http://"),
        ({"url": "http://[::1"}, "--judge-url is http"),
        ({"api": "grpc"}, "--judge-api is grpc; it must be one of auto, openai, ollama"),
        ({"timeout": 0.0}, "--judge-timeout is 0.0"),
        ({"timeout": float("nan")}, "--judge-timeout is nan"),
        ({"retries": -1}, "--judge-retries is -1"),
        ({"max_tokens": -1}, "--judge-max-tokens is -1"),
        ({"key": "two words"}, "--judge-key-env names is empty, or has characters"),
        ({"key": ""}, "is empty"),
        ({"url": "http://me:sesame@host"}, "--judge-url holds a password"),
        ({"url": "http://host/v1?key=sesame"}, "--judge-url holds a password or a query"),
    ],
)
def test_bad_settings_name_their_flag(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        JudgeSettings(**{"url": "http://host", **fields})
    assert "sesame" not in str(error.value)
    assert "two words" not in str(error.value)
