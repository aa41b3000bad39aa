"""Speculation without a second model: what followed the same words before may follow again.

Answers repeat their input: what is extracted, corrected or rewritten stood in the prompt. A
sequence in decode therefore looks for the place where its last tokens stood before; what followed
there is its draft (prompt lookup decoding, A. Saxena, 2023). The next step computes the draft
behind the sequence's last token, and tokens are drawn row by row, as ever, for as long as they are
those of the draft: several in one step, at the price of a few rows more. What is drawn depends on
no draft, so that a wrong one costs time and nothing else; whether one is worth it is decided by
measured times and by how well the sequence's drafts foretold it so far.
"""

from array import array
from collections.abc import Sequence

LONGEST = 16
"""Tokens of a draft, at most."""

_SUFFIX = 3
"""Tokens that must have stood before; of two, most that follows is chance."""
_MATCH = 16
"""How many are compared where several places have those."""
_PLACES = 16
"""How many places are compared, the last ones."""
_READ_AT_ONCE = 4096
"""Tokens of a prompt that are looked through between two steps."""
_LONGEST_REST = 6
"""After so many useless drafts in a row, a sequence rests for 2^6 tokens, and no longer after."""
_HELD, _TRIED = 0.15, 1.0
"""What a sequence's drafts are taken for before there were any: too little to compute one. Guesses
are compared with what comes all the same, and one that held is enough for a draft."""
_KEEP_TRIED = 0.9
"""Weight of what is known of drafts, at each new one."""
_KEEP_SECONDS = 0.98
"""Weight of what is known of steps, at each new one."""
_ROW_SHARE = 0.2
"""What a row costs, of what a step costs without any, until it was measured."""
_ROW_WEIGHT = 0.5
"""Weight of that, as a variance of the number of rows."""
_OUTLIER = 3.0
"""A step that took so many times as long as expected was held up by something else."""


class Lookup:
    """The drafts of one sequence, and how much of them held.

    Each place is known by the three tokens before it, as in the hash chains of LZ77: a table leads
    to the last place of three tokens, and from each place to the one before it.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, ...], int] = {}
        self._before = array("i")  # of place _SUFFIX + i, at i; 0 where it is the first
        self._held, self._tried = _HELD, _TRIED
        self._guess: list[int] = []  # what the last `find` gave,
        self._guessed_at = 0  # for so many tokens,
        self._drafted = False  # and whether the step computed some of it
        self._useless = 0  # drafts in a row of which nothing held
        self._rests_until = 0

    @property
    def chance(self) -> float:
        """How likely it is that a token of a draft holds, if those before it do."""
        return self._held / self._tried

    def find(self, tokens: Sequence[int]) -> list[int]:
        """What may follow `tokens`, all of the sequence so far: `LONGEST` tokens, or none."""
        self._learn(tokens)
        read = len(self._before) + _SUFFIX
        for place in range(read, min(len(tokens), read + _READ_AT_ONCE)):
            suffix = tuple(tokens[place - _SUFFIX : place])
            self._before.append(self._last.get(suffix, 0))
            self._last[suffix] = place
        # Before the last token is read, the last suffix has not been looked for.
        caught_up = len(self._before) + _SUFFIX >= len(tokens)
        place = self._best_place(tokens) if caught_up else 0
        self._guess = _repeated(tokens[place : place + LONGEST]) if place else []
        self._guessed_at, self._drafted = len(tokens), False
        return self._guess

    def draft(self, length: int) -> list[int]:
        """The first tokens of what `find` gave: the step is to compute them."""
        self._drafted = True
        return self._guess[:length]

    @property
    def rests(self) -> bool:
        """Whether its drafts were useless of late."""
        return self._guessed_at < self._rests_until

    def _best_place(self, tokens: Sequence[int]) -> int:
        """Of the places with the same tokens before them, that with most of them; 0 is none."""
        best, longest = 0, 0
        place = self._last.get(tuple(tokens[-_SUFFIX:]), 0)
        for _ in range(_PLACES):
            if not place or longest == _MATCH:
                break
            length = _SUFFIX
            most = min(_MATCH, place)
            while length < most and tokens[place - length - 1] == tokens[-length - 1]:
                length += 1
            if length > longest:
                best, longest = place, length
            place = self._before[place - _SUFFIX]
        return best

    def _learn(self, tokens: Sequence[int]) -> None:
        """Compare what came with what was guessed, whether or not it was computed as a draft."""
        came = tokens[self._guessed_at : self._guessed_at + len(self._guess)]
        if not self._guess or not came:
            return
        pairs = zip(self._guess, came, strict=False)
        held = next((i for i, (a, b) in enumerate(pairs) if a != b), len(came))
        self._held = _HELD + _KEEP_TRIED * (self._held - _HELD) + held
        self._tried = _TRIED + _KEEP_TRIED * (self._tried - _TRIED) + min(held + 1, len(came))
        if held:
            self._useless = self._rests_until = 0
        elif self._drafted:
            self._useless = min(self._useless + 1, _LONGEST_REST)
            self._rests_until = len(tokens) + 2**self._useless


def _repeated(tokens: Sequence[int]) -> list[int]:
    """`tokens`, which go round in a circle where they reach the end of the sequence."""
    return [tokens[i % len(tokens)] for i in range(LONGEST)]


class StepCost:
    """Seconds of a step by its rows, a + b × rows: fitted to steps of decoding, the last most."""

    def __init__(self) -> None:
        # Sums over the steps, each times its weight: 1, rows, seconds, rows², rows × seconds.
        self._sums = [0.0] * 5
        self._a, self._b = 1.0, _ROW_SHARE

    @property
    def measured(self) -> bool:
        """Whether there was a step."""
        return self._sums[0] > 0

    def seconds(self, rows: int) -> float:
        """Before the first step, in units of an empty one."""
        return self._a + self._b * rows

    def observe(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        if self._sums[0]:
            seconds = min(seconds, _OUTLIER * self.seconds(rows))
        new = (1.0, rows, seconds, rows * rows, rows * seconds)
        self._sums = [_KEEP_SECONDS * a + b for a, b in zip(self._sums, new, strict=True)]
        mean_rows, mean_seconds, squares, products = (s / self._sums[0] for s in self._sums[1:])
        variance, covariance = squares - mean_rows**2, products - mean_rows * mean_seconds
        # As long as all steps have like many rows, a row's cost is what it is taken for.
        usual = mean_seconds * _ROW_SHARE / (1 + _ROW_SHARE * mean_rows)
        slope = (covariance + _ROW_WEIGHT * usual) / (variance + _ROW_WEIGHT)
        self._b = min(max(slope, 0.0), mean_seconds / mean_rows)
        self._a = mean_seconds - self._b * mean_rows


class Speculation:
    """Which drafts are worth their rows, in one engine."""

    def __init__(self) -> None:
        self.cost = StepCost()
        # Of the step that is planned:
        self._rows = self._most_rows = 0
        self._worth = 0.0  # how many of its rows are expected to be of use

    def plan(self, rows: int, most_rows: int) -> None:
        """Begin with a step that has so many rows without drafts, and may have so many."""
        self._rows, self._most_rows, self._worth = rows, most_rows, float(rows)

    def draft(
        self, lookup: Lookup, tokens: Sequence[int], most: int, expected: Sequence[int] = ()
    ) -> list[int]:
        """The draft of a sequence in the step that is planned: at most so many tokens, or none.

        Args:
            expected: what its constraint makes likely to come; nearly always it does.
        """
        most = min(most, self._most_rows - self._rows, LONGEST)
        if expected and most > 0:
            draft = list(expected[:most])
            self._rows += len(draft)
            self._worth += len(draft)
            return draft
        if most < 1 or not lookup.find(tokens) or lookup.rests:
            return []
        length = self.length(lookup.chance, most)
        if not length:
            return []
        self._rows += length
        self._worth += sum(lookup.chance**i for i in range(1, length + 1))
        return lookup.draft(length)

    def length(self, chance: float, most: int) -> int:
        """The length of a draft with which the step makes most of its time; 0 is none.

        Each token of a draft holds with `chance`, if those before it do.
        """
        worth, best = self._worth, self._worth / self.cost.seconds(self._rows)
        for length in range(1, most + 1):
            worth += chance**length
            rate = worth / self.cost.seconds(self._rows + length)
            if rate <= best:  # each token more is worth less than the one before it
                return length - 1
            best = rate
        return most
