"""A base that has a chat template answers instructions by its name beside an adapter that answers
them by default."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from model.architecture import Architecture
from model.checkpoint import load_base, save_base
from model.prompts import Alpaca

from .conftest import CONTEXT, Live, _adapter, _network, serve

BODY = {"instruction": "Say it.", "max_new_tokens": 8, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def live(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    models = tmp_path_factory.mktemp("set")
    tokenizer = load_base(checkpoints / "base").tokenizer
    config = Architecture(300, CONTEXT, n_layer=2, n_head=2, n_embd=16)
    network = _network(config, 1)
    base = save_base(models / "base", network, tokenizer, card={}, template=Alpaca())
    _adapter(base, models / "follower", "instruct", None, 4)
    names = {"generate": "base", "instruct": "follower"}
    (models / "models.json").write_text(json.dumps({"format_version": 1, **names}))
    with serve(models=models) as live:
        yield live


def test_both_say_that_they_do(live: Live) -> None:
    models = live.client.get("/models").json()["models"]
    tasks = {model["name"]: model["tasks"] for model in models}
    assert tasks == {"base": ["generate", "instruct"], "follower": ["instruct"]}


def ask(live: Live, **more: object) -> httpx.Response:
    answer = live.client.post("/instruct", json={**BODY, **more})
    assert answer.status_code == 200, answer.text
    return answer


def test_the_adapter_answers_unless_the_base_is_named(live: Live) -> None:
    usual, base = ask(live), ask(live, model="base")
    assert usual.headers["x-model"] == "follower"
    assert base.headers["x-model"] == "base"
    assert usual.json()["response"] != base.json()["response"]
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as ai:
        chat = ai.chat.completions.create(
            model="base",
            messages=[{"role": "user", "content": "Say it."}],
            max_tokens=8,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
    assert chat.choices[0].message.content == base.json()["response"]
