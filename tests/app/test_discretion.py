"""What the log does not say."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.keys.key_file import digest
from app.ops import logs

from .conftest import process, serve, until_ready
from .with_keys import ENV, bearer

MARK = "xyzzy-plugh"
PROGRAM = """
import sys
from app import cli
from model.tokenizer import Tokenizer
encode = Tokenizer.encode
def fail(self, text):
    if "explode" in text:
        try:
            {}[text]
        except KeyError:
            raise ValueError(f"cannot cut {text}")
    return encode(self, text)
Tokenizer.encode = fail
sys.exit(cli.main(sys.argv[1:]))
"""


def bodies(path: str) -> Iterator[Any]:
    """What is right and wrong for every route that has a body."""
    right = {"prompt": MARK, "text": MARK, "instruction": MARK, "input": MARK, "tokens": [1]}
    by_path: dict[str, dict[str, Any]] = {
        "/generate": {"prompt": MARK, "stop": MARK, "max_new_tokens": 4},
        "/classify": {"text": [MARK, MARK]},
        "/instruct": {"instruction": MARK, "input": MARK, "max_new_tokens": 4},
        "/tokenize": {"text": MARK},
        "/v1/completions": {"model": "base", "prompt": MARK, "max_tokens": 4},
        "/v1/chat/completions": {
            "model": "instruct",
            "messages": [{"role": "user", "content": MARK}],
            "max_tokens": 4,
        },
        "/v1/embeddings": {"model": "base", "input": MARK},
        "/v1/messages": {
            "model": "instruct",
            "system": MARK,
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": MARK}]},
                {"role": "assistant", "content": MARK},
            ],
            "max_tokens": 4,
        },
        "/v1/messages/count_tokens": {
            "model": "instruct",
            "messages": [{"role": "user", "content": MARK}],
        },
        "/api/chat": {
            "model": "instruct",
            "messages": [{"role": "user", "content": MARK}],
            "options": {"num_predict": 4},
        },
        "/api/generate": {"model": "base", "prompt": MARK, "options": {"num_predict": 4}},
        "/api/embed": {"model": "base", "input": MARK},
        "/api/show": {"model": MARK},
    }
    body = by_path.get(path, {})
    if body:
        yield body
        yield {**body, "stream": True}
        yield json.loads(json.dumps(body).replace(MARK, f"{MARK} explode"))
        yield {**body, "model": MARK}
        yield {**body, MARK: MARK}
    yield right
    yield {key: [MARK, {MARK: MARK}] for key in right}
    yield f'{{"prompt": "{MARK}'
    yield f'{{"prompt": "{MARK}\\ud800"}}'


def hammer(url: str, key: str) -> dict[int, int]:
    """Every route with every body; how often each status came."""
    statuses: dict[int, int] = {}
    with httpx.Client(base_url=url, headers=bearer(key), timeout=30) as client:
        for path, operations in client.get("/openapi.json").json()["paths"].items():
            for method in operations:
                for body in bodies(path) if method == "post" else [""]:
                    content = body if isinstance(body, str) else json.dumps(body)
                    answer = client.request(
                        method,
                        path,
                        content=content,
                        params={"q": MARK},
                        headers={"Content-Type": "application/json", "X-Other": MARK},
                    )
                    statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        client.post("/generate", json={"prompt": MARK}, headers=bearer(MARK + MARK))
    return statuses


def test_neither_texts_nor_keys_are_in_the_log(checkpoints: Path) -> None:
    flags = ("--models", str(checkpoints), "--log-level", "debug")
    with process(*flags, program=("-c", PROGRAM), PENWRIGHT_API_KEY=ENV) as (started, url):
        reader = Reader(started)
        until_ready(started, url)
        statuses = hammer(url, ENV)
        started.terminate()
        started.wait(20)
        text = reader.text()
    assert {200, 400, 403, 404, 422, 500} <= set(statuses), statuses
    assert text.count("Traceback") >= statuses[500]
    assert "ValueError: (a message that may quote a request" in text
    assert "in fail" in text
    assert MARK not in text
    assert ENV not in text
    assert digest(ENV) not in text


@pytest.mark.parametrize("formatter", [logs.JSONFormatter(), logs.TextFormatter()])
def test_a_traceback_has_messages_only_of_kinds_that_quote_nothing(
    formatter: logging.Formatter,
) -> None:
    def line(logger: str, error: Exception) -> str:
        try:
            try:
                raise KeyError(MARK)
            except KeyError as cause:
                raise error from cause
        except Exception:
            record = logging.LogRecord(logger, 40, "", 1, "failed", (), sys.exc_info())
        logs.Discreet().filter(record)
        return formatter.format(record)

    assert MARK not in line("app.access", ValueError(MARK))
    assert MARK not in line("asyncio", ExceptionGroup(MARK, [ValueError(MARK)]))
    shown = line("uvicorn.error", RuntimeError("shapes 2 and 3 differ"))
    assert "shapes 2 and 3 differ" in shown
    assert MARK not in shown
    assert "raise KeyError(MARK)" in shown  # the line of the source
    assert f"KeyError: '{MARK}'" in line("app.engine.loading", RuntimeError("at the start"))


def test_texts_are_logged_when_asked_for_cut_and_under_their_request(
    checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(logs.RequestIds())
    body = {"prompt": [MARK, "b" * 3000], "max_new_tokens": 1}
    with serve(models=checkpoints, log_prompts=True) as live:
        answer = live.client.post("/generate", json=body, headers={"X-Request-ID": "mine"})
        assert answer.status_code == 200
    [record] = [record for record in caplog.records if hasattr(record, "texts")]
    assert vars(record)["request_id"] == "mine"
    assert vars(record)["texts"] == [MARK, "b" * 1000]


class Reader:
    """Reads what a process writes, so that its pipe does not fill up."""

    def __init__(self, started: subprocess.Popen[str]) -> None:
        self._pieces: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(started,), daemon=True)
        self._thread.start()

    def _read(self, started: subprocess.Popen[str]) -> None:
        assert started.stderr is not None
        self._pieces.extend(started.stderr)

    def text(self) -> str:
        self._thread.join(10)
        return "".join(self._pieces)
