"""Templates that are not built in give the token ids that `apply_chat_template` gives."""

import datetime
from pathlib import Path
from typing import Any

import jinja2
import pytest
import transformers.utils.chat_template_utils as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from model.errors import UsageError
from model.prompts import (
    EndOfDocument,
    JinjaTemplate,
    Message,
    Role,
    Special,
    ToolCall,
    encode,
    find_template,
)
from model.tokenizer import Tokenizer
from model.tokenizer.hugging_face import read_tokenizer
from tests.foreign_templates import BOS, EOS, SPECIAL, STYLES, new_tokenizer

Conversation = list[tuple[Role, str]]
CONVERSATIONS: tuple[Conversation, ...] = (
    [("user", "Name a bird.")],
    [("user", "")],
    [("user", "  ")],
    [("user", " Name a bird. \n")],
    [("user", "naïve 日本語 👍🏽 \u2028 \ue000")],
    [("user", "a < b > c [d] {{ e }} {% f %} | </th")],
    [("user", "<think>x</think> <tool_response>")],
    [("user", "A.\r\n\tB.")],
    [("system", "Be brief."), ("user", "Name a bird.")],
    [("system", ""), ("user", "Name a bird.")],
    [("system", " \n"), ("user", "")],
    [("system", "Be brief. "), ("user", "A."), ("assistant", "B. "), ("user", "C.")],
    [("user", "Name a bird."), ("assistant", "A wren.")],
    [("user", "Name a bird."), ("assistant", "")],
    [("user", "Name a bird."), ("assistant", "A wren. \n"), ("user", "Another? ")],
    [("user", "A."), ("assistant", "B."), ("user", "C."), ("assistant", "D.")],
    [("user", "A."), ("assistant", "<think>\nt\n</think>\n\nB."), ("user", "C.")],
    [
        ("user", "A."),
        ("assistant", "naïve 日本語 👍🏽"),
        ("user", "C."),
        ("assistant", "D < E [F]"),
    ],
    [("user", "A."), ("user", "B."), ("assistant", "C.")],
    [("user", "A."), ("system", "B."), ("user", "C."), ("assistant", "D."), ("user", "E.")],
    [("user", "Name a bird."), ("assistant", "A wren."), ("user", "?"), ("assistant", "")] * 3,
)
FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Finds <things>, naïve ones as well.",
        "parameters": {
            "type": "object",
            "properties": {"what": {"type": "string", "enum": ["a", "é"]}},
            "required": ["what"],
        },
    },
}


class Both:
    """A template here, and in `transformers`, with the same tokenizer."""

    def __init__(self, style: str, directory: Path) -> None:
        self.peer: Any = new_tokenizer(directory, STYLES[style])
        self.tokenizer: Tokenizer = read_tokenizer(directory)
        found, problem = find_template(STYLES[style], self.tokenizer.special.ids, BOS, EOS)
        assert problem is None
        assert isinstance(found, JinjaTemplate)
        self.template = found

    def expected(self, conversation: Conversation, answer: bool, **more: Any) -> Any:
        dicts = [{"role": role, "content": text} for role, text in conversation]
        return self.peer.apply_chat_template(
            dicts, add_generation_prompt=answer, tokenize=True, **more
        )


@pytest.fixture(scope="module", params=STYLES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def _same_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Then(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Then":
            return cls(2024, 7, 26)

    monkeypatch.setattr(theirs, "datetime", Then)


def messages(conversation: Conversation) -> list[Message]:
    return [Message(role, text) for role, text in conversation]


def assert_same(both: Both, conversation: Conversation, answer: bool, **more: Any) -> None:
    """The same ids, or a refusal in the template's own words in both."""
    refusal = None
    try:
        expected = both.expected(conversation, answer, return_dict=False, **more)
    except jinja2.TemplateError as error:
        refusal = str(error)
    if refusal is not None:
        with pytest.raises(UsageError, match=f"template refuses the conversation: {refusal}"):
            both.template.render(messages(conversation), answer=answer, **more)
        return
    parts = both.template.render(messages(conversation), answer=answer, **more)
    assert encode(parts, both.tokenizer).ids == expected


@pytest.mark.parametrize("answer", [True, False])
def test_the_token_ids_are_those_of_the_original(both: Both, answer: bool) -> None:
    for conversation in CONVERSATIONS:
        assert_same(both, conversation, answer)


@pytest.mark.parametrize("answer", [True, False])
def test_tools_are_passed_on(tmp_path: Path, answer: bool) -> None:
    both = Both("tools", tmp_path)
    for conversation in CONVERSATIONS:
        assert_same(both, conversation, answer, tools=[FIND, FIND])
    assert "Finds" in both.peer.decode(
        both.expected([("user", "")], True, tools=[FIND])["input_ids"]
    )


@pytest.mark.parametrize("tools", [None, [FIND]])
def test_calls_and_results_are_passed_on(tmp_path: Path, tools: Any) -> None:
    both = Both("calls", tmp_path)
    arguments = {"what": "<é>", "more": [1, {"a": None}]}
    made = ToolCall("find", arguments, "1")
    called = {"id": "1", "type": "function", "function": {"name": "find", "arguments": arguments}}
    asked = [{"role": "user", "content": "Where is it?"}]
    asked.append({"role": "assistant", "content": "I look.", "tool_calls": [called, called]})
    asked += [{"role": "tool", "name": "find", "tool_call_id": "1", "content": "<b>"}] * 2
    expected = both.peer.apply_chat_template(
        asked, add_generation_prompt=True, tools=tools, return_dict=False
    )
    messages = [Message("user", "Where is it?"), Message("assistant", "I look.", calls=(made,) * 2)]
    messages += [Message("user", "<b>", result_of=made)] * 2
    assert encode(both.template.render(messages, tools=tools), both.tokenizer).ids == expected


def test_most_conversations_are_rendered_by_most_templates(both: Both) -> None:
    """Or the comparison above would be one of refusals."""
    rendered = 0
    for conversation in CONVERSATIONS:
        try:
            both.template.render(messages(conversation))
            rendered += 1
        except UsageError:
            continue
    assert rendered >= 14


def test_blocks_are_said_as_transformers_masks_them(tmp_path: Path) -> None:
    both = Both("generation", tmp_path)
    for conversation in CONVERSATIONS:
        expected = both.expected(
            conversation, False, return_dict=True, return_assistant_tokens_mask=True
        )
        encoded = encode(both.template.render(messages(conversation), answer=False), both.tokenizer)
        assert encoded.ids == expected["input_ids"]
        assert encoded.said == [bool(said) for said in expected["assistant_masks"]]


_ROLES: st.SearchStrategy[Role] = st.sampled_from(["user", "assistant", "system"])
_PIECES = st.lists(
    st.sampled_from(
        ["<", "|", ">", "</", "</s", "im_end|>", "[", "INST]", " ", "\n", "a", "é", "s"]
    ),
    max_size=6,
).map("".join)


@settings(deadline=None)  # the first example starts a process
@given(st.lists(st.tuples(_ROLES, _PIECES | st.text(max_size=9)), min_size=1, max_size=4))
def test_without_a_special_token_the_text_is_that_of_the_original(
    conversation: Conversation,
) -> None:
    """Whatever else is in it, its beginning and its end included."""
    for template in _FREE:
        _render_as_original(template, conversation)


_FREE = [JinjaTemplate.of(STYLES[style], SPECIAL, BOS, EOS) for style in ("zephyr", "thoughts")]
"""Turns may come in any order."""


def _render_as_original(template: JinjaTemplate, conversation: Conversation) -> None:
    dicts = [{"role": role, "content": text} for role, text in conversation]
    texts, _ = render_jinja_template(
        [dicts],
        chat_template=template.text,
        add_generation_prompt=True,
        bos_token=BOS,
        eos_token=EOS,
    )
    parts = template.render(messages(conversation))
    text = "".join("" if isinstance(part, EndOfDocument) else part.text for part in parts)
    assert text == texts[0]
    # A user's special token is there as text, and all others are the template's.
    neutral = [Message(role, "x") for role, _ in conversation]
    specials = [part.text for part in parts if isinstance(part, Special)]
    assert specials == [p.text for p in template.render(neutral) if isinstance(p, Special)]
