"""What a completion gives back of its prompts: their text, and the log-probabilities of their
tokens. Programs that measure models (`lm_eval`) ask for nothing else."""

import uuid
from collections.abc import Sequence
from dataclasses import replace

from pydantic import BaseModel, Field

from app.engine.loading import ServedModel
from app.errors import beyond_context
from model.checkpoint import Base
from model.engine.request import Request, Score, Scored
from model.tokenizer import StreamDecoder


class PromptLogprob(BaseModel):
    """A token that stands, or could have stood, at a place of the prompt."""

    logprob: float
    rank: int = Field(description="Among all tokens at this place; 1 is the most probable.")
    decoded_token: str


def prompt_text(base: Base, tokens: Sequence[int]) -> str:
    """The text of a prompt's tokens, as that of generated ones: special ones have none."""
    decoder = StreamDecoder(base.tokenizer)
    return "".join(map(decoder.push, tokens)) + decoder.flush()


async def score_prompts(
    model: ServedModel,
    prompts: Sequence[Sequence[int]],
    top: int,
    *,
    at_once: int,
    deadline: float,
    begun: bool,
) -> list[Scored]:
    """The log-probabilities of the tokens of some prompts.

    Args:
        top: report those of this many most probable tokens at each place, too.
        at_once: how many are handed to the engine together.
        begun: whether something was done before that would be thrown away.

    Raises:
        Problem: 400, a prompt does not fit the context; 429, 503 or 504.
    """
    limit = model.context_length
    for number, tokens in enumerate(prompts):
        if len(tokens) > limit:
            raise beyond_context("prompt", number, len(tokens), limit, "nothing is cut")
    identity = uuid.uuid4().hex
    requests = [
        Request(f"{identity}-{number}", tuple(tokens), Score(top), model.adapter_name, deadline)
        for number, tokens in enumerate(prompts)
    ]
    events = await model.client.in_groups(requests, at_once, deadline, begun=begun)
    return [event for event in events if isinstance(event, Scored)]


def cut(scored: Scored, top: int) -> Scored:
    """With no more of the most probable tokens than `top`: it was scored for whoever wants most."""
    if not any(len(each.top) > top for each in scored.logprobs):
        return scored
    return replace(
        scored, logprobs=tuple(replace(each, top=each.top[:top]) for each in scored.logprobs)
    )


def prompt_logprobs(scored: Scored) -> list[dict[str, PromptLogprob] | None]:
    """The log-probabilities as vLLM has them: by the token's id, with its rank."""
    found: list[dict[str, PromptLogprob] | None] = [None]
    for value, rank in zip(scored.logprobs, scored.ranks, strict=True):
        places = {
            token: (logprob, place, text)
            for place, (token, text, logprob) in enumerate(value.top, start=1)
        }
        places[value.token] = value.logprob, rank, value.text
        found.append(
            {
                str(token): PromptLogprob(logprob=logprob, rank=place, decoded_token=text)
                for token, (logprob, place, text) in places.items()
            }
        )
    return found
