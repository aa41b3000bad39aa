"""What the assistant says in a conversation, by templates that say nothing of it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import UsageError
from model.prompts import JinjaTemplate, Message, Role, Text, encode
from tests.foreign_templates import (
    ANSWER,
    ASKED,
    EOS,
    IDS,
    STYLES,
    TEMPLATES,
    THOUGHTS,
    TOKENIZER,
    of,
    said,
    written,
)
from tests.model import test_templates as built_in

each_style = pytest.mark.parametrize("style", STYLES)


@each_style
def test_what_the_assistant_says_is_its_text_and_what_ends_its_turn(style: str) -> None:
    parts = TEMPLATES[style].render([*ASKED, ANSWER], answer=False)
    end = {
        "mistral": EOS,
        "gemma": "<end_of_turn>",
        "phi3": "<|end|>",
        "command": "<|END_OF_TURN|>",
        "llama2": f" {EOS}",
        "tools": "<|im_end|>",
        "thoughts": "<|im_end|>",
        "calls": "<|im_end|>",
    }.get(style, EOS)
    # What stands between the end of a prompt and the answer is generated as well.
    before = {"mistral": " ", "llama2": " "}.get(style, "")
    assert said(parts) == f"{before}A wren.{end}{before}A rook.{end}"


@each_style
@pytest.mark.parametrize("answer", ["A rook.", "", " a \n", "<|im_end|></s>", "</think>x", "<"])
def test_the_prompt_of_serving_is_how_training_begins(style: str, answer: str) -> None:
    template = TEMPLATES[style]
    prompt = encode(template.render(ASKED), TOKENIZER)
    whole = encode(template.render([*ASKED, replace(ANSWER, text=answer)], answer=False), TOKENIZER)
    begin = len(prompt.ids)
    assert whole.ids[:begin] == prompt.ids
    assert whole.said[:begin] == prompt.said
    assert whole.said[begin]
    ends = [at for at in range(begin, len(whole.ids)) if whole.ids[at] in IDS.values()]
    assert whole.said[begin : ends[0] + 1] == [True] * (ends[0] + 1 - begin)
    assert not any(whole.said[ends[0] + 1 :])


@each_style
def test_what_is_not_learnt_is_cut_in_the_same_places(style: str) -> None:
    template = TEMPLATES[style]
    ignored = [replace(message, learnt=False) for message in ASKED]
    both, last, neither = (
        template.render(messages, answer=False)
        for messages in (
            [*ASKED, ANSWER],
            [*ignored, ANSWER],
            [*ignored, replace(ANSWER, learnt=False)],
        )
    )
    assert said(both).endswith(said(last))
    assert 0 < len(said(last)) < len(said(both))
    assert said(neither) == ""
    assert [(p.text, p.said) for p in both] == [(p.text, p.said) for p in neither]  # type: ignore[union-attr]
    assert encode(both, TOKENIZER).ids == encode(last, TOKENIZER).ids


def test_a_turn_that_later_ones_change_is_not_said() -> None:
    thought = Message("assistant", "<think>\nA bird?\n</think>\n\nA wren.")
    plain = Message("assistant", "A wren.")
    template = TEMPLATES["thoughts"]
    for earlier, wanted in ((thought, ""), (plain, "A wren.<|im_end|>")):
        parts = template.render([ASKED[0], earlier, ASKED[2], thought], answer=False)
        assert said(parts) == f"{wanted}{thought.text}<|im_end|>"
        assert written(parts).count("A bird?") == 1


def test_where_no_token_ends_a_turn_all_that_it_adds_is_said() -> None:
    template = of(
        "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant: {% endif %}"
    )
    parts = template.render([*ASKED, ANSWER], answer=False)
    assert [part for part in parts if part.said] == [
        Text("A wren.\n", True),
        Text("A rook.\n", True),
    ]


def test_a_block_without_the_end_of_a_turn_is_followed_by_it() -> None:
    text = STYLES["generation"].replace(
        "message.content + eos_token -}}{% endgeneration %}",
        "message.content -}}{% endgeneration %}{{- eos_token -}}",
    )
    assert text != STYLES["generation"]
    conversation = [*ASKED, ANSWER]
    parts = of(text).render(conversation, answer=False)
    assert parts == TEMPLATES["generation"].render(conversation, answer=False)


def test_a_block_that_is_changed_before_it_is_written_does_not_count() -> None:
    text = (
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}"
        "{% set x %}{% generation %} {{ m.content }} {% endgeneration %}{% endset %}"
        "{{ x | trim }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert said(of(text).render([*ASKED, ANSWER], answer=False)) == "A wren.<|end|>A rook.<|end|>"


def test_nobody_begins_to_speak_within_a_special_token() -> None:
    template = of(
        "{% for m in messages %}{{ m.content }}<|im_{{ 'start' if m.role == 'user' else 'end' }}|>"
        "{% endfor %}{% if add_generation_prompt %}{{ '' }}{% endif %}"
    )
    turned = of(
        "{% for m in messages %}{{ '<|im_' if m.role == 'assistant' }}end|>{{ m.content }}"
        "{% endfor %}{{ '<|im_' if add_generation_prompt }}"
    )
    assert said(template.render([*ASKED, ANSWER], answer=False)).endswith("A rook.<|im_end|>")
    with pytest.raises(UsageError, match="the chat template does not write it as it is"):
        turned.render([*ASKED, ANSWER], answer=False)


def test_an_answer_that_does_not_follow_its_prompt_cannot_be_learnt() -> None:
    """Its prompt already begins to think."""
    template = of(THOUGHTS.replace("assistant\\n' -}}", "assistant\\n<think>\\n' -}}"))
    assert written(template.render(ASKED)).endswith("assistant\n<think>\n")
    template.render([*ASKED, ANSWER, ASKED[0]], answer=False)
    reason = r"'<think>\\n', which the conversation does not have there"
    with pytest.raises(UsageError, match=f"cannot be told from the rest: .* ends with {reason}"):
        template.render([*ASKED, ANSWER], answer=False)
    thinking = replace(ANSWER, text="<think>\nt</think>A rook.")
    parts = template.render([*ASKED, thinking], answer=False)
    assert said(parts) == "t</think>A rook.<|im_end|>"


BUILT_IN = [
    (template, JinjaTemplate.of(template.jinja(), built_in.IDS, None, "<|endoftext|>"))
    for template in built_in.TEMPLATES
]
WORDS = st.lists(st.sampled_from([*" \n<>|[a]é", "<|im_end|>", "<|eot_id|>", "ab", "im_"])).map(
    "".join
)


@settings(deadline=None)  # the first example starts processes
@given(st.none() | WORDS, st.lists(WORDS, min_size=1, max_size=4))
def test_what_is_built_in_has_the_same_tokens_by_its_jinja(
    system: str | None, texts: list[str]
) -> None:
    """And the same of them are said, found out from the texts alone."""
    tokenizer = built_in.Bytes()
    roles: list[Role] = ["user", "assistant"] * 2
    messages = [] if system is None else [Message("system", system)]
    messages += map(Message, roles, texts)
    answer = messages[-1].role == "user"
    for ours, by_jinja in BUILT_IN:
        expected = encode(ours.render(messages, answer=answer), tokenizer)
        assert encode(by_jinja.render(messages, answer=answer), tokenizer) == expected


@pytest.mark.parametrize(
    ("style", "messages", "reason"),
    [
        ("zephyr", [ANSWER], "nothing comes before it"),
        ("phi3", [ANSWER], "nothing comes before it"),
        ("llama2", [Message("system", "Be brief."), ANSWER], "the chat template's prompt .* empty"),
    ],
)
def test_an_answer_to_nothing_cannot_be_learnt(
    style: str, messages: list[Message], reason: str
) -> None:
    with pytest.raises(UsageError, match=f"last cannot be told from the rest: {reason}"):
        TEMPLATES[style].render(messages, answer=False)


def test_an_answer_to_what_the_template_refuses_cannot_be_learnt() -> None:
    refusal = "{% if messages[-1].role == 'assistant' and add_generation_prompt %}"
    template = of(refusal + "{{ raise_exception('again?') }}{% endif %}" + THOUGHTS)
    template.render([*ASKED, ANSWER], answer=False)
    with pytest.raises(UsageError, match=r"without it, the chat template refuses .*: again\?"):
        template.render([*ASKED, ANSWER, ANSWER], answer=False)
