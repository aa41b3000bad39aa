"""Plain English sentences from parts, in any tense and voice, with agreement."""

from dataclasses import dataclass, replace

from examples.exercises.morphology import Verb, capital

TENSES = (
    "present simple",
    "past simple",
    "future simple",
    "present continuous",
    "past continuous",
    "future continuous",
    "present perfect",
    "past perfect",
    "future perfect",
    "present perfect continuous",
    "past perfect continuous",
    "future perfect continuous",
)

FREQUENCIES = ("every day", "every morning", "every week", "on Sundays", "every evening")

_BE = {"present": ("am", "is", "are"), "past": ("was", "was", "were")}
_OBJECTIVE = {"i": "me", "he": "him", "she": "her", "we": "us", "they": "them"}


@dataclass(frozen=True)
class Noun:
    """Who or what, with its article."""

    text: str
    """As within a sentence, so with a small letter unless it is a name or `I`."""
    form: str = "he"
    """How verbs agree with it: as with `I`, `he` (also one thing or person), or `they`."""

    @property
    def objective(self) -> str:
        """As the object of a verb, or after `by`."""
        return _OBJECTIVE.get(self.text.lower(), self.text)


@dataclass(frozen=True)
class Clause:
    """Someone does something."""

    subject: Noun
    verb: Verb
    object: Noun | None = None
    tail: str = ""
    """Where, when or how."""

    def sentence(self, tense: str) -> str:
        """Active, as a statement."""
        aux, main = verb_phrase(self.verb, tense, self.subject.form)
        return _sentence(self.subject.text, aux, main, self._rest)

    def modal(self, word: str) -> str:
        """With `should`, `must` and the like."""
        return _sentence(self.subject.text, word, self.verb.base, self._rest)

    def negative(self, tense: str) -> str:
        aux, main = emphatic(self.verb, tense, self.subject.form)
        first, _, others = aux.partition(" ")
        return _sentence(self.subject.text, first, "not", others, main, self._rest)

    def question(self, tense: str) -> str:
        """Answered by yes or no."""
        aux, main = emphatic(self.verb, tense, self.subject.form)
        first, _, others = aux.partition(" ")
        return _sentence(first, self.subject.text, others, main, self._rest, end="?")

    def command(self, end: str = ".") -> str:
        return _sentence(self.verb.base, self._rest, end=end)

    def passive(self, tense: str) -> str:
        """The object becomes the subject."""
        assert self.object is not None
        by = f"by {self.subject.objective}"
        phrase = passive_phrase(self.verb, tense, self.object.form)
        return _sentence(self.object.text, phrase, by, self.tail)

    def in_place(self, tail: str) -> "Clause":
        return replace(self, tail=tail)

    @property
    def _rest(self) -> str:
        return f"{self.object.objective if self.object else ''} {self.tail}"


def _sentence(*parts: str, end: str = ".") -> str:
    return capital(" ".join(" ".join(parts).split())) + end


def _be(time: str, form: str) -> str:
    return _BE[time][("i", "he", "they").index(form.lower())]


def verb_phrase(verb: Verb, tense: str, form: str) -> tuple[str, str]:
    """Auxiliaries, and the form of the verb itself."""
    time, _, aspect = tense.partition(" ")
    have = {"past": "had", "future": "will have"}.get(time) or ("has" if form == "he" else "have")
    if aspect == "simple":
        if time == "future":
            return "will", verb.base
        if verb.base == "be":
            return "", _be(time, form)
        if time == "past":
            return "", verb.past
        return "", verb.third if form == "he" else verb.base
    if aspect == "continuous":
        return ("will be" if time == "future" else _be(time, form)), verb.gerund
    if aspect == "perfect":
        return have, verb.participle
    return f"{have} been", verb.gerund


def emphatic(verb: Verb, tense: str, form: str) -> tuple[str, str]:
    """As `verb_phrase`, always with an auxiliary: `do` where there is none."""
    aux, main = verb_phrase(verb, tense, form)
    if aux:
        return aux, main
    if tense == "past simple":
        return "did", verb.base
    return "does" if form == "he" else "do", verb.base


def passive_phrase(verb: Verb, tense: str, form: str) -> str:
    """The verb in the passive voice; tenses whose passive nobody says are not known.

    Args:
        tense: one of `PASSIVE_TENSES`, or a modal verb.
    """
    time, _, aspect = tense.partition(" ")
    have = {"past": "had", "future": "will have"}.get(time) or ("has" if form == "he" else "have")
    if aspect == "simple":
        be = "will be" if time == "future" else _be(time, form)
    elif aspect == "continuous":
        be = f"{_be(time, form)} being"
    elif aspect == "perfect":
        be = f"{have} been"
    else:
        be = f"{tense} be"
    return f"{be} {verb.participle}"


PASSIVE_TENSES = (
    "past simple",
    "present simple",
    "future simple",
    "present perfect",
    "past perfect",
    "present continuous",
    "past continuous",
)
