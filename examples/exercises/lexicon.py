"""The words that exercises are about, and how clauses are made of them."""

from collections.abc import Iterable
from functools import cached_property

from examples.exercises.exercise import Draw, Skip
from examples.exercises.morphology import Morphology, Verb, article
from examples.exercises.sentences import Clause, Noun
from examples.exercises.tables import lists, pairs
from examples.exercises.wordnet import WordNet

STATIVE = frozenset(
    [
        "know",
        "like",
        "love",
        "need",
        "own",
        "remember",
        "hear",
        "see",
        "enjoy",
        "wear",
        "be",
        "have",
    ]
)
"""Verbs that sound wrong, or change their meaning, in a continuous tense."""

ABSTRACT = [
    "plan",
    "idea",
    "system",
    "project",
    "proposal",
    "group",
    "work",
    "problem",
    "change",
    "process",
    "program",
]
"""What can be done almost anything to."""

PRONOUNS = (
    Noun("I", "I"),
    Noun("you", "they"),
    Noun("he"),
    Noun("she"),
    Noun("we", "they"),
    Noun("they", "they"),
)

_MASS = "*"


class Lexicon:
    """Words by what exercises need them for."""

    def __init__(self, wordnet: WordNet) -> None:
        self.wordnet = wordnet
        self.forms = Morphology(wordnet)
        self.things = lists("nouns")

    @cached_property
    def verbs(self) -> tuple[str, ...]:
        """Frequent verbs whose forms are known."""
        tagged = self.wordnet.frequent("v", 3)
        own = (*pairs("transitive-verbs"), *pairs("intransitive-verbs"))
        candidates = dict.fromkeys((*own, *self.forms.irregular_verbs, *tagged))
        return tuple(word for word in candidates if word != "be" and self.forms.verb(word))

    @cached_property
    def other_transitive(self) -> tuple[str, ...]:
        """Frequent verbs of `somebody ----s something` that are in no table."""
        found = []
        for word in self.wordnet.frequent("v", 8):
            synset = self.wordnet.synsets(word, "v")[0]
            known = word in pairs("transitive-verbs") or word in pairs("intransitive-verbs")
            if not known and synset.frames == {8} and self.forms.verb(word) and len(word) > 3:
                found.append(word)
        return tuple(found)

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        """Nouns that are counted, with a plural that is known."""
        own = [w for kind in self.things if kind[0].islower() for w in self._countable(kind)]
        tagged = []
        for word in self.wordnet.frequent("n", 4):
            synset = self.wordnet.synsets(word, "n")[0]
            if (
                synset.category in (5, 6, 13, 15, 17, 18, 20)
                and self.wordnet.main_part(word) == "n"
            ):
                tagged.append(word)
        words = dict.fromkeys((*own, *self.forms.irregular_plurals, *tagged))
        usable = (w for w in words if (self.forms.plural(w) or w) != w)
        return tuple(w for w in usable if " " not in w and w.islower())

    def _countable(self, kind: str) -> Iterable[str]:
        countable = (
            "people mammal bird reptile amphibian insect fruit vegetable flower tree tool "
            "furniture vehicle instrument appliance electronics dog"
        )
        plural = {"pliers", "scissors", "jeans", "boots", "oats", "spinach", "broccoli", "garlic"}
        return [w for w in self.things[kind] if kind in countable.split() and w not in plural]

    @cached_property
    def adjectives(self) -> tuple[str, ...]:
        """Frequent adjectives that can be more or less so: those with an opposite or synonyms."""
        found = [w for w in self.wordnet.frequent("a", 3) if self.wordnet.main_part(w) == "a"]
        return tuple(found)

    @cached_property
    def by_part(self) -> dict[str, tuple[str, ...]]:
        """Frequent words that are clearly one part of speech."""
        return {
            part: tuple(
                word
                for word in self.wordnet.frequent(part, 3)[:1500]
                if self.wordnet.main_part(word) == part and len(word) > 2
            )
            for part in "nvar"
        }

    @cached_property
    def sortable(self) -> tuple[str, ...]:
        """Words whose letters are to be known."""
        own = [w for words in self.things.values() for w in words]
        frequent = (*self.wordnet.frequent("n", 5), *self.wordnet.frequent("a", 8))
        words = dict.fromkeys((*own, *own, *frequent))
        return tuple(w for w in words if w.isascii() and w.isalpha() and w.islower())

    @cached_property
    def spelling_words(self) -> tuple[str, ...]:
        """Frequent words that are long enough to be misspelled."""
        words = {w for part in "nvar" for w in self.wordnet.frequent(part, 15) if len(w) > 4}
        return tuple(sorted(words))

    @cached_property
    def spelling_set(self) -> frozenset[str]:
        return frozenset(self.spelling_words)

    def verb(self, base: str) -> Verb:
        """
        Raises:
            Skip: its forms are not known.
        """
        forms = self.forms.verb(base)
        if forms is None:
            raise Skip
        return forms

    def subject(self, draw: Draw, who: str = "") -> Noun:
        """Somebody, or one of those in `who`."""
        if who:
            noun = draw.choice(who.split())
        elif draw.chance(0.45):
            return draw.choice(PRONOUNS)
        elif draw.chance(0.3):
            return Noun(draw.choice(self.things["name"]))
        else:
            noun = draw.choice(self.things["people"])
        if draw.chance(0.3):
            return Noun(f"the {self.forms.plural(noun)}", "they")
        return Noun(f"the {noun}")

    def object(self, draw: Draw, words: str) -> Noun:
        """One of the things, with an article and sometimes an adjective."""
        word = draw.choice(words.split(", "))
        adjective = draw.choice(self.things["adjective"]) + " " if draw.chance(0.15) else ""
        if word.endswith(_MASS):
            return Noun(f"the {adjective}{word[:-1]}")
        more = self.forms.plural(word)
        if draw.chance(0.25) and more:
            return Noun(f"the {adjective}{more}", "they")
        if draw.chance(0.35):
            return Noun(article(adjective + word))
        return Noun(f"the {adjective}{word}")

    def transitive(self, draw: Draw) -> Clause:
        """Someone does something to something. Of verbs with a rule, those of the part."""
        table = pairs("transitive-verbs")
        base = (
            draw.choice(tuple(table)) if draw.chance(0.75) else draw.choice(self.other_transitive)
        )
        verb = self.verb(base)
        if not verb.irregular:
            draw.belongs(base)
        objects, _, who = table.get(base, ", ".join(ABSTRACT)).partition(" | ")
        return Clause(self.subject(draw, who), verb, self.object(draw, objects))

    def intransitive(self, draw: Draw, *, anybody: bool = False) -> Clause:
        """Someone does something somewhere; with `anybody` what every subject may do."""
        table = pairs("intransitive-verbs")
        if anybody:
            table = {verb: rest for verb, rest in table.items() if "|" not in rest}
        verb = self.verb(draw.choice(tuple(table)))
        if not verb.irregular:
            draw.belongs(verb.base)
        tails, _, who = table[verb.base].partition(" | ")
        return Clause(self.subject(draw, who), verb, None, draw.choice(tails.split(", ")))

    def clause(self, draw: Draw) -> Clause:
        return self.transitive(draw) if draw.chance(0.65) else self.intransitive(draw)
