"""Regular and irregular forms of English words.

Irregular forms are those of the tables; that a final consonant doubles (stop, stopped) is looked up
in WordNet's lists of exceptions. A word that is irregular in WordNet and in no table is not used.
"""

import re
from collections import defaultdict
from dataclasses import dataclass

from examples.exercises.tables import lines
from examples.exercises.wordnet import WordNet

_VOWEL_SOUND = re.compile(r"^([aeiou]|hour|hon[eo]|heir|herb)", re.I)
_CONSONANT_SOUND = re.compile(r"^(uni[^nm]|us[eu]|eu|one|once|ut[ei])", re.I)


_DOUBLES_L = ("control", "compel", "expel", "patrol", "excel", "rebel", "propel", "repel", "impel")
"""Stressed on the last syllable; others, such as travel, double their l in Britain alone."""

_REGULAR = frozenset(
    [
        "burn",
        "learn",
        "melt",
        "prove",
        "dream",
        "ski",
        "work",
        "lean",
        "spell",
        "spill",
        "smell",
        "spoil",
        "leap",
        "bless",
        "blend",
    ]
)
"""Verbs that WordNet knows older forms of, such as burnt."""

_NO_MEN = ("human", "german", "roman", "ottoman", "shaman", "talisman", "norman")


@dataclass(frozen=True)
class Verb:
    """A verb's five forms."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str
    irregular: bool


def article(words: str) -> str:
    """The words with `a` or `an` in front."""
    vowel = _VOWEL_SOUND.match(words) and not _CONSONANT_SOUND.match(words)
    return f"{'an' if vowel else 'a'} {words}"


def capital(text: str) -> str:
    """With its first letter as a capital."""
    return text[:1].upper() + text[1:]


def _ends_in_consonant_y(word: str) -> bool:
    return len(word) > 1 and word[-1] == "y" and word[-2] not in "aeiou"


def _with_s(word: str) -> str:
    if _ends_in_consonant_y(word):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


class Morphology:
    """Forms of words."""

    def __init__(self, wordnet: WordNet) -> None:
        self.irregular_verbs = {line.split()[0]: line.split() for line in lines("irregular-verbs")}
        self.irregular_plurals = {
            line.split()[0]: line.split()[1] for line in lines("irregular-plurals")
        }
        self.irregular_adjectives = {
            line.split()[0]: line.split() for line in lines("irregular-adjectives")
        }
        self._exceptions: dict[str, dict[str, set[str]]] = {}
        for part in "nva":
            forms = defaultdict(set)
            for form, word in wordnet.exceptions(part):
                forms[word].add(form)
            self._exceptions[part] = forms

    def _stem(self, word: str, part: str) -> str:
        """What stands before -ed, -ing or -er: with the last consonant doubled, or without e."""
        doubled = word + word[-1]
        american = word[-1] not in "ls" or word in _DOUBLES_L or len(word) < 5
        if american and any(
            form.startswith(doubled) for form in self._exceptions[part].get(word, ())
        ):
            return doubled
        if word.endswith("e"):
            return word[:-1]
        return word + "k" if word.endswith("ic") else word

    def verb(self, base: str) -> Verb | None:
        """Its forms; None where they are not known for sure."""
        third = {"be": "is", "have": "has", "do": "does", "go": "goes"}.get(base) or _with_s(base)
        if base.endswith("ie"):
            gerund = base[:-2] + "ying"
        elif base.endswith(("ee", "oe", "ye")) or base == "be":
            gerund = base + "ing"
        else:
            gerund = self._stem(base, "v") + "ing"
        if base in self.irregular_verbs:
            _, past, participle = self.irregular_verbs[base]
            return Verb(base, third, past, participle, gerund, irregular=True)
        past = base[:-1] + "ied" if _ends_in_consonant_y(base) else self._stem(base, "v") + "ed"
        british = {base + base[-1] + "ed", base + base[-1] + "ing"}
        others = self._exceptions["v"].get(base, set()) - {third, past, gerund} - british
        if others and base not in _REGULAR:
            return None
        return Verb(base, third, past, past, gerund, irregular=False)

    def plural(self, noun: str) -> str | None:
        """Of a noun, or of the last of its words; None where it is not known for sure."""
        first, space, last = noun.rpartition(" ")
        if last in self.irregular_plurals:
            return first + space + self.irregular_plurals[last]
        if last.endswith("man") and last not in _NO_MEN:
            return first + space + last[:-2] + "en"
        if self._exceptions["n"].get(last) or last.endswith(("s", "f", "fe", "o", "z", "men")):
            safe = last.endswith(("ss", "us", "o", "oof", "ief", "ff", "oo"))
            known = self._exceptions["n"].get(last, set()) - {_with_s(last)}
            if known or not safe:
                return None
        return first + space + _with_s(last)

    def degrees(self, adjective: str) -> tuple[str, str] | None:
        """Comparative and superlative of a short adjective; None for one that takes `more`."""
        if adjective in self.irregular_adjectives:
            _, comparative, superlative = self.irregular_adjectives[adjective]
            return comparative, superlative
        if adjective.endswith("y"):
            stem = adjective[:-1] + "i" if _ends_in_consonant_y(adjective) else adjective
        else:
            stem = self._stem(adjective, "a")
        known = self._exceptions["a"].get(adjective, set())
        if known and not {stem + "er", stem + "est"} <= known:
            return None
        return stem + "er", stem + "est"
