"""The template that a model's file means, by the text of its Jinja template.

Templates that look alike render differently, and nothing complains when a model is given the wrong
one. So a text is recognised only if it is known whole: as one of those whose SHA-256 is here, as
plain ChatML on one line, in which the default system message alone may differ, or as what one of
our templates gives. Any other is rendered as it is, by Jinja (`JinjaTemplate`).
"""

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from model.errors import CheckpointError
from model.json_files import parse_json
from model.prompts.chatml import ChatML
from model.prompts.foreign.template import JinjaTemplate
from model.prompts.llama3 import DATES, Llama3
from model.prompts.qwen3 import Qwen3
from model.prompts.settings import from_settings
from model.prompts.template import Template

_QWEN25 = ChatML("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")

_KNOWN: dict[str, Template] = {
    # Qwen2.5-Instruct, 0.5B to 72B
    "55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a": _QWEN25,
    # Qwen3-Instruct-2507
    "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326": ChatML(),
    # Qwen3, first published
    "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5": Qwen3(),
    # Qwen3, with contents that may be no string
    "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8": Qwen3(),
    # Qwen3 in GGUF files; a user's text with a tool's result anywhere in it is one
    "57f1fd00f0013a2be96aa79b857391f27e23df5b5f847072b524c897e24d0361": Qwen3(),
    # Llama 3, first published: always ends with the assistant's header
    "b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2": Llama3(),
    # Llama 3
    "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122": Llama3(),
    # Llama 3.1 and 3.3
    "93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7": Llama3(DATES),
    # Llama 3.2
    "d82792f95932f1c9cef5c4bd992f171225e3bf8c7b609b4557c9e1ec96be819f": Llama3(DATES),
}
"""By the SHA-256 of a text as `_normalised` gives it."""

_ONE_LINE = re.compile(
    "".join(
        (
            "(?:",
            re.escape("{% if not add_generation_prompt is defined %}"),
            re.escape("{% set add_generation_prompt = false %}{% endif %}"),
            ")?",
            re.escape("{% for message in messages %}"),
            "(?:",
            re.escape("{% if loop.first and messages[0]['role'] != 'system' %}"),
            re.escape("{{ '<|im_start|>system\n"),
            r"(?P<system>(?:(?!<\|)[^'\\])*)",
            re.escape("<|im_end|>\n' }}{% endif %}"),
            ")?",
            re.escape("{{'<|im_start|>' + message['role'] + '\n' + message['content'] "),
            re.escape("+ '<|im_end|>' + '\n'}}{% endfor %}"),
            "(?:",
            re.escape("{% if add_generation_prompt %}"),
            re.escape("{{ '<|im_start|>assistant\n' }}{% endif %}"),
            ")?",
        )
    )
)
"""Plain ChatML with line breaks in place of Jinja's escapes. The default system message has no
quote, escape or special token, so that it stands for itself."""


_OWN = re.compile(r"\{#- penwright (\{[^#]*\}) -#\}.*", re.DOTALL)
"""How `Template.jinja` begins."""


class Found(NamedTuple):
    """What there is of a chat template in a file."""

    template: Template | None = None
    problem: str | None = None
    """Why the one that it has cannot be used."""


def find_template(
    text: object, special: Iterable[str], bos: str | None = None, eos: str | None = None
) -> Found:
    """The chat template of a file, built in or rendered as it is.

    Args:
        text: as the file has it, of whatever type; None if it has none. A list with names is what
            `transformers` once wrote: its "default" is taken.
        special: the texts of the tokenizer's special tokens.
        bos: the token that the file calls so; None for none.
        eos: likewise.
    """
    if isinstance(text, list):
        named = [one for one in text if isinstance(one, dict) and one.get("name") == "default"]
        text = named[0].get("template") if named else text
    if text is None:
        return Found()
    if not isinstance(text, str):
        return Found(problem="it is no text")
    known = recognise(text)
    if known is not None:
        return Found(known)
    template = JinjaTemplate.of(text, special, bos, eos)
    problem = template.problem()
    return Found(template) if problem is None else Found(problem=problem)


def recognise(text: str) -> Template | None:
    """The template that renders as the Jinja template `text` does without tools; None if it is
    not known."""
    text = _normalised(text)
    known = _KNOWN.get(hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest())
    if known is not None:
        return known
    own = _own(text)
    if own is not None:
        return own
    match = _ONE_LINE.fullmatch(text.replace(r"\n", "\n"))
    return ChatML(match["system"]) if match else None


def _own(text: str) -> Template | None:
    """The template of ours whose text this is; None if one letter of it is another."""
    match = _OWN.fullmatch(text)
    if match is None:
        return None
    try:
        settings = parse_json(match[1].encode(errors="surrogatepass"), "its comment")
        template = from_settings(settings, "its comment")
    except CheckpointError:
        return None
    return template if template.jinja() == text else None


def _normalised(text: str) -> str:
    """The text with line ends as Jinja reads them; it ignores a last one."""
    return re.sub(r"\r\n?", "\n", text).removesuffix("\n")
