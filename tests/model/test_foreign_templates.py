"""Templates that are not built in: what is refused, and what is kept."""

import copy
import pickle
from typing import Any

import pytest

from model.errors import CheckpointError, UsageError
from model.prompts import ChatML, JinjaTemplate, Message, find_template, from_settings
from model.tokenizer import GPT2_PATTERN, SpecialTokens, Tokenizer
from tests.foreign_templates import (
    ASKED,
    BOS,
    EOS,
    IDS,
    SPECIAL,
    STYLES,
    TEMPLATES,
    THOUGHTS,
    TOKENIZER,
    TOOLS,
    written,
)

each_style = pytest.mark.parametrize("style", STYLES)


def test_a_template_refuses_in_its_own_words() -> None:
    wanted = "the chat template refuses the conversation: no system role"
    with pytest.raises(UsageError, match=wanted):
        TEMPLATES["gemma"].render([Message("system", "Be brief."), *ASKED])


@each_style
def test_no_messages_are_refused(style: str) -> None:
    with pytest.raises(UsageError, match="at least one message"):
        TEMPLATES[style].render([])


def test_tools_have_a_place() -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "find"}}]
    for template in (TEMPLATES["zephyr"], TEMPLATES["tools"], ChatML()):
        assert template.render(ASKED, tools=[]) == template.render(ASKED)
        assert '"name": "find"' in written(template.render(ASKED, tools=tools))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{% if %}", "is no valid Jinja: line 1: Expected an expression"),
        ("\n{% for m in messages %}", "is no valid Jinja: line 2: Unexpected end of template"),
        ("{{ messages[3].content.x }}", "fails: UndefinedError: list object has no element 3"),
        ("{{ raise_exception('not\n\n' ~ 'here') }}", "refuses the conversation: not here"),
        ("{{ raise_exception('a' * 999) }}", "refuses the conversation: " + 199 * "a" + "…"),
        ("Hello", "leaves out what the user says"),
        ("{% for p in messages[0].content %}{{ p.text }}{% endfor %}", "leaves out what the user"),
        ("{{ messages[0].content + pad_token }}", "reads pad_token, which is not given here"),
        ("{#" + " " * 2**20 + "#}", "has more than 1048576 characters"),
        ("{% include 'a' %}", "fails: TypeError: no loader for this environment"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_the_reason(text: str, problem: str) -> None:
    found = find_template(text, SPECIAL)
    assert found.template is None
    assert found.problem is not None
    assert found.problem.startswith(f"it {problem}")
    assert "\n" not in found.problem


def test_a_special_token_of_one_character_is_refused() -> None:
    found = find_template(TOOLS, ["<|im_start|>", "¦"])
    assert found.problem == "the special token '¦' is too short to be told from a user's text"
    template = JinjaTemplate.of(TOOLS, ["¦"])
    with pytest.raises(CheckpointError, match=r"^model: the special token '¦' is too short"):
        template.check(TOKENIZER, "model")


def test_what_a_file_has_for_a_template() -> None:
    assert find_template(None, SPECIAL) == (None, None)
    assert find_template(7, SPECIAL) == (None, "it is no text")
    assert find_template([{"name": "rag", "template": TOOLS}], SPECIAL).problem == "it is no text"
    named = [{"name": "rag", "template": ""}, {"name": "default", "template": TOOLS}]
    assert find_template(named, SPECIAL) == (JinjaTemplate.of(TOOLS, SPECIAL), None)


# Settings


def test_a_token_is_kept_only_where_it_is_read() -> None:
    assert TEMPLATES["mistral"].named_tokens() == {"bos_token": BOS, "eos_token": EOS}
    assert TEMPLATES["zephyr"].named_tokens() == {"eos_token": EOS}
    assert TEMPLATES["thoughts"] == JinjaTemplate.of(THOUGHTS, SPECIAL[::-1])


@each_style
def test_settings_give_the_template_back(style: str) -> None:
    template = TEMPLATES[style]
    assert from_settings(template.settings(), "config.json") == template
    assert template.jinja() == STYLES[style]


def test_a_copy_is_the_same_template() -> None:
    template = TEMPLATES["zephyr"]
    parts = template.render(ASKED)
    for copied in (copy.deepcopy(template), pickle.loads(pickle.dumps(template))):
        assert copied == template
        assert copied.render(ASKED) == parts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 1}, "text is 1; it must be a text"),
        ({"special_tokens": "<s>"}, "special_tokens is '<s>'; it must be a list"),
        ({"special_tokens": ["<s>", 1]}, r"special_tokens\[1\] is 1; it must be a text"),
        ({"bos_token": 1}, "bos_token is 1; it must be a text or null"),
        ({"pad_token": ""}, "jinja has no setting 'pad_token'"),
    ],
)
def test_other_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: template.*{message}"):
        from_settings({**TEMPLATES["zephyr"].settings(), **change}, "config.json")


def test_a_tokenizer_needs_the_special_tokens() -> None:
    template = TEMPLATES["zephyr"]
    template.check(TOKENIZER, "model")
    ids = {text: token for text, token in IDS.items() if text != "[INST]"}
    tokenizer = Tokenizer({b"a": 0}, GPT2_PATTERN, SpecialTokens.of(ids))
    with pytest.raises(CheckpointError, match=r"model: the chat template has .* \[INST\], which"):
        template.check(tokenizer, "model")
