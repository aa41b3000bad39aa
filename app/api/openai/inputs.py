"""Checks of what OpenAI's clients send that depend on the model, and so cannot be in the schema."""

from collections.abc import Iterable

from app.api.generation import encode
from app.api.openai.schemas import Texts
from app.engine.loading import ServedModel
from app.engine.service import Service
from app.errors import Problem, invalid
from app.ops.context import OBSERVATION


async def token_ids(
    model: ServedModel, texts: Texts, field: str, *, documents: bool = False
) -> list[list[int]]:
    """Token ids of each text, which can be given as such.

    Args:
        documents: whether each text begins a document; see `encode`.

    Raises:
        Problem: 422, an id is no token of the model.
    """
    if isinstance(texts[0], str):
        return await encode(model, texts, field, documents=documents)
    for tokens in texts:
        check_ids(model, tokens, field)
    return texts


def check_ids(model: ServedModel, tokens: Iterable[int], field: str) -> None:
    """
    Raises:
        Problem: 422, one of them is no token of the model.
    """
    size = model.base.tokenizer.vocab_size
    largest = max(tokens, default=0)
    if largest >= size:
        raise invalid(field, f"has the id {largest}, which is no token; the last one is {size - 1}")


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


def note_user(user: str | None) -> None:
    """Have the access log say who asks."""
    observation = OBSERVATION.get()
    if observation is not None:
        observation.user = user
