"""Language exercises in the style of the book's instruction file, as many as are wanted.

Which words and phrasings are held out for the test is said in `exercise`. A row is drawn from its
own random numbers, so that the same seed gives the same rows, and more rows start with the same.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from examples.exercises import (
    arithmetic,
    facts,
    forms,
    grammar,
    kinds,
    meaning,
    numbers,
    parsing,
    spelling,
)
from examples.exercises.exercise import Draw, Exercise, Skip
from examples.exercises.lexicon import Lexicon
from examples.exercises.wordnet import WordNet
from model.errors import DataError
from training.data.documents import text_hash

Maker = Callable[[Lexicon, Draw], Exercise]

WEIGHTS: Mapping[Maker, float] = {
    grammar.tense: 14,
    grammar.passive: 11,
    grammar.active: 4,
    grammar.question: 2.4,
    grammar.negative: 0.9,
    grammar.command: 0.9,
    grammar.tag: 0.6,
    parsing.agreement: 2.4,
    parsing.which_tense: 0.9,
    parsing.sentence_type: 0.9,
    parsing.speech: 0.9,
    parsing.find_word: 1.8,
    parsing.relative_clause: 0.3,
    forms.verb_form: 9,
    forms.plural: 8,
    forms.degree: 1.8,
    spelling.spelling: 10,
    spelling.part_of_speech: 2.4,
    spelling.contraction: 0.4,
    meaning.synonym: 11,
    meaning.antonym: 11,
    meaning.synonym_or_antonym: 0.6,
    meaning.definition: 6,
    kinds.kind_of: 1.8,
    kinds.sort_into_kinds: 2.4,
    kinds.rhyme: 1.2,
    numbers.alphabetical: 8,
    numbers.order: 6,
    numbers.units: 8,
    numbers.measures: 1.5,
    arithmetic.tables: 1.2,
    arithmetic.classes: 0.6,
    arithmetic.sequence: 0.9,
    arithmetic.figure: 0.9,
    arithmetic.numeral: 0.5,
    arithmetic.count_words: 0.4,
    facts.capital_city: 7,
    facts.chemistry: 1.8,
    facts.simile: 0.9,
}
"""How often each kind is drawn, in relation to the others."""

_DRAWS = 400
"""How many draws in a row may give nothing new before a kind counts as used up."""


@dataclass(frozen=True)
class Exercises:
    """Distinct exercises in two parts that share no row."""

    train: tuple[Exercise, ...]
    test: tuple[Exercise, ...]


def generate(wordnet: WordNet, count: int, seed: int, test_count: int) -> Exercises:
    """`count` rows to train on, and `test_count` to test with.

    Raises:
        DataError: there are not that many distinct rows.
    """
    lexicon = Lexicon(wordnet)
    told: set[str] = set()
    train = _rows(lexicon, count, Draw(random.Random(f"train {seed}"), False, told), set())
    taken = {_identity(row) for row in train}
    test = _rows(lexicon, test_count, Draw(random.Random(f"test {seed}"), True, told), taken)
    return Exercises(tuple(train), tuple(test))


def _identity(row: Exercise) -> str:
    return text_hash(f"{row.instruction}\n{row.input}")


def _rows(lexicon: Lexicon, count: int, draw: Draw, taken: set[str]) -> list[Exercise]:
    makers, weights = list(WEIGHTS), list(WEIGHTS.values())
    rows: list[Exercise] = []
    while len(rows) < count:
        if not makers:
            raise DataError(
                f"there are only {len(rows)} distinct exercises for the "
                f"{'test' if draw.test else 'training'}, of {count} that are wanted"
            )
        at = draw.rng.choices(range(len(makers)), weights)[0]
        row = _new(makers[at], lexicon, draw, taken)
        if row is None:  # all of the kind that can be found are there
            del makers[at], weights[at]
        else:
            taken.add(_identity(row))
            rows.append(row)
    return rows


def _new(make: Maker, lexicon: Lexicon, draw: Draw, taken: set[str]) -> Exercise | None:
    for _ in range(_DRAWS):
        try:
            row = make(lexicon, draw)
        except Skip:
            continue
        if _identity(row) not in taken:
            return row
    return None


def by_kind(rows: Sequence[Exercise]) -> dict[str, int]:
    """How many rows there are of each kind, most first."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.kind] = counts.get(row.kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
