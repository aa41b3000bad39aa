"""Anthropic's own client: what it sends is done, and what it gets it understands."""

import textwrap
from typing import Any

from tests.app.conftest import CONTEXT, Live
from tests.app.with_keys import USER

from .conftest import Run

CLIENT = """
import anthropic
ai = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
body = {
    "model": "instruct",
    "max_tokens": 20,
    "messages": [{"role": "user", "content": "Say it."}],
    "extra_body": {"temperature": 0},  # which newer clients have no parameter for
}
"""


def program(text: str) -> str:
    return CLIENT + textwrap.dedent(text)


def instruct(live: Live) -> Any:
    body = {"instruction": "Say it.", "max_new_tokens": 20, "temperature": 0}
    return live.client.post("/instruct", json=body).json()


def test_a_message(run: Run, live: Live) -> None:
    own = instruct(live)
    found = run(
        program(
            """
            answer = ai.messages.create(**body)
            assert isinstance(answer, anthropic.types.Message)
            count = ai.messages.count_tokens(model="instruct", messages=body["messages"])
            print(json.dumps([answer.model_dump(), answer._request_id, count.input_tokens]))
            """
        )
    )
    answer, request_id, count = found
    assert [block["text"] for block in answer["content"]] == [own["response"]]
    assert answer["stop_reason"] in ("max_tokens", "end_turn")
    assert request_id
    usage = answer["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == count
    assert count == own["usage"]["prompt_tokens"]


def test_a_stream_in_both_ways(run: Run, live: Live) -> None:
    own = instruct(live)
    pieces, final, raw, kinds = run(
        program(
            """
            with ai.messages.stream(**body) as stream:
                pieces = list(stream.text_stream)
                final = stream.get_final_message()
            events = list(ai.messages.create(**body, stream=True))
            raw = [e.delta.text for e in events if e.type == "content_block_delta"]
            kinds = [e.type for e in events]
            print(json.dumps([pieces, final.model_dump(), raw, kinds]))
            """
        )
    )
    assert len(pieces) > 5
    assert "".join(pieces) == "".join(raw) == own["response"]
    assert [block["text"] for block in final["content"]] == [own["response"]]
    assert final["usage"]["output_tokens"] == own["usage"]["completion_tokens"]
    assert final["stop_reason"] in ("max_tokens", "end_turn")
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_a_conversation_with_an_answer_of_its_own(run: Run) -> None:
    stop, counted = run(
        program(
            """
            first = ai.messages.create(**body)
            turns = [
                *body["messages"],
                {"role": "assistant", "content": first.content},  # as everybody does
                {"role": "user", "content": [{"type": "text", "text": "Again!"}]},
                {"role": "assistant", "content": "Well,"},
            ]
            second = ai.messages.create(
                model="instruct", max_tokens=20, messages=turns, system="Be brief.",
                stop_sequences=["never said"], metadata={"user_id": "somebody"},
                extra_body={"top_k": 5, "top_p": 0.9},
            )
            usage = second.usage
            count = ai.messages.count_tokens(
                model="instruct", messages=turns, system="Be brief."
            ).input_tokens
            read = usage.input_tokens + usage.cache_read_input_tokens
            print(json.dumps([second.stop_reason, count == read]))
            """
        )
    )
    assert stop in ("max_tokens", "end_turn")
    assert counted


def test_errors_are_the_clients_exceptions(run: Run, guarded: Live) -> None:
    found = run(
        program(
            f"""
            calls = [
                dict(body, model="nobody"),
                dict(body, max_tokens={CONTEXT}),
                dict(body, extra_body={{"temperature": -1}}),
                dict(body, tools=[{{"name": "f", "input_schema": {{"type": "object"}}}}]),
                dict(body, thinking={{"type": "enabled", "budget_tokens": 1024}}),
                dict(body, messages=[{{"role": "user", "content": "a" * (1 << 21)}}]),
            ]
            found = []
            for call in calls:
                try:
                    ai.messages.create(**call)
                except anthropic.APIStatusError as error:
                    found.append([type(error).__name__, error.body["error"], error.request_id])
            print(json.dumps(found))
            """
        )
    )
    kinds = [
        ("NotFoundError", "not_found_error", "no model 'nobody'"),
        ("BadRequestError", "invalid_request_error", f"max_tokens is {CONTEXT}"),
        ("UnprocessableEntityError", "invalid_request_error", "temperature: "),
        ("BadRequestError", "invalid_request_error", "tools: "),
        ("BadRequestError", "invalid_request_error", "thinking: "),
        ("ContentTooLargeError", "request_too_large", "bytes"),
    ]
    assert [(name, error["type"]) for name, error, _ in found] == [kind[:2] for kind in kinds]
    for (_, error, request_id), (_, _, message) in zip(found, kinds, strict=True):
        assert message in error["message"]
        assert request_id
    keys = run(
        f"""
        import anthropic
        found = []
        for key in ("wrong", {USER!r}):
            ai = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
            try:
                messages = [{{"role": "user", "content": "a"}}]
                ai.messages.count_tokens(model="instruct", messages=messages)
                found.append("let in")
            except anthropic.AuthenticationError as error:
                found.append(error.body["error"]["type"])
        print(json.dumps(found))
        """,
        guarded,
    )
    assert keys == ["authentication_error", "let in"]
