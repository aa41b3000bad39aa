"""One exercise, and how it is drawn: which words and phrasings training has, and which the test.

- Where a rule can be learnt (forms of regular words, passive voice, order, arithmetic), the test
  has words or problems that training never asks about: those whose SHA-256, as a fraction, is below
  `HELD_OUT`. The word counts that the rule changes, the same for all kinds.
- Where a fact must be known (capitals, irregular forms, synonyms, definitions, symbols), training
  tells it; the test has phrasings of the instruction that training never uses.

A phrasing is a line `instruction | input => output` with the names of what is filled in, in braces;
`~` in front holds it out. An input is optional. Backticks are quotation marks of either kind.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from training.data.documents import hash_fraction

T = TypeVar("T")

HELD_OUT = 0.12
"""The share of words and problems that are for the test."""


CLOSED = frozenset(
    {
        *("capital", "state capital", "country of a capital", "contraction"),
        *("synonym", "antonym", "definition", "word for a definition"),
        *("chemical symbol", "chemical formula", "atomic number", "element"),
    }
)
"""Kinds that are a list of facts: the test asks only for those that training has told."""

_TRIES = 100  # a list may have few words of the part


@dataclass(frozen=True)
class Exercise:
    """One row."""

    kind: str
    instruction: str
    input: str
    output: str
    unique: bool
    """Whether no other answer is right."""
    accept: tuple[str, ...] = ()
    """Other answers that are right, too, each as a whole output."""


@dataclass(frozen=True)
class Phrasing:
    """One way to put an exercise."""

    instruction: str
    input: str
    output: str
    held_out: bool


@cache
def phrasing(line: str) -> Phrasing:
    question, _, output = line.removeprefix("~").partition(" => ")
    instruction, _, text = question.partition(" | ")
    return Phrasing(instruction.strip(), text.strip(), output, line.startswith("~"))


@cache
def is_held_out(key: str) -> bool:
    """Whether a word or problem is for the test alone."""
    return hash_fraction(key) < HELD_OUT


@dataclass(frozen=True)
class Known:
    """What there is to know for an exercise."""

    fact: bool = False
    """Whether the answer must be known, so that the test has held-out phrasings alone."""
    unique: bool = True
    """Whether there is one right answer."""
    accept: tuple[str, ...] = ()
    """Other answers that are right."""


FACT = Known(fact=True)
OPEN = Known(fact=True, unique=False)


def known(fact: bool) -> Known:
    """One right answer, from a fact or by a rule."""
    return Known(fact)


class Skip(Exception):
    """What was drawn does not make an exercise; another draw will."""


class Draw:
    """Draws the words and phrasings of one part."""

    def __init__(self, rng: random.Random, test: bool, told: set[str] | None = None) -> None:
        """`told`: what was asked in training, which the draws of training add to."""
        self.rng = rng
        self.test = test
        self.told = told

    def choice(self, items: Sequence[T]) -> T:
        """
        Raises:
            Skip: there are none.
        """
        if not items:
            raise Skip
        return items[self.rng.randrange(len(items))]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def word(self, words: Sequence[str]) -> str:
        """A word of this part, for an exercise on a rule."""
        for _ in range(_TRIES):
            word = self.choice(words)
            if is_held_out(word) == self.test:
                return word
        raise Skip

    def belongs(self, key: str) -> None:
        """
        Raises:
            Skip: the word or problem belongs to the other part.
        """
        if is_held_out(key) != self.test:
            raise Skip

    def fill(
        self,
        kind: str,
        phrasings: Sequence[str],
        known: "Known | None" = None,
        /,
        **values: str,
    ) -> Exercise:
        """The exercise in one of the phrasings, as the part allows.

        Args:
            known: by default there is a rule, and one right answer.
            values: `a` is the answer, with `A` for it with a capital; the others are as the
                phrasings name them.
        """
        known = known or Known()
        if kind in CLOSED and self.told is not None:
            fact = f"{kind} {sorted(values.items())}"
            if self.test and fact not in self.told:
                raise Skip
            self.told.add(fact)
        allowed = [
            line
            for line in phrasings
            if (self.test or not line.startswith("~"))
            and (not self.test or not known.fact or line.startswith("~"))
        ]
        if not allowed:
            raise Skip
        chosen = phrasing(self.choice(allowed))
        quote = '"' if self.chance(0.15) else "'"

        def filled(text: str, answer: str) -> str:
            capitalised = answer[:1].upper() + answer[1:]
            return text.replace("`", quote).format(**{**values, "a": answer, "A": capitalised})

        answer = values.get("a", "")
        return Exercise(
            kind,
            filled(chosen.instruction, answer),
            filled(chosen.input, answer),
            filled(chosen.output, answer),
            known.unique,
            tuple(filled(chosen.output, other) for other in known.accept),
        )
