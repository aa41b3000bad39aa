"""Generation over HTTP: from token ids to engine requests, and the events of their answers.

The endpoints differ in their prompts and in the shape of the answer, and share the rest.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.api.fields import ResponseFormat
from app.api.responses import Completion, Generation
from app.engine.constraint_compiler import Compiler
from app.engine.loading import ServedModel
from app.errors import Problem, invalid, late
from model.engine.constraints import ConstraintError
from model.engine.request import Constraint, Generate, Request
from model.sampling import SamplingSettings

DEFAULT_NEW_TOKENS = 128


@dataclass(frozen=True)
class Options:
    """What /generate, /instruct and their OpenAI counterparts have in common."""

    sampling: SamplingSettings
    """Of the first choice of each prompt; choice k draws with seed + k."""
    max_new_tokens: int | None = None
    """As many must fit the context beside the prompt; None is what it has room for, at most
    `default_new_tokens`."""
    default_new_tokens: int | None = DEFAULT_NEW_TOKENS
    """None is no bound but the context's."""
    limit: str = "max_new_tokens"
    """The name of that field in the body, for errors."""
    choices: int = 1
    """For each prompt."""
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    stream: bool = False
    constraint: Constraint | None = None

    def of_choice(self, choice: int) -> SamplingSettings:
        """How that choice of a prompt draws its tokens."""
        seed = self.sampling.seed
        return self.sampling if seed is None else replace(self.sampling, seed=seed + choice)


def check_batch(count: int, n: int, max_batch: int, field: str = "prompt") -> None:
    """Refuse too many sequences, before any work is done for them.

    Args:
        field: of the body that asks for them, for errors.

    Raises:
        Problem: 422.
    """
    if count * n > max_batch:
        raise invalid(field, f"{count} prompts x n = {n}; at most {max_batch} together")


async def constrained(
    compiler: Compiler,
    options: Options,
    wanted: ResponseFormat | None,
    *,
    prompts: int,
    deadline: float,
) -> Options:
    """`options` with the constraint that a request's `response_format` stands for.

    Args:
        prompts: how many the request has, each with `options.choices` sequences.
        deadline: when to give up, on the clock of `time.monotonic`.

    Raises:
        Problem: 422 with the reason, 429 or 504.
    """
    if wanted is None or wanted.type == "text":
        return options
    if options.ignore_eos:
        raise invalid("ignore_eos", "cannot be true with a response_format: that says where to end")
    try:
        constraint = wanted.constraint()
        assert constraint is not None, "only a plain text has none"
        async with asyncio.timeout(deadline - time.monotonic()):
            await compiler.prepare(constraint, prompts * options.choices)
    except ConstraintError as error:
        raise invalid("response_format", str(error)) from error
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid("response_format", reason) from error
    except TimeoutError as error:
        raise late("compiling the response_format took the request's whole time") from error
    return replace(options, constraint=constraint)


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


async def collect(generation: Generation) -> list[Completion]:
    """Generate to the end: a completion for each sequence."""
    completions = [Completion() for _ in generation.requests]
    with generation.model.dispatcher.open(generation.requests) as job:
        async for index, event in job:
            completions[index].add(event)
    return completions
