"""What a chat is answered: text or a call of a tool, whole or as a stream."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.responses import Response

from app.api.openai.generation import FinishReason, OpenAIAnswer, Usage, finish_reason
from app.api.openai.parameters import CalledFunction, ToolCall
from app.api.openai.tools import Calling
from app.api.responses import Completion, Generation, json_response
from model.checkpoint import Base
from model.engine.request import Finished, Text, TokenLogprob
from model.prompts.tools import CallReader, Said

ChatFinishReason = FinishReason | Literal["tool_calls"]


class TopLogprob(BaseModel):
    """A token that could have come at this place."""

    token: str
    bytes: list[int] = Field(description="Those of `token`, which can be a part of a character.")
    logprob: float


class ChatTokenLogprob(TopLogprob):
    """A generated token."""

    top_logprobs: list[TopLogprob]
    forced: bool = Field(
        description="Whether it was not drawn, because `response_format` or the form of a call "
        "left no choice."
    )


class ChatLogprobs(BaseModel):
    """Of all generated tokens, in order, also those of a stop string and the end token, which the
    message does not have."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class CallingMessage(BaseModel):
    """An answer that calls a tool."""

    role: Literal["assistant"]
    content: str | None = Field(description="What was said before the call.")
    refusal: None = None
    tool_calls: list[ToolCall]


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage | CallingMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason = Field(
        description="`tool_calls` if the message has a call with all of its arguments."
    )


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="Of the checkpoint that answers.")
    choices: list[ChatChoice]
    usage: Usage


def logprobs_json(base: Base, values: Sequence[TokenLogprob]) -> dict[str, Any]:
    """A `ChatLogprobs` as JSON has it: streams make it on the event loop, piece by piece."""
    content = base.tokenizer.token_bytes
    return {
        "content": [
            {
                "token": value.text,
                "bytes": list(content(value.token)),
                "logprob": value.logprob,
                "top_logprobs": [
                    {"token": text, "bytes": list(content(token)), "logprob": logprob}
                    for token, text, logprob in value.top
                ],
                "forced": value.forced,
            }
            for value in values
        ],
        "refusal": None,
    }


class ChatAnswer(OpenAIAnswer):
    """The first event of each choice has the role.

    Args:
        calling: how a tool may be called; None if none may be.
    """

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(
        self, generation: Generation, include_usage: bool, calling: Calling | None
    ) -> None:
        super().__init__(generation, include_usage)
        self._calling = calling
        self._begun: set[int] = set()
        self._readers: dict[int, CallReader] = {}
        self._logprobs: dict[int, list[TokenLogprob]] = defaultdict(list)
        """Of the tokens of each choice whose text is not sent yet."""

    async def whole(self, completions: Sequence[Completion]) -> Response:
        answer = ChatResponse(
            **self.head(self.kind),
            choices=[],
            usage=self.usage([completion.finished for completion in completions]),
        )
        base, logprobs = self.generation.model.base, self.generation.logprobs
        choices = (
            ChatChoice(
                index=index,
                message=self._message(index, each.text),
                logprobs=ChatLogprobs.model_validate(logprobs_json(base, each.logprobs))
                if logprobs
                else None,
                finish_reason=self.reason(index, each.finished),
            )
            for index, each in enumerate(completions)
        )
        return await json_response(answer, choices, large=logprobs)

    def _message(self, index: int, text: str) -> ChatMessage | CallingMessage:
        said = self._read(index, text, last=True)
        if said.name is None:
            return ChatMessage(role="assistant", content=said.text)
        called = CalledFunction(name=said.name, arguments=said.arguments)
        call = ToolCall(id=self._call_id(index), type="function", function=called)
        return CallingMessage(role="assistant", content=said.text or None, tool_calls=[call])

    def _read(self, index: int, text: str, *, last: bool = False) -> Said:
        """What the next piece of a choice's text brings."""
        if self._calling is None:
            return Said(text)
        if index not in self._readers:
            self._readers[index] = self._calling.reader()
        return self._readers[index].push(text, last=last)

    def reason(self, index: int, event: Finished) -> ChatFinishReason:
        reader = self._readers.get(index)
        called = reader is not None and reader.complete
        return "tool_calls" if called else finish_reason(event)

    def _call_id(self, index: int) -> str:
        return f"call_{self.generation.id}{index}"

    def piece(self, index: int, event: Text | None) -> dict[str, Any]:
        if event is None:
            return {"delta": {}, "logprobs": None}
        return self._with_logprobs(index, {"content": event.text})

    def text(self, index: int, event: Text) -> bytes:
        self._logprobs[index] += event.logprobs
        if self._calling is None:
            return super().text(index, event)
        return self._pieces(index, self._read(index, event.text))

    def end(self, index: int, event: Finished, ends: Sequence[Finished] | None) -> bytes:
        rest = b""
        if self._calling is not None:
            rest = self._pieces(index, self._read(index, "", last=True), last=True)
        return rest + super().end(index, event, ends)

    def _pieces(self, index: int, said: Said, *, last: bool = False) -> bytes:
        """The events of what was said: text, and a call's name and arguments. With `last`, also of
        tokens without any."""
        deltas: list[dict[str, Any]] = []
        if said.text:
            deltas.append({"content": said.text})
        if said.name is not None:
            function = {"name": said.name, "arguments": ""}
            call = {"index": 0, "id": self._call_id(index), "type": "function"}
            deltas.append({"tool_calls": [{**call, "function": function}]})
        if said.arguments:
            function = {"arguments": said.arguments}
            deltas.append({"tool_calls": [{"index": 0, "function": function}]})
        if last and self._logprobs[index] and not deltas:
            deltas.append({})
        pieces = (self._with_logprobs(index, delta) for delta in deltas)
        return b"".join(self._chunk(index, piece, None) for piece in pieces)

    def _with_logprobs(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        logprobs, values = None, self._logprobs.pop(index, [])
        if self.generation.logprobs:
            logprobs = logprobs_json(self.generation.model.base, values)
        return {"delta": delta, "logprobs": logprobs}

    def _chunk(self, index: int, piece: dict[str, Any], reason: str | None) -> bytes:
        chunk = super()._chunk(index, piece, reason)
        if index in self._begun:
            return chunk
        self._begun.add(index)
        content = None if "tool_calls" in piece["delta"] else ""
        delta = {"role": "assistant", "content": content}
        return super()._chunk(index, {"delta": delta, "logprobs": None}, None) + chunk
