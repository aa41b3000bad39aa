"""What the models read of a request: texts, token ids and conversations as token ids."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.engine.loading import ServedModel
from app.errors import invalid
from app.ops.logs import log_texts
from model import prompts
from model.errors import TextError, UsageError
from model.prompts import JinjaTemplate, Message, Qwen3, Template, Text
from model.prompts.tools import Definition, json_line

TextsOrTokens = list[str] | list[list[int]]
"""Texts, or the token ids of each."""
_LONG_WORK = 20_000
"""Characters from which encoding takes long enough (a few ms) to leave the event loop for it."""
_TEXT_WORK = 20
"""What a text costs beside its characters, in characters."""


def check_ids(model: ServedModel, tokens: Iterable[int], field: str) -> None:
    """
    Raises:
        Problem: 422, one of them is no token of the model.
    """
    size = model.base.tokenizer.vocab_size
    largest = max(tokens, default=0)
    if largest >= size:
        raise invalid(field, f"has the id {largest}, which is no token; the last one is {size - 1}")


@dataclass(frozen=True)
class TextPrompts:
    """Prompts that are texts, or token ids; each begins a document."""

    texts: TextsOrTokens
    field: str
    """Where in the body they are, for errors."""

    def __len__(self) -> int:
        return len(self.texts)

    async def encode(self, model: ServedModel) -> list[list[int]]:
        """Token ids of each, in front the token that models such as Llama 3 expect there.

        Raises:
            Problem: 422, a text cannot be cut up, or an id is no token of the model.
        """
        texts = self.texts
        if not isinstance(texts[0], str):
            for tokens in texts:
                check_ids(model, tokens, self.field)
            return texts
        log_texts(texts)
        encode = model.base.tokenizer.encode_prompt
        try:
            if sum(map(len, texts)) + _TEXT_WORK * len(texts) > _LONG_WORK:
                return await asyncio.to_thread(lambda: [encode(text) for text in texts])
            return [encode(text) for text in texts]
        except TextError as error:
            raise invalid(self.field, str(error)) from error


@dataclass(frozen=True)
class ChatPrompt:
    """One prompt: messages, in the form that the model's template gives them."""

    messages: Sequence[Message]
    field: str
    """Where in the body they are, for errors."""
    beginning: str = ""
    """What the assistant has said already of the answer, which goes on from there."""
    no_thoughts_field: str | None = None
    """Where in the body it says that the model is not to think before it answers, if it does."""
    tools: Sequence[Definition] = ()
    """What the model may call."""

    def __len__(self) -> int:
        return 1

    async def encode(self, model: ServedModel) -> list[list[int]]:
        """
        Raises:
            Problem: 422, the template has no form for them, or a text cannot be cut up.
        """
        texts = [message.content for message in self.messages]
        if self.beginning:
            texts.append(self.beginning)
        texts += [json_line(call.arguments) for each in self.messages for call in each.calls]
        texts += map(json_line, self.tools)
        log_texts(texts)
        template = model.template
        assert template is not None, "a model without one answers no instructions"
        if self.no_thoughts_field is not None:
            template = _without_thoughts(template, self.no_thoughts_field)

        def encoded_by(template: Template) -> prompts.Encoded:
            parts = template.render(self.messages, tools=self.tools or None)
            if self.beginning:
                parts = [*parts, Text(self.beginning, said=True)]
            return prompts.encode(parts, model.base.tokenizer)

        try:
            if template.waits or sum(map(len, texts)) > _LONG_WORK:
                encoded = await asyncio.to_thread(encoded_by, template)
            else:
                encoded = encoded_by(template)
        except (TextError, UsageError) as error:
            raise invalid(self.field, str(error)) from error
        return [encoded.ids]


def _without_thoughts(template: Template, field: str) -> Template:
    """The template for a model that is not to think before it answers.

    Raises:
        Problem: 422, it cannot be kept from it.
    """
    if isinstance(template, Qwen3):
        return replace(template, thinking=False)
    if isinstance(template, JinjaTemplate) and "enable_thinking" in template.text:
        raise invalid(field, "asks for no thoughts, which the chat template of this model decides")
    return template
