"""Generation over HTTP: from texts to engine requests, and from events to answers.

/generate and /instruct differ in their prompts and in the shape of the answer, and share the rest.
"""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.api.native.answers import Timings, Usage
from app.api.options import Options
from app.engine.loading import ServedModel
from app.errors import Problem, invalid
from app.ops.logs import log_texts
from model import prompts
from model.engine.request import Event, Finished, Generate, Request, Text, TokenLogprob
from model.errors import TextError, UsageError
from model.prompts import Message, Template

_LONG_WORK = 20_000
"""Characters from which encoding takes long enough (a few ms) to leave the event loop for it."""
_TEXT_WORK = 20
"""What a text costs beside its characters, in characters."""


async def encode(
    model: ServedModel, texts: Sequence[str], field: str = "text", *, documents: bool = False
) -> list[list[int]]:
    """Token ids of each text.

    Args:
        field: where in the body they are, for errors.
        documents: whether each begins a document, with the token in front that models such as
            Llama 3 expect there.

    Raises:
        Problem: 422, a text that the tokenizer cannot cut up.
    """
    log_texts(texts)
    tokenizer = model.base.tokenizer
    encode_one = tokenizer.encode_prompt if documents else tokenizer.encode
    try:
        if sum(map(len, texts)) + _TEXT_WORK * len(texts) > _LONG_WORK:
            return await asyncio.to_thread(lambda: [encode_one(text) for text in texts])
        return [encode_one(text) for text in texts]
    except TextError as error:
        raise invalid(field, str(error)) from error


async def encode_chat(
    model: ServedModel, messages: Sequence[Message], field: str
) -> list[list[int]]:
    """Token ids of the one prompt that the model's template makes of a conversation.

    Args:
        field: where in the body they are, for errors.

    Raises:
        Problem: 422, the template has no form for them, or a text cannot be cut up.
    """
    texts = [message.content for message in messages]
    log_texts(texts)
    assert model.template is not None, "a model without one answers no instructions"

    def encoded_by(template: Template) -> prompts.Encoded:
        return prompts.encode(template.render(messages), model.base.tokenizer)

    try:
        if model.template.waits or sum(map(len, texts)) > _LONG_WORK:
            encoded = await asyncio.to_thread(encoded_by, model.template)
        else:
            encoded = encoded_by(model.template)
    except (TextError, UsageError) as error:
        raise invalid(field, str(error)) from error
    return [encoded.ids]


@dataclass(frozen=True)
class Generation:
    """What one HTTP request asks of the engine."""

    id: str
    model: ServedModel
    requests: list[Request]
    choices: int
    """For each prompt: sequence p * choices + k is choice k of prompt p."""
    logprobs: bool

    @property
    def prompt_tokens(self) -> int:
        return sum(len(request.tokens) for request in self.requests[:: self.choices])


def check_batch(count: int, n: int, max_batch: int, field: str = "prompt") -> None:
    """Refuse too many sequences, before any work is done for them.

    Args:
        field: of the body that asks for them, for errors.

    Raises:
        Problem: 422.
    """
    if count * n > max_batch:
        raise invalid(field, f"{count} prompts x n = {n}; at most {max_batch} together")


def plan(
    model: ServedModel,
    sequences: Sequence[Sequence[int]],
    options: Options,
    *,
    deadline: float,
) -> Generation:
    """The engine requests for prompts, the `sequences` of token ids.

    Args:
        deadline: of all of them, on the clock of `time.monotonic`.

    Raises:
        Problem: 400, a prompt does not fit the context.
    """
    identity, tokenizer = uuid.uuid4().hex, model.base.tokenizer
    requests: list[Request] = []
    for number, tokens in enumerate(sequences):
        tokens = tuple(tokens) or tokenizer.prefix or (tokenizer.end_token,)
        new = _new_tokens(options, len(tokens), model.context_length, number)
        for choice in range(options.choices):
            want = Generate(
                max_new_tokens=new,
                sampling=options.of_choice(choice),
                stop=options.stops,
                ignore_eos=options.ignore_eos,
                logprobs=options.logprobs,
                stream=options.stream,
                constraint=options.constraint,
            )
            name = f"{identity}-{len(requests)}"
            requests.append(Request(name, tokens, want, model.adapter_name, deadline))
    return Generation(identity, model, requests, options.choices, options.logprobs is not None)


def _new_tokens(options: Options, length: int, context: int, number: int) -> int:
    room, wanted = context - length, options.max_new_tokens
    if room < 1:
        message = f"prompt {number} has {length} tokens; the model's context of {context} has room "
        message += f"for prompts of up to {context - 1}"
    elif wanted is not None and wanted > room:
        message = f"prompt {number} has {length} tokens and {options.limit} is {wanted}: together "
        message += f"{length + wanted}, more than the model's context of {context}"
    else:
        return min(room, options.default_new_tokens or room) if wanted is None else wanted
    numbers = {"prompt_tokens": length, "max_new_tokens": wanted, "context_length": context}
    raise Problem(400, "context-length", message, extra=numbers)


@dataclass
class Completion:
    """One sequence as it grows, and its end."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: Finished | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, Text):
            self.pieces.append(event.text)
            self.logprobs += event.logprobs
        elif isinstance(event, Finished):
            self.end = event

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def finished(self) -> Finished:
        assert self.end is not None, "the job ended without this sequence's end"
        return self.end


async def collect(generation: Generation) -> list[Completion]:
    """Generate to the end: a completion for each sequence."""
    completions = [Completion() for _ in generation.requests]
    with generation.model.dispatcher.open(generation.requests) as job:
        async for index, event in job:
            completions[index].add(event)
    return completions


def usage(generation: Generation, ends: Sequence[Finished]) -> Usage:
    completion = sum(end.completion_tokens for end in ends)
    return Usage(
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=completion,
        total_tokens=generation.prompt_tokens + completion,
        cached_tokens=sum(end.cached_tokens for end in ends[:: generation.choices]),
    )


def timings(ends: Sequence[Finished]) -> Timings:
    return Timings(
        queue=round(max(end.timings.queue for end in ends), 6),
        prefill=round(max(end.timings.prefill for end in ends), 6),
        decode=round(max(end.timings.decode for end in ends), 6),
        drafted_tokens=sum(end.drafted_tokens for end in ends),
        accepted_tokens=sum(end.accepted_tokens for end in ends),
        forced_tokens=sum(end.forced_tokens for end in ends),
    )


def logprobs_json(values: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {
            "token": value.token,
            "text": value.text,
            "logprob": value.logprob,
            "top": [
                {"token": token, "text": text, "logprob": logprob}
                for token, text, logprob in value.top
            ],
            "forced": value.forced,
        }
        for value in values
    ]
