"""Generation over HTTP: from prompts to engine requests, and from their events to the answer.

Endpoints differ in their prompts, in the names of their fields and in the shape of the answer; all
between is `run_generation`.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from starlette.responses import Response

from app.api.fields import ResponseFormat
from app.api.prompts import ChatPrompt, TextPrompts, check_ids
from app.api.responses import Answer, Completion, Generation, start_stream
from app.engine.constraint_compiler import ConstraintCompiler
from app.engine.loading import ServedModel
from app.engine.service import Service
from app.errors import Problem, invalid, late
from model.engine.grammars import ConstraintError
from model.engine.request import Constraint, Generate, Request
from model.sampling import SamplingSettings

UNBOUNDED = 1 << 31
"""New tokens of an answer: as many as the context has room for."""


@dataclass(frozen=True)
class Form:
    """What a field of the body says that the texts must be."""

    field: str
    constraint: Callable[[], Constraint | None]
    """Makes it; raises ValueError or RecursionError for what is none. None for any text."""
    parts: Sequence["Form"] = ()
    """What it is made of; where it cannot be used, that may be due to one of them."""


@dataclass(frozen=True)
class GenerationOptions:
    """How the texts of a request are generated, whatever its body calls the settings."""

    want: Generate
    """Of the first choice of each prompt, as far as it is known without the prompt: choice k draws
    with seed + k, and `max_new_tokens` is cut to what the context has room for beside the prompt,
    unless `must_fit`."""
    must_fit: bool
    """Whether as many new tokens were asked for, so that fewer are an error."""
    limit: str = "max_new_tokens"
    """The name of that field in the body, for errors."""
    choices: int = 1
    """For each prompt."""
    response_format: ResponseFormat | None = None
    format_field: str = "response_format"
    """The name of that field in the body, for errors."""
    form: Form | None = None
    """In place of a `response_format`."""

    def sampling(self, choice: int) -> SamplingSettings:
        """How that choice of a prompt draws its tokens."""
        sampling = self.want.sampling
        return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + choice)


def chat_model(service: Service, name: str | None) -> ServedModel:
    """The model that answers a chat: one that was trained on instructions.

    Raises:
        Problem: 404 there is none, or not of that name; 503 loading, draining or failed.
    """
    try:
        return service.model("instruct", name)
    except Problem as problem:
        if problem.name != "task-not-served":
            raise
        reason = problem.detail.partition("; the chat template")
        able = [m.name for m in service.require_loaded().models.values() if "instruct" in m.tasks]
        who = "no model here was" if name is None else f"model {name!r} was not"
        raise Problem(
            404,
            problem.name,
            f"{who} trained to follow instructions, which a chat needs; "
            f"models that were: {', '.join(able) or 'none'}" + "".join(reason[1:]),
        ) from None


async def run_generation(
    service: Service,
    model: ServedModel,
    prompts: TextPrompts | ChatPrompt,
    options: GenerationOptions,
    make_answer: Callable[[Generation], Answer],
) -> Response:
    """Generate with `model`, and answer: piece by piece, or when all is done.

    Args:
        make_answer: says how the client is told.

    Raises:
        Problem: 400 a prompt does not fit the context; 422 a field is wrong; 429, 503 or 504.
    """
    check_batch(prompts, options.choices, service.settings.max_batch)
    check_ids(model, [token for token, _ in options.want.sampling.logit_bias], "logit_bias")
    deadline = time.monotonic() + service.settings.request_timeout
    tokens = await prompts.encode(model)
    constraint = await _constraint(model.client.compiler, options, len(tokens), deadline)
    generation = _plan(model, tokens, options, constraint, deadline)
    answer = make_answer(generation)
    if options.want.stream:
        return await start_stream(answer)
    return await answer.whole(await _collect(generation))


def check_batch(prompts: TextPrompts | ChatPrompt, choices: int, max_batch: int) -> None:
    """Refuse too many sequences, before any work is done for them."""
    count = len(prompts)
    if count * choices > max_batch:
        message = f"{count} prompts x n = {choices}; at most {max_batch} together"
        raise invalid(prompts.field, message)


async def _constraint(
    compiler: ConstraintCompiler, options: GenerationOptions, prompts: int, deadline: float
) -> Constraint | None:
    """What the texts must be, compiled for all sequences.

    Raises:
        Problem: 422 with the reason, 429 or 504.
    """
    form, wanted = options.form, options.response_format
    if form is None and wanted is not None and wanted.type != "text":
        form = Form(options.format_field, wanted.constraint)
    if form is None:
        return None
    if options.want.ignore_eos:
        raise invalid("ignore_eos", f"cannot be true with {form.field}: that says where to end")
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await _prepared(compiler, form, prompts * options.choices)
    except TimeoutError as error:
        raise late(f"compiling the {form.field} took the request's whole time") from error


async def _prepared(compiler: ConstraintCompiler, form: Form, sequences: int) -> Constraint:
    """
    Raises:
        Problem: 422 with the field, or that of a part, and the reason; 429.
    """
    try:
        constraint = form.constraint()
        assert constraint is not None, "only a plain text has none"
        await compiler.prepare(constraint, sequences)
        return constraint
    except (ConstraintError, ValueError, RecursionError) as error:
        for part in form.parts:
            await _prepared(compiler, part, 1)
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid(form.field, reason) from error


def _plan(
    model: ServedModel,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    constraint: Constraint | None,
    deadline: float,
) -> Generation:
    """The engine requests for prompts of token ids.

    Raises:
        Problem: 400, a prompt does not fit the context.
    """
    identity = uuid.uuid4().hex
    requests: list[Request] = []
    for number, tokens in enumerate(prompts):
        tokens = or_begin(model, tokens)
        new = _new_tokens(options, len(tokens), model.context_length, number)
        for choice in range(options.choices):
            want = replace(
                options.want,
                max_new_tokens=new,
                sampling=options.sampling(choice),
                constraint=constraint,
            )
            name = f"{identity}-{len(requests)}"
            requests.append(Request(name, tokens, want, model.adapter_name, deadline))
    logprobs = options.want.logprobs is not None
    return Generation(identity, model, requests, options.choices, logprobs)


def or_begin(model: ServedModel, tokens: Sequence[int]) -> tuple[int, ...]:
    """The tokens of a prompt; if there are none, what begins a document."""
    tokenizer = model.base.tokenizer
    return tuple(tokens) or tokenizer.prefix or (tokenizer.end_token,)


def _new_tokens(options: GenerationOptions, length: int, context: int, number: int) -> int:
    room, most = context - length, options.want.max_new_tokens
    if room < 1:
        message = f"prompt {number} has {length} tokens; the model's context of {context} has room "
        message += f"for prompts of up to {context - 1}"
    elif options.must_fit and most > room:
        message = f"prompt {number} has {length} tokens and {options.limit} is {most}: together "
        message += f"{length + most}, more than the model's context of {context}"
    else:
        return min(room, most)
    wanted = most if options.must_fit else None
    numbers = {"prompt_tokens": length, "max_new_tokens": wanted, "context_length": context}
    raise Problem(400, "context-length", message, extra=numbers)


async def _collect(generation: Generation) -> list[Completion]:
    """Generate to the end: a completion for each sequence."""
    completions = [Completion() for _ in generation.requests]
    with generation.model.client.submit(generation.requests) as events:
        async for index, event in events:
            completions[index].add(event)
    return completions
