"""What a request must fulfil before it is queued."""

from collections.abc import Mapping

from model.checkpoint import Adapter, Base
from model.engine.request import Classify, Generate, Request
from model.errors import ContextLengthError, UsageError


def check(
    request: Request, base: Base, adapters: Mapping[str, Adapter], context_length: int
) -> None:
    """Refuse what an engine of `base` and `adapters` cannot do.

    Args:
        context_length: the most tokens of a sequence.

    Raises:
        ContextLengthError: the tokens, with those to come, exceed the context.
        UsageError: an adapter that is not there, or cannot do what is wanted; no tokens.
    """
    want = request.want
    if request.adapter is not None and request.adapter not in adapters:
        raise UsageError(f"no adapter {request.adapter!r}; there are {sorted(adapters)}")
    if not request.tokens:
        raise UsageError("a request needs at least one token")
    if isinstance(want, Classify):
        head = adapters[request.adapter].head if request.adapter else base.head
        if head is None:
            raise UsageError(f"{request.adapter or 'the base'} has no classification head")
    length = len(request.tokens)
    if isinstance(want, Generate):
        if want.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {want.max_new_tokens}; it must be at least 1")
        if want.constraint is not None and want.ignore_eos:
            raise UsageError("ignore_eos and a constraint, which says where a text ends")
        length += want.max_new_tokens
    if length > context_length:
        raise ContextLengthError(length, context_length)
