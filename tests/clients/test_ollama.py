"""Ollama's own client: what it sends is done, and what it gets it understands."""

import textwrap

from tests.app.conftest import CONTEXT, Live
from tests.app.with_keys import USER

from .conftest import Run

CLIENT = """
import ollama
ai = ollama.Client(host=url)
messages = [{"role": "user", "content": "Say it."}]
options = {"temperature": 0, "num_predict": 20}
"""


def program(text: str) -> str:
    return CLIENT + textwrap.dedent(text)


def test_chats_and_texts(run: Run, live: Live) -> None:
    body = {"instruction": "Say it.", "max_new_tokens": 20, "temperature": 0}
    own = live.client.post("/instruct", json=body).json()
    chat, pieces, last, text, pair = run(
        program(
            """
            chat = ai.chat(model="instruct", messages=messages, options=options, keep_alive="5m")
            parts = list(ai.chat("instruct:latest", messages, options=options, stream=True))
            pieces = [part.message.content for part in parts]
            text = ai.generate("instruct", "Say it.", options=options).response
            pair = [
                ai.generate("base", "The sea", options=options, raw=raw).response
                for raw in (False, True)
            ]
            more = ai.chat("instruct", [*messages, chat.message, *messages], options=options)
            assert more.prompt_eval_count > chat.prompt_eval_count
            print(json.dumps([chat.model_dump(), pieces, parts[-1].model_dump(), text, pair]))
            """
        )
    )
    assert chat["message"]["content"] == "".join(pieces) == text == own["response"]
    assert len(pieces) > 5
    assert pair[0] == pair[1] != ""
    for answer in (chat, last):
        assert answer["done"] is True
        assert answer["done_reason"] in ("stop", "length")
        assert answer["eval_count"] == own["usage"]["completion_tokens"]
        assert answer["total_duration"] > 0


def test_forms_and_vectors(run: Run, live: Live) -> None:
    own = live.client.post("/v1/embeddings", json={"model": "base", "input": ["a", "b"]}).json()
    mood, vectors = run(
        program(
            """
            schema = {
                "type": "object",
                "properties": {"mood": {"enum": ["glad", "sad"]}},
                "required": ["mood"],
                "additionalProperties": False,
            }
            said = ai.chat("instruct", messages, format=schema, options={"seed": 1}).message
            found = ai.embed("base", ["a", "b"])
            print(json.dumps([json.loads(said.content), found.embeddings]))
            """
        )
    )
    assert mood["mood"] in ("glad", "sad")
    assert vectors == [each["embedding"] for each in own["data"]]


def test_what_is_served(run: Run) -> None:
    names, running, shown, loaded = run(
        program(
            """
            names = [model.model for model in ai.list().models]
            running = [model.model for model in ai.ps().models]
            shown = ai.show("instruct")
            loaded = ai.generate("base", keep_alive=-1).done_reason
            print(json.dumps([names, running, shown.modelinfo, loaded]))
            """
        )
    )
    assert names == running == ["base:latest", "spam:latest", "instruct:latest"]
    assert shown["gpt2.context_length"] == CONTEXT
    assert loaded == "load"


def test_errors_are_the_clients_exceptions(run: Run, guarded: Live) -> None:
    found = run(
        program(
            """
            calls = [
                lambda: ai.chat("nobody", messages),
                lambda: list(ai.chat("nobody", messages, stream=True)),
                lambda: ai.chat("instruct", messages, think=True),
                lambda: ai.generate("base", "a", suffix="b"),
                lambda: ai.generate("base", "a", options={"mirostat": 1}),
                lambda: ai.pull("base"),
            ]
            found = []
            for call in calls:
                try:
                    call()
                except ollama.ResponseError as error:
                    found.append([error.status_code, error.error])
            print(json.dumps(found))
            """
        )
    )
    expected = [
        *[(404, "there is no model 'nobody'")] * 2,
        (400, "think: "),
        (400, "suffix: "),
        (400, "options.mirostat: "),
        (404, "there is nothing at /api/pull"),
    ]
    assert [status for status, _ in found] == [status for status, _ in expected]
    for (_, message), (_, start) in zip(found, expected, strict=True):
        assert message.startswith(start)
    keys = run(
        f"""
        import ollama
        found = []
        for key in ("wrong", {USER!r}):
            ai = ollama.Client(host=url, headers={{"Authorization": f"Bearer {{key}}"}})
            try:
                found.append(len(ai.list().models))
            except ollama.ResponseError as error:
                found.append(error.status_code)
        print(json.dumps(found))
        """,
        guarded,
    )
    assert keys == [401, 3]
