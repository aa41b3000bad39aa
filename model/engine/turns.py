"""Whose turn it is: clients share the places of an engine's steps.

As long as all sequences have a part in every step, nobody needs a turn. When some are left out, the
places of a step go one after another to the client that has had the fewest since somebody was first
left out; within a client, to that of its submissions that has had the fewest; within a submission,
to its sequences in their order. Who wants little is owed nothing for it: saving up is of no use.
Once all have a part again, everything is forgotten. This is fair queueing of what is generated, a
token for each place, as in "Fairness in Serving Large Language Models" (Y. Sheng et al., 2024), on
two levels. Prompts have a budget of their own (`model.engine.prompt_budget`): were their tokens
counted here, a client would pause after each, and others begin sequences that pause in turn.

All of a higher priority go before all of a lower one.
"""

import heapq
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from model.engine.sequence import TokenSequence


@dataclass(eq=False)
class _Share:
    """What a client, or a submission, has had."""

    had: int
    """Places, since somebody was left out."""
    left_out: bool = False
    """Whether something of it has no part in the next step."""


@dataclass(eq=False)
class _Submission(_Share):
    sequences: dict[TokenSequence, None] = field(default_factory=dict)
    """A set, in the order of arrival."""


@dataclass(eq=False)
class _Client(_Share):
    submissions: dict[object, _Submission] = field(default_factory=dict)


class Turns:
    """The sequences that share the places of a step, whether they have begun or not."""

    def __init__(self) -> None:
        self._levels: dict[int, dict[str, _Client]] = {}  # by priority
        self._shares: dict[TokenSequence, tuple[_Client, _Submission]] = {}
        self._uneven = False  # whether anybody has had anything

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[TokenSequence]:
        """All of them, those first whose turn it is."""
        for priority in sorted(self._levels, reverse=True):
            yield from _in_turn(
                (client.had, _in_turn((own.had, iter(own.sequences)) for own in _parts(client)))
                for client in self._levels[priority].values()
            )

    def add(self, sequence: TokenSequence) -> None:
        """A sequence comes, behind those of its submission."""
        clients = self._levels.setdefault(sequence.priority, {})
        name = sequence.request.client
        if name not in clients:
            clients[name] = _Client(_least(clients.values()))
        client = clients[name]
        if sequence.submission not in client.submissions:
            client.submissions[sequence.submission] = _Submission(_least(_parts(client)))
        submission = client.submissions[sequence.submission]
        submission.sequences[sequence] = None
        self._shares[sequence] = client, submission

    def remove(self, sequence: TokenSequence) -> None:
        """A sequence has ended."""
        client, submission = self._shares.pop(sequence)
        del submission.sequences[sequence]
        if not submission.sequences:
            del client.submissions[sequence.submission]
        if not client.submissions:
            clients = self._levels[sequence.priority]
            del clients[sequence.request.client]
            if not clients:
                del self._levels[sequence.priority]

    def count(self, chosen: Iterable[TokenSequence]) -> None:
        """These have the places of a step."""
        given = set(chosen)
        if len(given) == len(self._shares) and not self._uneven:
            return
        for sequence in given:
            for share in self._shares[sequence]:
                share.had += 1
        self._uneven = len(given) < len(self._shares)
        for clients in self._levels.values():
            for client in clients.values():
                for submission in _parts(client):
                    submission.left_out = not submission.sequences.keys() <= given
                _even_out(_parts(client))
                client.left_out = any(submission.left_out for submission in _parts(client))
            _even_out(clients.values())


def _parts(client: _Client) -> Collection[_Submission]:
    return client.submissions.values()


def _in_turn(shares: Iterable[tuple[int, Iterator[TokenSequence]]]) -> Iterator[TokenSequence]:
    """One sequence after another, each from whoever has had the least by then.

    Args:
        shares: what each has had, and its sequences.
    """
    turns = [(had, number, sequences) for number, (had, sequences) in enumerate(shares)]
    heapq.heapify(turns)
    while turns:
        had, number, sequences = turns[0]
        sequence = next(sequences, None)
        if sequence is None:
            heapq.heappop(turns)
        else:
            heapq.heapreplace(turns, (had + 1, number, sequences))
            yield sequence


def _least(shares: Iterable[_Share]) -> int:
    return min((share.had for share in shares), default=0)


def _even_out(shares: Collection[_Share]) -> None:
    """Count from where those stand that have had the least, of all who are left out of something.
    Who was left out of nothing, and has had less, stands there too."""
    least = min((share.had for share in shares if share.left_out), default=None)
    for share in shares:
        share.had = 0 if least is None else max(0, share.had - least)
