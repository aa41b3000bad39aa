"""What each token of a text contributes to its label, by asking the classifier about parts of it.

A token's contribution is the mean of two changes of the log-odds: that when the text is read up to
and with it and no longer only up to it, and that when it is put in front of the rest of the text.
That is Shapley's value over two of the orders in which tokens can come together, the text's own and
its reverse: a sample by an antithetic pair (Mitchell et al., "Sampling permutations for Shapley
value estimation", 2022). Both orders lead from the empty text, which is the end token alone, to the
whole, so the contributions add up to exactly what separates the two.

It takes forward passes alone: two short of twice as many as the text has tokens, of half its length
on average, of which the prefixes are mostly in the cache; unless the head reads all tokens
(`--pooling last-mean`), which takes nothing from there.
"""

import math
import uuid
from collections.abc import Sequence

from pydantic import BaseModel, Field

from app.engine.loading import ServedModel
from model.classifier import Labels
from model.engine.request import Classified, Classify, Request
from model.tokenizer import StreamDecoder, Tokenizer

_AT_ONCE = 64


class TokenContribution(BaseModel):
    """A token of a text, and its part in the text's label."""

    token: int
    text: str = Field(
        description="The characters that it completes, possibly none; all together are the text."
    )
    contribution: float = Field(
        description="Mean of what it changes in the log-odds when it is added to the tokens before "
        "it, and when it is put in front of those after it: Shapley's value over these two orders."
    )


class Attributions(BaseModel):
    """Why a text has its label. Contributions add up to `log_odds` - `baseline` within 0.001."""

    of: str = Field(description="The positive label; for a model without one, the label given.")
    baseline: float = Field(description="Log-odds of the empty text.")
    log_odds: float = Field(
        description="Logit of `of`, less the log-sum-exp of the other labels' logits."
    )
    tokens: list[TokenContribution]


async def classify_tokens(
    model: ServedModel, texts: Sequence[Sequence[int]], deadline: float
) -> list[Classified]:
    """What `model` says of each text, of at least one token.

    Raises:
        Problem: 429, 503 or 504.
    """
    return await _classify(model, texts, deadline, size=max(1, len(texts)), begun=False)


async def explain(
    model: ServedModel,
    tokens: Sequence[int],
    whole: Classified,
    of: str,
    deadline: float,
    *,
    begun: bool,
) -> Attributions:
    """The contributions of `tokens` to the log-odds of the label `of`.

    Args:
        whole: what the model says of all of them.
        begun: whether another text was explained before, for the same request: then a full queue
            is waited for.

    Raises:
        Problem: 429, 503 or 504.
    """
    assert model.head is not None
    labels = model.head.labels
    count = len(tokens)
    answers = await _classify_in_groups(model, tokens, _spans(count), deadline, begun=begun)
    odds = [log_odds(labels, answer.logits, of) for answer in answers]
    total, baseline = log_odds(labels, whole.logits, of), odds[-1]
    prefixes = [baseline, *odds[: count - 1], total]  # of 0, 1, … tokens
    suffixes = [total, *odds[count - 1 : -1], baseline]  # from token 0, 1, … on
    contributions = [
        (prefixes[i + 1] - prefixes[i] + suffixes[i] - suffixes[i + 1]) / 2 for i in range(count)
    ]
    return Attributions(
        of=of,
        baseline=baseline,
        log_odds=total,
        tokens=[
            TokenContribution(token=token, text=text, contribution=contribution)
            for token, text, contribution in zip(
                tokens, _texts(model.base.tokenizer, tokens), contributions, strict=True
            )
        ],
    )


def tokens_to_explain(count: int) -> int:
    """How many tokens are read to explain a text of `count`, without those of the text itself."""
    return sum(max(1, end - start) for start, end in _spans(count))


def _spans(count: int) -> list[tuple[int, int]]:
    """The proper prefixes of a text of `count` tokens, its proper suffixes, and nothing."""
    return [(0, end) for end in range(1, count)] + [(start, count) for start in range(1, count + 1)]


def log_odds(labels: Labels, logits: Sequence[float], of: str) -> float:
    """Of one label against all others together: with two labels, the difference of their logits."""
    index = labels.names.index(of)
    others = [logit for i, logit in enumerate(logits) if i != index]
    largest = max(others)
    return logits[index] - largest - math.log(sum(math.exp(o - largest) for o in others))


async def _classify_in_groups(
    model: ServedModel,
    tokens: Sequence[int],
    spans: Sequence[tuple[int, int]],
    deadline: float,
    *,
    begun: bool,
) -> list[Classified]:
    """Each span of `tokens`, never so many at once that they fill the queue by themselves."""
    empty = (model.base.tokenizer.end_token,)
    settings = model.client.engine.settings
    size = max(1, min(_AT_ONCE, (settings.slots + settings.max_waiting) // 2))
    texts = [tokens[start:end] or empty for start, end in spans]
    return await _classify(model, texts, deadline, size=size, begun=begun)


async def _classify(
    model: ServedModel,
    texts: Sequence[Sequence[int]],
    deadline: float,
    *,
    size: int,
    begun: bool,
) -> list[Classified]:
    identity = uuid.uuid4().hex
    requests = [
        Request(f"{identity}-{number}", tuple(tokens), Classify(), model.adapter_name, deadline)
        for number, tokens in enumerate(texts)
    ]
    events = await model.client.in_groups(requests, size, deadline, begun=begun)
    return [event for event in events if isinstance(event, Classified)]


def _texts(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """The characters that each token completes; together they are the text."""
    decoder = StreamDecoder(tokenizer)
    texts = [decoder.push(token) for token in tokens]
    texts[-1] += decoder.flush()
    return texts
