"""Prompt templates: how a conversation is put before a model, in training and in serving alike.

A template renders messages to parts, special tokens and text, that end where the assistant's next
message begins. `encode` turns parts into token ids; text is always ordinary text there, so nobody
can write a special token. Which template a model was trained on is in its checkpoint:

    alpaca    one instruction and its input, without turns; of bases that have no template
    chatml    SmolLM2, Qwen2, Qwen2.5 and others
    qwen3     ChatML with a block of thoughts before an answer
    llama3    Llama 3 to 3.3
    jinja     any other, as its file has it: a text in Jinja

How a model is told of functions that it may call is in `model.prompts.tools`.

    template = from_settings(config["template"], path)
    template.check(tokenizer, path)
    prompt = encode(template.render([Message("user", "Name a bird.")]), tokenizer)
"""

from model.prompts.alpaca import (
    Alpaca,
    ChatRole,
    chat_prompt,
    instruction_prompt,
)
from model.prompts.chatml import ChatML
from model.prompts.encoding import Encoded, encode
from model.prompts.foreign.template import JinjaTemplate
from model.prompts.llama3 import Llama3
from model.prompts.parts import EndOfDocument, Message, Part, Role, Special, Text, ToolCall
from model.prompts.qwen3 import Qwen3
from model.prompts.recognition import find_template, recognise
from model.prompts.settings import from_settings
from model.prompts.template import Template

__all__ = [
    "Alpaca",
    "ChatML",
    "ChatRole",
    "Encoded",
    "EndOfDocument",
    "JinjaTemplate",
    "Llama3",
    "Message",
    "Part",
    "Qwen3",
    "Role",
    "Special",
    "Template",
    "Text",
    "ToolCall",
    "chat_prompt",
    "encode",
    "find_template",
    "from_settings",
    "instruction_prompt",
    "recognise",
]
