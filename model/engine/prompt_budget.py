"""How the tokens of a step that nobody decodes are divided among prompts."""

import time
from collections.abc import Mapping, Sequence

from model.engine.sequence import Chunk, TokenSequence
from model.engine.speculation import StepCost

_ALONE_SECONDS = 3.0
"""So long after the last sequence joined another, a prompt that is alone gets whole steps."""
_LONG_SECONDS = 0.01
"""So much longer may a step take for a long prompt, however short it is without."""
_LEAST = 4
"""Tokens of a long prompt in a step, however long they take."""
_NEW_WEIGHT = 0.1
"""Weight of each step in what is known of them."""
_OUTLIER = 3.0
"""A step that took so many times as long as expected was held up by something else."""

Needs = Mapping[TokenSequence, int]
"""How many tokens of each are left; the first has waited longest."""


class PromptBudget:
    """Divides what a step has for prompts, by what steps took so far.

    Args:
        decoding: the cost of steps that only decode.
    """

    def __init__(self, decoding: StepCost) -> None:
        self._decoding = decoding
        self._token_seconds: float | None = None  # what a token of a prompt adds to a step
        self._last_join = float("-inf")  # when a sequence was last admitted beside others

    def joined(self) -> None:
        """A sequence was admitted beside others."""
        self._last_join = time.monotonic()

    def observe(self, chunks: Sequence[Chunk], seconds: float) -> None:
        """A step of these took so long."""
        rows = sum(chunk.length for chunk in chunks)
        tokens = sum(chunk.length for chunk in chunks if chunk.length > 1 + len(chunk.draft))
        if not tokens:
            self._decoding.observe(rows, seconds)
        else:
            without = self._decoding.seconds(rows - tokens) if self._decoding.measured else 0.0
            added = max(0.0, seconds - without) / tokens
            old = added if self._token_seconds is None else self._token_seconds
            self._token_seconds = old + _NEW_WEIGHT * (min(added, _OUTLIER * old) - old)

    def divide(self, budget: int, needs: Needs, decoding: int) -> dict[TokenSequence, int]:
        """Divide `budget` tokens evenly among the clients of some prompts.

        Args:
            decoding: sequences in the step that have one token each beside them.
        """
        most = self.most_at_once(len(needs), budget, decoding)
        clients: dict[str, dict[TokenSequence, int]] = {}
        for sequence, need in needs.items():
            clients.setdefault(sequence.request.client, {})[sequence] = need
        if len(clients) <= 1:
            return _divide(budget, needs, most, list(needs)[:1])
        oldest = list(needs)[:1]
        # Who can use least comes first, and leaves the rest of an even share to the others.
        usable = {
            name: sum(_divide(budget, own, most, oldest).values()) for name, own in clients.items()
        }
        given: dict[TokenSequence, int] = {}
        for left, name in zip(
            range(len(clients), 0, -1), sorted(clients, key=usable.__getitem__), strict=True
        ):
            own = _divide(-(-budget // left), clients[name], most, oldest)
            budget -= sum(own.values())
            given |= own
        return given

    def most_at_once(self, prompts: int, budget: int, decoding: int) -> int:
        """How many tokens of a long prompt a step computes, if it has so many prompts and so many
        sequences that decode: as many as take no longer than those, or `_LONG_SECONDS`."""
        if prompts == 1 and time.monotonic() - self._last_join > _ALONE_SECONDS:
            return budget
        if not self._token_seconds:
            return max(1, budget // 4)
        seconds = max(_LONG_SECONDS, self._decoding.seconds(decoding) if decoding else 0.0)
        return max(1, min(budget, max(_LEAST, round(seconds / self._token_seconds))))


def _divide(
    budget: int, needs: Needs, most: int, oldest: Sequence[TokenSequence]
) -> dict[TokenSequence, int]:
    """Divide `budget` tokens among the prompts of one client.

    Args:
        most: what a prompt gets that does not fit as a whole.
        oldest: the prompt that has waited longest of all; it may be another client's.
    """
    given: dict[TokenSequence, int] = {}
    first = [sequence for sequence in oldest if sequence in needs]
    others = [sequence for sequence in needs if sequence not in oldest]
    for sequence in first:
        # It leaves three quarters to those that need less, and takes what they leave.
        need, part = needs[sequence], min(most, max(1, budget // 4))
        given[sequence] = min(need if need <= budget // 2 else part, budget)
    left = budget - sum(given.values())
    for sequence in sorted(others, key=needs.__getitem__):
        need = needs[sequence]
        given[sequence] = need if need <= left else min(most, left)
        left -= given[sequence]
    for sequence in first:
        more = min(most, needs[sequence]) - given[sequence]
        given[sequence] += max(0, min(more, left))
    return given
