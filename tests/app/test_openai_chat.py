"""Chats with the official `openai` client."""

from collections import defaultdict
from typing import Any, Literal

import httpx
import openai
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel, ConfigDict

from model.prompts import instruction_prompt

from .conftest import CONTEXT

SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 3}


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def test_a_chat_of_one_message_is_an_instruction(ai: openai.OpenAI, client: httpx.Client) -> None:
    settings = {**SAMPLED, "max_tokens": 20}
    answer = ai.chat.completions.create(
        model="instruct", messages=[user("Say it.")], extra_body={"ignore_eos": True}, **settings
    )
    body = {"instruction": "Say it.", "max_new_tokens": 20, "ignore_eos": True, **SAMPLED}
    own = client.post("/instruct", json=body).json()
    [choice] = answer.choices
    assert choice.message.content == own["response"]
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == own["usage"]["prompt_tokens"]
    assert answer.usage.prompt_tokens_details is not None
    assert own["usage"]["cached_tokens"] > 0
    again = ai.chat.completions.create(
        model="instruct", messages=[user("Say it.")], max_completion_tokens=1
    )
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == own["usage"]["cached_tokens"]


def test_a_chat_reads_its_whole_history(ai: openai.OpenAI, client: httpx.Client) -> None:
    def tokens(text: str) -> int:
        return len(client.post("/tokenize", json={"text": text}).json()["tokens"])

    first = ai.chat.completions.create(
        model="instruct", messages=[user("Hello!")], max_tokens=5, seed=1
    )
    answer = ai.chat.completions.create(
        model="instruct",
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            user("Hello!"),
            first.choices[0].message,  # type: ignore[list-item]  # as everybody does
            {
                "role": "user",
                "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "is it?"}],
            },
        ],
        max_tokens=1,
    )
    expected = instruction_prompt(
        "Be brief.\n\nWho\nis it?", f"User: Hello!\nAssistant: {first.choices[0].message.content}"
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == tokens(expected)


def test_a_chat_without_a_limit_goes_on_to_the_end_of_the_context(ai: openai.OpenAI) -> None:
    text = "a" * (CONTEXT - 300)
    answer = ai.chat.completions.create(
        model="instruct", messages=[user(text)], extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens == CONTEXT


def test_logprobs_of_a_chat(ai: openai.OpenAI) -> None:
    answer = ai.chat.completions.create(
        model="instruct",
        messages=[user("Say it.")],
        max_tokens=12,
        logprobs=True,
        top_logprobs=2,
        extra_body={"ignore_eos": True},
        **SAMPLED,
    )
    [choice] = answer.choices
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert len(content) == 12
    said = b"".join(bytes(each.bytes or []) for each in content if each.token != "<|endoftext|>")
    assert said.decode("utf-8", "replace") == choice.message.content
    assert all(len(each.top_logprobs) == 2 for each in content)
    assert all(each.logprob <= each.top_logprobs[0].logprob for each in content)
    none = ai.chat.completions.create(
        model="instruct", messages=[user("Say it.")], max_tokens=2, logprobs=True
    )
    assert none.choices[0].logprobs is not None
    assert [each.top_logprobs for each in none.choices[0].logprobs.content or []] == [[], []]


def test_a_streamed_chat_is_the_same(ai: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": "instruct", "messages": [user("Say it.")], "max_tokens": 20}
    body |= {"n": 3, "logprobs": True, "top_logprobs": 1, **SAMPLED}
    whole = ai.chat.completions.create(**body)
    options: Any = {"include_usage": True}
    chunks: list[ChatCompletionChunk] = list(
        ai.chat.completions.create(**body, stream=True, stream_options=options)
    )
    *chunks, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.total_tokens == whole.usage.total_tokens
    texts: dict[int, str] = defaultdict(str)
    tokens: dict[int, list[Any]] = defaultdict(list)
    reasons = {}
    for chunk in chunks:
        assert chunk.usage is None
        assert "usage" in chunk.model_fields_set
        [choice] = chunk.choices
        # The role comes first, and once.
        assert (choice.delta.role == "assistant") == (choice.index not in texts)
        texts[choice.index] += choice.delta.content or ""
        if choice.logprobs is not None:
            tokens[choice.index] += choice.logprobs.content or []
        if choice.finish_reason is not None:
            reasons[choice.index] = choice.finish_reason
    for choice in whole.choices:
        assert texts[choice.index] == choice.message.content
        assert tokens[choice.index] == choice.logprobs.content
        assert reasons[choice.index] == choice.finish_reason


class Mood(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mood: Literal["glad", "sad"]
    sure: bool


def test_an_answer_is_parsed_into_a_model(ai: openai.OpenAI) -> None:
    for seed in range(3):
        answer = ai.chat.completions.parse(
            model="instruct", messages=[user("How is he?")], response_format=Mood, seed=seed
        )
        [choice] = answer.choices
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Mood)
        assert Mood.model_validate_json(choice.message.content or "") == choice.message.parsed


def test_the_clients_own_stream_helper_puts_a_chat_together(ai: openai.OpenAI) -> None:
    with ai.chat.completions.stream(
        model="instruct", messages=[user("How is he?")], response_format=Mood, seed=1
    ) as stream:
        found = stream.get_final_completion()
    whole = ai.chat.completions.parse(
        model="instruct", messages=[user("How is he?")], response_format=Mood, seed=1
    )
    assert isinstance(found.choices[0].message.parsed, Mood)
    assert found.choices[0].message.parsed == whole.choices[0].message.parsed
