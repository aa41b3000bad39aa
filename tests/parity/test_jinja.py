"""Templates written in Jinja, as exports have them, render what ours render."""

from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from model.errors import UsageError
from model.prompts import (
    Alpaca,
    ChatML,
    EndOfDocument,
    Llama3,
    Message,
    Qwen3,
    Role,
    Template,
    recognise,
)
from model.prompts.llama3 import DATES

END = "<|endoftext|>"
TEMPLATES = (
    Alpaca(),
    ChatML(),
    ChatML('You\'re "kind".\n\\n #} {{ no }} {# é 👍🏽 \u2028'),
    Qwen3(),
    Qwen3(thinking=False),
    Llama3(),
    Llama3(DATES),
)
Conversation = list[tuple[Role, str]]
THOUGHT = "<think>\nA bird?\n</think>\n\nA wren."
CONVERSATIONS: tuple[Conversation, ...] = (
    [("user", "Name a bird.")],
    [("system", "Be brief."), ("user", "Name a bird.")],
    [("system", ""), ("user", "")],
    [("system", "A."), ("user", "B."), ("assistant", "C."), ("user", "D.")],
    [("user", "A."), ("assistant", "B."), ("user", "C."), ("assistant", "D.")],
    [("user", "A."), ("system", "B."), ("user", "C."), ("system", "D."), ("user", "E.")],
    [("user", "A."), ("assistant", THOUGHT), ("user", "C."), ("assistant", THOUGHT)],
    [("user", "A."), ("assistant", THOUGHT), ("assistant", "D."), ("assistant", "\n\nE.")],
    [("user", "A."), ("assistant", THOUGHT), ("user", "<tool_response>\n</tool_response>")],
    [("assistant", "A.</think>B.</think>\nC."), ("user", " It's\t{{ messages }}\r\n ")],
)


def ours(template: Template, conversation: Conversation, answer: bool) -> str:
    parts = template.render([Message(*turn) for turn in conversation], answer=answer)
    return "".join(END if isinstance(part, EndOfDocument) else part.text for part in parts)


def theirs(template: Template, conversation: Conversation, answer: bool, **more: Any) -> str:
    dicts = [{"role": role, "content": text} for role, text in conversation]
    texts, _ = render_jinja_template(
        [dicts],
        chat_template=template.jinja(),
        add_generation_prompt=answer,
        eos_token=END,
        **more,
    )
    return str(texts[0])


def assert_same(template: Template, conversation: Conversation, answer: bool) -> None:
    """The same text, or an error in both."""
    try:
        expected = ours(template, conversation, answer)
    except UsageError:
        if conversation[-1][0] == "user":  # see `test_alpacas_prompt_without_being_asked_for_it`
            return
        with pytest.raises(jinja2.TemplateError, match="must be the user's"):
            theirs(template, conversation, answer)
        return
    assert theirs(template, conversation, answer) == expected


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_conversations(template: Template, answer: bool) -> None:
    for conversation in CONVERSATIONS:
        assert_same(template, conversation, answer)


_ROLES: st.SearchStrategy[Role] = st.sampled_from(["system", "user", "assistant"])
_TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "\n", " ", "\t", "a", "b", "<tool_response>", "é"])
).map("".join)


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
@given(st.lists(st.tuples(_ROLES, _TEXTS | st.text()), min_size=1, max_size=6), st.booleans())
def test_any_conversation(template: Template, conversation: Conversation, answer: bool) -> None:
    assert_same(template, conversation, answer)


def test_alpacas_prompt_without_being_asked_for_it() -> None:
    """`apply_chat_template` does not ask for an answer by default."""
    conversation: Conversation = [("system", "A."), ("user", "B.")]
    prompt = ours(Alpaca(), conversation, True)
    assert theirs(Alpaca(), conversation, False) == prompt
    assert "A.\n\nB." in prompt


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_can_be_asked_for(thinking: bool) -> None:
    """By the variable of Qwen3's own template."""
    conversation: Conversation = [("user", "A.")]
    for template in (Qwen3(True), Qwen3(False)):
        text = theirs(template, conversation, True, enable_thinking=thinking)
        assert text == ours(Qwen3(thinking), conversation, True)


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_other_roles_are_refused(template: Template) -> None:
    said = "a message's role is none of system, user, assistant"
    with pytest.raises(jinja2.TemplateError, match=said):
        theirs(template, [("user", "A."), ("tool", "B."), ("user", "C.")], True)  # type: ignore[list-item]


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_it_is_known_again(template: Template) -> None:
    text = template.jinja()
    assert recognise(text) == template
    assert recognise(f"{text}\n") == template


@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"{text} ",
        lambda text: f" {text}",
        lambda text: text.replace("assistant", "user"),
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace('"version": 1', '"version": [1]'),
        lambda text: text.replace('{"name"', '{"name": 1, "name"'),
        lambda text: text.replace("penwright", "penwrite"),
    ],
)
def test_what_differs_in_a_letter_is_not(change: Any) -> None:
    for template in TEMPLATES:
        assert change(template.jinja()) != template.jinja()
        assert recognise(change(template.jinja())) is None
