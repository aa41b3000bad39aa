"""The template that a model's own file has, where none that is built in renders the same."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from model.errors import CheckpointError, PenwrightError, UsageError
from model.json_files import list_field, shown
from model.prompts.encoding import ChatTokenizer
from model.prompts.foreign import calls, markers
from model.prompts.foreign.calls import joined
from model.prompts.foreign.process import RenderProcess
from model.prompts.parts import Message, Part, Special, Text
from model.prompts.template import Template
from model.prompts.tools import CallForm, Definition

MOST_CHARACTERS = 2**20
"""Of a template; the longest that are published have some 30,000."""
_OTHER_TOKENS = frozenset({"unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
"""Variables of `transformers` that are not given here."""

_SAID = "Hi"
"""The simplest conversation."""


@dataclass(frozen=True)
class JinjaTemplate(Template):
    """A chat template in Jinja, rendered as `transformers` does, in a process of its own.

    Special tokens are the template's alone: what a message has of them is text. Message by message,
    the assistant says what follows the prompt for it, up to the special token that ends its turn;
    see `model.prompts.foreign.said`. A turn that later ones change is not said.
    """

    text: str
    """As the file has it."""
    special_tokens: tuple[str, ...]
    """All special tokens of the tokenizer, any of which it may write."""
    bos_token: str | None = None
    """The text of that variable; None if it is not set."""
    eos_token: str | None = None

    name: ClassVar[str] = "jinja"
    waits: ClassVar[bool] = True
    kinds: ClassVar = {
        "text": (str,),
        "special_tokens": (list,),
        "bos_token": (str, type(None)),
        "eos_token": (str, type(None)),
    }

    @classmethod
    def of(
        cls, text: str, special: Iterable[str], bos: str | None = None, eos: str | None = None
    ) -> "JinjaTemplate":
        """The template, with a token only if it reads that variable: files that differ in nothing
        that it writes give the same one."""
        return cls(
            text,
            tuple(sorted(special)),
            bos if "bos_token" in text else None,
            eos if "eos_token" in text else None,
        )

    @classmethod
    def from_values(cls, values: Mapping[str, Any], source: str) -> "JinjaTemplate":
        tokens = list_field(values, "special_tokens", str, source)
        made = super().from_values(values, source)
        assert isinstance(made, cls)
        return replace(made, special_tokens=tuple(tokens))

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, which starts a process of its own."""
        return {name: getattr(self, name) for name in self.kinds}

    def settings(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "text": self.text,
            "special_tokens": list(self.special_tokens),
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }

    def named_tokens(self) -> dict[str, str | None]:
        named = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return {name: token for name, token in named.items() if name in self.text}

    def problem(self) -> str | None:
        """Why it cannot be used, in one line; None if it renders the simplest conversation."""
        try:
            self._check_itself()
            parts = self.render([Message("user", _SAID)])
        except PenwrightError as error:
            return re.sub("^the chat template ", "it ", str(error))
        # One for pictures, say, may look for texts in a list of parts.
        if not any(isinstance(part, Text) and _SAID in part.text for part in parts):
            return "it leaves out what the user says"
        return None

    def _check_itself(self) -> None:
        if len(self.text) > MOST_CHARACTERS:
            raise UsageError(f"the chat template has more than {MOST_CHARACTERS} characters")
        if self._too_short:
            raise UsageError(self._too_short)
        others = sorted(self._process.variables() & _OTHER_TOKENS)
        if others:
            raise UsageError(f"the chat template reads {others[0]}, which is not given here")

    @property
    def _too_short(self) -> str:
        """Which special token could not be broken in a user's text; empty if each can be."""
        short = [token for token in self.special_tokens if len(token) < 2]
        return (
            f"the special token {short[0]!r} is too short to be told from a user's text"
            if short
            else ""
        )

    def check(self, tokenizer: ChatTokenizer, source: Path | str) -> None:
        super().check(tokenizer, source)
        if self._too_short:
            raise CheckpointError(f"{source}: {self._too_short}")
        for token in (*self.special_tokens, self.bos_token, self.eos_token):
            if token is not None and token not in tokenizer.special.ids:
                raise CheckpointError(
                    f"{source}: the chat template has the special token {token}, "
                    "which the tokenizer lacks"
                )

    def render(
        self,
        messages: Sequence[Message],
        *,
        answer: bool = True,
        tools: Sequence[Definition] | None = None,
    ) -> list[Part]:
        if not messages:
            raise UsageError("a conversation needs at least one message")
        called = any(message.calls or message.result_of for message in messages)
        if called and self._own_calls is None:
            messages = self.tool_form.written(messages)
        if tools and not self._tells_tools:
            messages, tools = self.tool_form.told(messages, tools), None
        return self._render(messages, answer, tools)

    @property
    def call_form(self) -> CallForm:
        return self._own_calls or self.tool_form.call

    @property
    def _tells_tools(self) -> bool:
        """Whether it has a place for tools."""
        return "tools" in self._process.variables()

    @cached_property
    def _own_calls(self) -> CallForm | None:
        """How it writes calls; None if it is not given any, but text in their place."""
        return calls.call_form(self._render) if self._tells_tools else None

    def _render(
        self, messages: Sequence[Message], answer: bool, tools: Sequence[Definition] | None
    ) -> list[Part]:
        """The parts of messages as they are."""
        given = [list(map(_given, messages)), None if tools is None else list(tools)]
        text, spans, filler = self._rendered(given, answer)
        marked = [(start, end, messages[index].learnt) for start, end, index in spans]
        parts = self._cut(text, marked, filler)
        last = len(messages) - 1
        to_be_said = messages[last].role == "assistant" and not answer
        if to_be_said and all(index != last for _, _, index in spans):
            raise UsageError(
                "what the assistant says last cannot be told from the rest: "
                + self._why_not_told(messages, joined(parts), tools)
            )
        return parts

    def _why_not_told(
        self, messages: Sequence[Message], whole: str, tools: Sequence[Definition] | None
    ) -> str:
        if len(messages) == 1:
            return "nothing comes before it"
        try:
            prompt = joined(self._render(messages[:-1], True, tools))
        except UsageError as error:
            return f"without it, {error}"
        if not prompt:
            return "the chat template's prompt for it is empty"
        if whole.startswith(prompt):
            return "the chat template does not write it as it is"
        begin = next(i for i in range(len(prompt)) if prompt[i] != whole[i : i + 1])
        return (
            f"the chat template's prompt for it ends with {shown(prompt[begin:])}, "
            "which the conversation does not have there"
        )

    def _rendered(
        self, given: list[Any], answer: bool
    ) -> tuple[str, list[tuple[int, int, int]], str]:
        """The text of a conversation in which whole special tokens are the template's, its spans
        (start, end, message), and the filler that is in it.

        Raises:
            UsageError: some message's text makes a special token together with the template's.
        """
        filler, *marks = markers.unused_characters([markers.written(given), self._written], 4)
        request = {"answer": answer, "spans": True, "marks": marks}

        def ask(values: list[Any], **more: Any) -> dict[str, Any]:
            messages, tools = values
            return self._process.ask({**request, "messages": messages, "tools": tools, **more})

        special = self._special
        values = _changed(given, lambda text: special.broken(text, filler))
        answered = ask(values)
        text = str(answered["text"])
        tainted = _changed(
            given,
            lambda text: special.tainted(text, filler),
            lambda text: special.tainted_tool(text, filler),
        )
        if tainted != values:
            try:
                probe = str(ask(tainted, spans=False)["text"])
            except UsageError:
                probe = ""
            if self._special.pattern.findall(text) != self._special.pattern.findall(probe):
                raise UsageError(
                    "a message's text would become a special token, or a part of one, by what the "
                    "chat template writes around it or cuts out of it"
                )
        # Nobody begins or ends to speak within a special token.
        within = {
            place
            for match in self._special.pattern.finditer(text)
            for place in range(match.start() + 1, match.end())
        }
        spans = [
            (start, end, i) for start, end, i in answered["spans"] if not {start, end} & within
        ]
        return text, spans, filler

    def _cut(self, text: str, spans: Sequence[tuple[int, int, bool]], filler: str) -> list[Part]:
        """The text as parts, cut at special tokens and where somebody begins or ends to speak.

        Args:
            spans: start, end, and whether a model learns to say it.
        """
        tokens = {match.span() for match in self._special.pattern.finditer(text)}
        places = {0, len(text), *(place for token in tokens for place in token)}
        borders = sorted(places.union(*(span[:2] for span in spans)))
        parts: list[Part] = []
        for start, end in itertools.pairwise(borders):
            said = [learnt for first, after, learnt in spans if first <= start and end <= after]
            flags = (bool(said), said[0] if said else True)
            if (start, end) in tokens:
                parts.append(Special(text[start:end], *flags))
            elif plain := markers.without(text[start:end], filler):
                parts.append(Text(plain, *flags))
        return parts

    @cached_property
    def _special(self) -> markers.SpecialTexts:
        return markers.SpecialTexts(self.special_tokens)

    @cached_property
    def _written(self) -> str:
        return markers.written([self.text, *self.special_tokens])

    @cached_property
    def _process(self) -> RenderProcess:
        return RenderProcess(
            {
                "text": self.text,
                "special": self._special.pattern.pattern,
                "bos_token": self.bos_token,
                "eos_token": self.eos_token,
            }
        )

    def jinja(self) -> str:
        """Its own text, as it was read."""
        return self.text

    def _jinja(self) -> str:
        return self.text

    def _parts(self, messages: Sequence[Message], answer: bool) -> list[Part]:
        return self.render(messages, answer=answer)


def _given(message: Message) -> dict[str, Any]:
    """A message as templates read it, with what `transformers` calls its members."""
    given: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        given["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.calls
        ]
    if message.result_of is not None:
        call = message.result_of
        given |= {"role": "tool", "name": call.name, "tool_call_id": call.id}
    return given


def _changed(
    given: list[Any], change: Callable[[str], str], in_tools: Callable[[str], str] | None = None
) -> list[Any]:
    """Messages and tools with all their texts changed, but for roles.

    Args:
        in_tools: changes those of tools and of calls; like the others, unless it is given.
    """
    messages, tools = given
    of_tools = in_tools or change

    def changed(key: str, value: Any) -> Any:
        if key == "role":
            return value
        return markers.in_texts(value, of_tools if key == "tool_calls" else change)

    new = [{key: changed(key, value) for key, value in message.items()} for message in messages]
    return [new, markers.in_texts(tools, of_tools)]
