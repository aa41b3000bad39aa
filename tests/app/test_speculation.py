"""Speculation over HTTP: answers say how much it drafted, and are the same without."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.architecture import Architecture
from model.checkpoint import save_base
from model.cpu import library
from model.engine.speculation import Speculation
from training.data.vocabulary import train_tokenizer

from .conftest import TEXT, Live, _network, events, serve

pytestmark = pytest.mark.skipif(
    library.load() is None, reason="the C kernels are not compiled: there is no speculation"
)
BODY: dict[str, Any] = {
    "prompt": ["The old man and the sea. The old man and", "Once upon a time"],
    "n": 2,
    "max_new_tokens": 150,
    "seed": 1,
    "response_format": {"type": "regex", "regex": "((old|new) man and ){30}"},
}
"""Texts that repeat themselves, with some that cannot be foretold."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a shape that the kernels compute."""
    path = tmp_path_factory.mktemp("models") / "base"
    config = Architecture(300, 512, n_layer=1, n_head=1, n_embd=16)
    save_base(path, _network(config, 1), train_tokenizer([TEXT], 300), card={})
    return path


@pytest.fixture(scope="module")
def drafting(base: Path) -> Iterator[Live]:
    """A service that makes each draft, whatever it costs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Speculation, "length", lambda self, chance, most: most)
        with serve(base=base) as live:
            yield live


def counted(live: Live) -> tuple[float, float]:
    """Drafted and accepted tokens, as /metrics has them."""
    text = live.client.get("/metrics").text
    drafted, accepted = (
        re.search(rf"^penwright_{kind}_tokens_total (\S+)$", text, re.M)
        for kind in ("drafted", "accepted")
    )
    assert drafted
    assert accepted
    return float(drafted[1]), float(accepted[1])


def ask(client: httpx.Client, **more: Any) -> Any:
    answer = client.post("/generate", json=BODY | more)
    assert answer.status_code == 200
    return answer.json()


def test_answers_and_metrics_say_what_was_drafted(drafting: Live) -> None:
    before = counted(drafting)
    timings = ask(drafting.client)["timings"]
    assert 0 < timings["accepted_tokens"] < timings["drafted_tokens"]
    drafted, accepted = counted(drafting)
    assert drafted - before[0] == timings["drafted_tokens"]
    assert accepted - before[1] == timings["accepted_tokens"]


def test_a_stream_says_it_at_its_end(drafting: Live) -> None:
    with drafting.client.stream("POST", "/generate", json=BODY | {"stream": True}) as answer:
        *pieces, (_, end), _ = events(answer)
    whole = ask(drafting.client)
    assert end["timings"]["accepted_tokens"] == whole["timings"]["accepted_tokens"] > 0
    texts = ["", "", "", ""]
    for _, piece in pieces:
        texts[piece["index"]] += piece["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_without_it_answers_are_the_same(drafting: Live, base: Path) -> None:
    with serve(base=base, speculate=False) as plain:
        for more in ({}, {"temperature": 0, "logprobs": 2}, {"n": 1, "stop": ["new man and old"]}):
            without, with_it = ask(plain.client, **more), ask(drafting.client, **more)
            assert without["choices"] == with_it["choices"]
            ended = [answer["usage"]["completion_tokens"] for answer in (without, with_it)]
            assert ended[0] == ended[1]
            assert without["timings"]["drafted_tokens"] == 0
            assert without["timings"]["accepted_tokens"] == 0
        assert counted(plain) == (0, 0)
