"""Tools in chats with the official `openai` client, whose calls are valid even from noise."""

import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import openai
import pytest
import torch
from pydantic import BaseModel, Field

from tests.app.conftest import Live, serve
from tests.app.test_foreign import write_directory

PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city"],
}


def tool(name: str, parameters: Any = PLACE, **more: Any) -> Any:
    function = {"name": name, "description": f"Tells the {name}.", "parameters": parameters}
    return {"type": "function", "function": {**function, **more}}


WEATHER, NOW = tool("weather"), tool("now", None)
QUESTION: Any = {"role": "user", "content": "How warm is it?"}
CHAT: dict[str, Any] = {
    "model": "instruct",
    "messages": [QUESTION],
    "tools": [WEATHER, NOW],
    "temperature": 3.0,
    "max_tokens": 400,
}


def is_a_call(choice: Any) -> None:
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    assert call.id.startswith("call_")
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    if call.function.name == "now":
        assert arguments == {}
    else:
        assert call.function.name == "weather"
        jsonschema.validate(arguments, {**PLACE, "additionalProperties": False})


@pytest.mark.parametrize("parallel", [True, False])
def test_required_calls_are_always_valid(ai: openai.OpenAI, parallel: bool) -> None:
    names, ids = set(), []
    for seed in range(3):
        answer = ai.chat.completions.create(
            **CHAT, tool_choice="required", seed=seed, n=8, parallel_tool_calls=parallel
        )
        for choice in answer.choices:
            is_a_call(choice)
            names.add(choice.message.tool_calls[0].function.name)
            ids.append(choice.message.tool_calls[0].id)
    assert names == {"weather", "now"}
    assert len(set(ids)) == len(ids)


def test_a_named_function_is_the_one_that_is_called(ai: openai.OpenAI) -> None:
    chosen: Any = {"type": "function", "function": {"name": "weather"}}
    for choice in ai.chat.completions.create(**CHAT, tool_choice=chosen, seed=1, n=8).choices:
        is_a_call(choice)
        assert choice.message.tool_calls[0].function.name == "weather"


@pytest.mark.parametrize("choice", [openai.omit, "auto"])
def test_auto_leaves_it_to_the_model(ai: openai.OpenAI, choice: Any) -> None:
    """Which here writes noise; see below for one that calls."""
    answer = ai.chat.completions.create(**CHAT, tool_choice=choice, seed=1, n=8)
    for each in answer.choices:
        assert each.finish_reason in ("stop", "length")
        assert each.message.tool_calls is None
        assert each.message.content
    begin = {**CHAT, "temperature": 0, "max_tokens": 60}
    plain = ai.chat.completions.create(**{**begin, "tools": openai.omit}, logprobs=True)
    told = ai.chat.completions.create(**begin, tool_choice=choice, logprobs=True)
    assert told.usage.prompt_tokens > plain.usage.prompt_tokens
    untold = ai.chat.completions.create(**begin, tool_choice="none", logprobs=True)
    assert untold.usage.prompt_tokens == plain.usage.prompt_tokens
    assert untold.choices[0].message.content == plain.choices[0].message.content


def stream(
    ai: openai.OpenAI, **body: Any
) -> tuple[dict[int, list[Any]], dict[int, str], list[Any]]:
    """The deltas and the reason of each choice, and the log-probabilities of the first."""
    deltas: dict[int, list[Any]] = defaultdict(list)
    reasons, logprobs = {}, []
    for chunk in ai.chat.completions.create(**body, stream=True):
        [choice] = chunk.choices
        deltas[choice.index].append(choice.delta)
        if choice.finish_reason is not None:
            assert choice.index not in reasons
            reasons[choice.index] = choice.finish_reason
        if choice.logprobs is not None and choice.index == 0:
            logprobs += choice.logprobs.content or []
    return deltas, reasons, logprobs


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("most", [400, 12])
def test_a_streamed_call_is_the_same(ai: openai.OpenAI, choice: Any, most: int) -> None:
    body = {**CHAT, "tool_choice": choice, "n": 4, "seed": 5, "max_tokens": most}
    body |= {"logprobs": True, "top_logprobs": 1}
    whole = ai.chat.completions.create(**body)
    deltas, reasons, logprobs = stream(ai, **body)
    assert logprobs == whole.choices[0].logprobs.content
    for each in whole.choices:
        assert reasons[each.index] == each.finish_reason
        first, *others = deltas[each.index]
        assert first.role == "assistant"
        assert all(delta.role is None for delta in others)
        made = [call for delta in deltas[each.index] for call in delta.tool_calls or ()]
        text = "".join(delta.content or "" for delta in deltas[each.index])
        assert text == (each.message.content or "")
        if each.message.tool_calls is None:
            assert not made
            continue
        [called] = each.message.tool_calls
        assert first.content is None
        assert {call.index for call in made} == {0}
        begin, *rest = made
        assert (begin.type, begin.function.name) == ("function", called.function.name)
        assert begin.id.startswith("call_")
        assert begin.function.arguments == ""
        assert all(call.id is None and call.function.name is None for call in rest)
        assert "".join(call.function.arguments for call in rest) == called.function.arguments


def test_a_call_that_is_cut_says_so(ai: openai.OpenAI) -> None:
    body = {**CHAT, "tool_choice": "required", "tools": [WEATHER], "seed": 2}
    full = ai.chat.completions.create(**body)
    whole = full.choices[0].message.tool_calls[0].function.arguments
    seen = set()
    for most in (1, *range(5, full.usage.completion_tokens, 3)):
        [choice] = ai.chat.completions.create(**{**body, "max_tokens": most}).choices
        if choice.finish_reason == "tool_calls":
            assert choice.message.tool_calls[0].function.arguments == whole
            continue
        assert choice.finish_reason == "length"
        if choice.message.tool_calls is None:
            assert choice.message.content == ""
            seen.add("nothing")
        else:
            assert whole.startswith(choice.message.tool_calls[0].function.arguments)
            seen.add("a part")
    assert seen == {"nothing", "a part"}


def test_the_clients_own_helpers_read_calls(ai: openai.OpenAI) -> None:
    class Place(BaseModel):
        city: str = Field(max_length=8)

    tools: Any = [openai.pydantic_function_tool(Place)]
    body: dict[str, Any] = {**CHAT, "tools": tools, "tool_choice": "required", "seed": 3}
    parsed = ai.chat.completions.parse(**body)
    [call] = parsed.choices[0].message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Place)
    with ai.chat.completions.stream(**body) as found:
        final = found.get_final_completion()
    [again] = final.choices[0].message.tool_calls or ()
    assert again.function.parsed_arguments == call.function.parsed_arguments
    assert final.choices[0].finish_reason == "tool_calls"


def test_results_go_back_into_the_conversation(ai: openai.OpenAI, client: httpx.Client) -> None:
    """In the plain form, since the template has no other; each way in which clients write them."""
    first = ai.chat.completions.create(**CHAT, tool_choice="required", seed=1)
    message = first.choices[0].message
    call = message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}
    counts = set()
    for asked in (
        [message, result],
        [message.model_dump(exclude_none=True), {**result, "name": call.function.name}],
        [
            {"role": "assistant", "tool_calls": [call.model_dump()]},
            {**result, "content": [{"type": "text", "text": "12 degrees"}]},
        ],
    ):
        answer = ai.chat.completions.create(
            model="instruct", messages=[QUESTION, *asked], max_tokens=5, tools=[WEATHER, NOW]
        )
        counts.add(answer.usage.prompt_tokens)
    assert len(counts) == 1
    without = ai.chat.completions.create(
        model="instruct", messages=[QUESTION, message, result], max_tokens=5
    )
    written = f'{{"name": "{call.function.name}", "arguments": {call.function.arguments}}}'
    turns = [
        QUESTION,
        {"role": "assistant", "content": written},
        {"role": "user", "content": f"Result of {call.function.name}:\n12 degrees"},
    ]
    plain = ai.chat.completions.create(model="instruct", messages=turns, max_tokens=5)
    assert plain.usage.prompt_tokens == without.usage.prompt_tokens


def test_others_get_what_they_get_alone(client: httpx.Client) -> None:
    bodies = [
        {**CHAT, "seed": i, "tool_choice": choice, "max_tokens": 100}
        for i in range(3)
        for choice in ("auto", "required", "none")
    ]

    def answered(body: dict[str, Any]) -> Any:
        choices = client.post("/v1/chat/completions", json=body).json()["choices"]
        for choice in choices:
            for call in choice["message"].get("tool_calls") or ():
                del call["id"]
        return choices

    alone = [answered(body) for body in bodies]
    with ThreadPoolExecutor(9) as threads:
        assert list(threads.map(answered, bodies)) == alone


ASSISTANT: dict[str, Any] = {
    "role": "assistant",
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    ],
}


def calling(**change: Any) -> dict[str, Any]:
    [call] = ASSISTANT["tool_calls"]
    return {**ASSISTANT, "tool_calls": [{**call, "function": {**call["function"], **change}}]}


def history(*messages: Any) -> dict[str, Any]:
    return {"messages": [QUESTION, *messages, QUESTION]}


INVALID: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [tool("weather", {"type": "array"})]}, "tools[0].function.parameters", "no object"),
    (
        {"tools": [NOW, tool("weather", {"type": "object", "not": {"required": ["a"]}})]},
        "tools[1].function.parameters",
        '"not"',
    ),
    (
        {"tools": [NOW, tool("a", {"properties": {"a": {"$ref": "#/$defs/a"}}})]},
        "tools[1].function.parameters",
        "$defs/a",
    ),
    (
        {"tools": [tool("a", {"properties": {"a": {"const": "x" * 40_000}}})]},
        "tools[0].function.parameters",
        "at most 32768",
    ),
    (
        {
            "tools": [
                tool(f"a{i}", {"properties": {"a": {"const": "x" * 30_000}}}) for i in range(5)
            ]
        },
        "tools",
        "at most 131072",
    ),
    ({"tools": [tool("a b")]}, "tools[0].function.name", "pattern"),
    ({"tools": [tool("a" * 65)]}, "tools[0].function.name", "pattern"),
    ({"tools": [NOW] * 2}, "tools", "two functions named 'now'"),
    ({"tools": [tool(f"a{i}") for i in range(129)]}, "tools", "at most 128"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
    ({"tool_choice": "always"}, "tool_choice", "'none', 'auto' or 'required'"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "rain"}}},
        "tool_choice",
        "names 'rain', which is none of `tools`: weather, now",
    ),
    ({"tool_choice": "required", "tools": []}, "tool_choice", "there are no `tools`"),
    ({"response_format": {"type": "json_object"}}, "response_format", "not supported beside"),
    ({"ignore_eos": True}, "ignore_eos", "with tools"),
    (
        history(ASSISTANT, {"role": "tool", "tool_call_id": "b", "content": "1"}),
        "messages[2].tool_call_id",
        "of no earlier message's tool_calls; the last ones are: a",
    ),
    (history({"role": "tool", "content": "1"}), "messages[1].tool_call_id", "required"),
    (history({"role": "tool", "tool_call_id": "a"}), "messages[1].content", "required"),
    (
        history({"role": "user", "content": "a", "tool_call_id": "a"}),
        "messages[1].tool_call_id",
        "of the role 'tool' only",
    ),
    (history({**ASSISTANT, "role": "user"}), "messages[1].tool_calls", "'assistant' only"),
    (history({"role": "assistant"}), "messages[1].content", "required"),
    (history({"role": "assistant", "tool_calls": []}), "messages[1].content", "required"),
    (
        history({"role": "assistant", "tool_calls": [{"id": "a"}]}),
        "messages[1].tool_calls[0].type",
        "required",
    ),
    *(
        (
            history(calling(arguments=arguments)),
            "messages[1].tool_calls[0].function.arguments",
            "is no JSON object",
        )
        for arguments in ("{", "[]", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 5000)
    ),
    ({"messages": [QUESTION, ASSISTANT]}, "messages", "the last one must be the user's"),
]


@pytest.mark.parametrize(("change", "param", "said"), INVALID)
def test_what_is_wrong_is_named(
    client: httpx.Client, change: dict[str, Any], param: str, said: str
) -> None:
    answer = client.post("/v1/chat/completions", json={**CHAT, **change})
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert len(error["message"]) < 600


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0]"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        (
            history({"role": "assistant", "tool_calls": [{"type": "custom", "id": "a"}]}),
            "messages[1].tool_calls[0]",
        ),
    ],
)
def test_what_is_not_supported_is_refused(
    client: httpx.Client, change: dict[str, Any], param: str
) -> None:
    answer = client.post("/v1/chat/completions", json={**CHAT, **change})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")


def test_json_that_is_none_for_others(client: httpx.Client) -> None:
    for schema in ('{"const": NaN}', '{"const": "\\ud800"}', '{"a": ' * 400 + "1" + "}" * 400):
        text = json.dumps({**CHAT, "tools": [tool("a", "SCHEMA")]}).replace('"SCHEMA"', schema)
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/chat/completions", content=text, headers=headers)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["param"] == "tools[0].function.parameters"


def test_what_asks_for_nothing_is_accepted(ai: openai.OpenAI) -> None:
    plain = {"model": "instruct", "messages": [QUESTION], "max_tokens": 2}
    for change in (
        {"tools": []},
        {"tools": [], "tool_choice": "auto"},
        {"tool_choice": "none"},
        {"parallel_tool_calls": True},
        {"tools": [WEATHER], "tool_choice": "none", "response_format": {"type": "json_object"}},
        {"tools": [WEATHER], "response_format": {"type": "text"}},
    ):
        assert ai.chat.completions.create(**plain, **change).choices[0].message  # type: ignore[call-overload]


def test_a_schema_that_becomes_too_complex_is_one_of_the_tools(client: httpx.Client) -> None:
    hostile = {"type": "string", "pattern": "^(([a-z]{1,100}){1,100}){1,100}$"}
    schema = {"properties": {"a": hostile}, "required": ["a"]}
    body = {**CHAT, "tools": [tool("a", schema)], "tool_choice": "required", "seed": 1}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"].startswith("tools")


# A template that has words of its own for tools, and a model that calls one

TALKS = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    '{% for call in message.tool_calls or [] %}{{ \'<fn>\n{"name": "\' + call.function.name '
    "+ '\", \"input\": ' + call.function.arguments | tojson + '}</fn>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAYS = "\nI <fn>"
"""Each character follows the one before it, whatever else was said."""
PICK = tool("pick", {"properties": {"one": {"enum": [1, 2]}}, "required": ["one"]})
PICKED = ('{"one": 1}', '{"one": 2}')


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("made") / "talker"
    peer, tokenizer = write_directory("llama-each-its-own", directory, TALKS)
    tokens = [tokenizer.encode(each, add_special_tokens=False)[0] for each in SAYS]
    with torch.no_grad():
        for layer in peer.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        peer.model.norm.weight.fill_(1.0)
        peer.lm_head.weight.zero_()
        for before, after in pairwise(tokens):
            hidden = peer.model.embed_tokens.weight[before]
            peer.lm_head.weight[after] = hidden / hidden.square().mean().sqrt()
    peer.save_pretrained(directory)
    with serve(base=directory, quantize="none") as live:
        yield live


TALK: dict[str, Any] = {
    "model": "talker",
    "messages": [QUESTION],
    "tools": [PICK],
    "temperature": 0,
    "max_tokens": 90,
    "logprobs": True,
}


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_call_is_written_as_the_template_does(talker: Live, choice: str) -> None:
    body = {**TALK, "tool_choice": choice}
    [answer] = talker.client.post("/v1/chat/completions", json=body).json()["choices"]
    said = "I " if choice == "auto" else None
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] == said
    [call] = answer["message"]["tool_calls"]
    assert call["function"]["name"] == "pick"
    assert call["function"]["arguments"] in PICKED
    entries = answer["logprobs"]["content"]
    written = b"".join(bytes(entry["bytes"]) for entry in entries).decode()
    expected = f'<fn>\n{{"name": "pick", "input": {call["function"]["arguments"]}}}</fn>'
    assert written.removesuffix("<|im_end|>") == (said or "") + expected
    assert sum(entry["forced"] for entry in entries) > 15
    result = {"role": "tool", "tool_call_id": call["id"], "content": "1"}
    again = {**body, "messages": [QUESTION, answer["message"], result]}
    assert talker.client.post("/v1/chat/completions", json=again).status_code == 200


def test_text_comes_before_a_call_in_a_stream_too(talker: Live) -> None:
    with openai.OpenAI(base_url=f"{talker.url}/v1", api_key="none", max_retries=0) as ai:
        [whole] = ai.chat.completions.create(**TALK).choices
        deltas, reasons, logprobs = stream(ai, **TALK)
    assert reasons == {0: "tool_calls"}
    assert "".join(delta.content or "" for delta in deltas[0]) == "I "
    calls = [call.function for delta in deltas[0] for call in delta.tool_calls or ()]
    assert [call.name for call in calls if call.name] == ["pick"]
    assert "".join(call.arguments or "" for call in calls) in PICKED
    assert whole.logprobs is not None
    assert logprobs == whole.logprobs.content


def test_with_none_the_same_text_is_no_call(talker: Live) -> None:
    body = {**TALK, "tool_choice": "none", "max_tokens": 6}
    [answer] = talker.client.post("/v1/chat/completions", json=body).json()["choices"]
    assert answer["message"]["content"].startswith("I <fn>")
    assert answer["finish_reason"] == "length"
    assert "tool_calls" not in answer["message"]


def test_a_text_that_is_cut_at_a_mark_is_text(talker: Live) -> None:
    for most, said in ((1, "I"), (4, "I <f"), (5, "I <fn"), (6, "I ")):
        body = {**TALK, "max_tokens": most}
        [answer] = talker.client.post("/v1/chat/completions", json=body).json()["choices"]
        assert answer["message"]["content"] == said
        assert answer["finish_reason"] == "length"
        assert "tool_calls" not in answer["message"]


def test_a_template_is_asked_for_its_form_by_many_at_once(talker: Live) -> None:
    body = {**TALK, "max_tokens": 3}
    with ThreadPoolExecutor(4) as threads:
        asked = [body] * 8
        found = list(
            threads.map(lambda b: talker.client.post("/v1/chat/completions", json=b), asked)
        )
    assert {answer.status_code for answer in found} == {200}
