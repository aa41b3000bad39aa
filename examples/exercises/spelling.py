"""Exercises on the spelling of words, their parts of speech and contractions."""

import re

from examples.exercises.exercise import FACT, Draw, Exercise, Skip, known
from examples.exercises.lexicon import Lexicon
from examples.exercises.morphology import capital
from examples.exercises.tables import pairs

_SPELLING = (
    "Identify the correct spelling of the following word. | {C} => The correct spelling is `{A}.`",
    "Correct the spelling of the following word. | {w} => The correct spelling is `{a}`.",
    "Correct the spelling of the word `{w}`. => The correct spelling is `{a}`.",
    "What is the correct spelling of `{w}`? => The correct spelling is `{a}`.",
    "Fix the spelling mistake. | {w} => {a}",
    "Correct the spelling. | {w} => {a}",
    "Identify the correct spelling: `{w}` or `{a}`. => The correct spelling is `{a}`.",
    "Identify the correct spelling: `{a}` or `{w}`. => The correct spelling is `{a}`.",
    "Evaluate the following phrase by transforming it into the correct spelling given. "
    "| {w} --> {a} => The spelling of the given phrase `{w}` is incorrect, "
    "the correct spelling is `{a}`.",
    "~How is the word `{w}` spelled correctly? => The correct spelling is `{a}`.",
    "~This word is misspelled. Spell it correctly. | {w} => The correct spelling is `{a}`.",
)
_SPELLING_IN = (
    "Correct any spelling mistakes in the given sentence. | {s} => {r}",
    "Correct the spelling mistake in the sentence. | {s} => {r}",
    "Correct the spelling errors in the following sentence. | {s} => {r}",
    "Fix the spelling mistakes in the sentence. | {s} => {r}",
    "Rewrite the sentence with correct spelling. | {s} => {r}",
    "Correct the spelling error in the sentence. | {s} "
    "=> The correct spelling is `{a}`, not `{w}`.",
    "Correct the misspelled word in the following sentence. | {s} "
    "=> The misspelled word `{w}` should be spelled `{a}.`",
    "~Find and fix the misspelled word. | {s} => {r}",
    "~Write this sentence again without the spelling mistake. | {s} => {r}",
)


def misspell(word: str, draw: Draw) -> str:
    """With one slip: a letter left out, doubled, or exchanged with its neighbour."""
    at = draw.rng.randrange(1, len(word) - 1)
    which = draw.rng.random()
    doubled = [i for i in range(1, len(word)) if word[i] == word[i - 1]]
    if doubled and which < 0.5:
        wrong = word[: doubled[0]] + word[doubled[0] + 1 :]
    elif which < 0.3:
        wrong = word[:at] + word[at + 1 :]
    elif which < 0.55:
        wrong = word[:at] + word[at] + word[at:]
    else:
        wrong = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if wrong == word:
        raise Skip
    return wrong


def spelling(lexicon: Lexicon, draw: Draw) -> Exercise:
    """Words are known from training, their misspelling in the test is not; those of the table,
    which are common, are facts."""
    table = pairs("misspellings")
    fact = draw.chance(0.4)
    sentence = ""
    if fact:
        word = draw.choice(tuple(table))
        wrong = draw.choice(table[word].split())
    else:
        words = lexicon.spelling_words
        word = draw.choice(words)
        wrong = misspell(word, draw)
        if any((wrong, part) in lexicon.wordnet.index for part in "nvar"):
            raise Skip
        draw.belongs(f"{word} {wrong}")
    if draw.chance(0.5):
        clause = lexicon.clause(Draw(draw.rng, test=False))
        sentence = clause.sentence(draw.choice(("present simple", "past simple", "future simple")))
        long = re.findall(r"\b[a-z]{5,}\b", sentence)
        usable = [w for w in long if w in (table if fact else lexicon.spelling_set)]
        if fact:
            sentence = _with_fact(word, draw)
        elif not usable:
            raise Skip
        else:
            word = draw.choice(usable)
            wrong = misspell(word, draw)
            draw.belongs(f"{word} {wrong}")
    values = {"w": wrong, "a": word, "C": capital(wrong)}
    if sentence:
        values |= {"s": re.sub(rf"\b{word}\b", wrong, sentence, count=1), "r": sentence}
        return draw.fill("spelling in a sentence", _SPELLING_IN, known(fact), **values)
    return draw.fill("spelling", _SPELLING, known(fact), **values)


def _with_fact(word: str, draw: Draw) -> str:
    """A sentence with a word of the table, whatever part of speech it is."""
    name = draw.choice(("He", "She", "The teacher", "My brother", "The boy", "Anna", "My friend"))
    return draw.choice(
        (
            f"{name} wrote the word {word} on the board.",
            f"I do not know how to spell {word}.",
            f"{name} cannot spell the word {word}.",
            f"The next word on the list is {word}.",
        )
    )


_PARTS = {"n": "noun", "v": "verb", "a": "adjective", "r": "adverb"}
_PART = (
    "Classify an input string as either a noun or a verb. | {w} "
    "=> `{w}` can be classified as a {a}.",
    "~Is this word a noun or a verb? | {w} => `{w}` can be classified as a {a}.",
)
_PART_OF = (
    "What part of speech is the word `{w}`? => The word `{w}` is {a}.",
    "Identify the part of speech of the word `{w}`. => The word `{w}` is {a}.",
    "~Tell me the part of speech of `{w}`. => The word `{w}` is {a}.",
)
_PARTS_OF = (
    "Classify the following words by their grammatical categories: {w} => {a}",
    "Classify the following words by their parts of speech. | {w} => {a}",
    "~Say which part of speech each word is. | {w} => {a}",
)
_PICK = (
    "Pick out the {k} from the following list. | {w} => The correct {k} from the list is `{a}.`",
    "Pick out the correct {k} from the following list. | {w} "
    "=> The correct {k} from the list is `{a}.`",
    "~Which word in the list is {an} {k}? | {w} => The correct {k} from the list is `{a}.`",
)


def part_of_speech(lexicon: Lexicon, draw: Draw) -> Exercise:
    which = draw.rng.random()
    words = lexicon.by_part
    if which < 0.25:
        part = draw.choice("nv")
        return draw.fill("noun or verb", _PART, w=draw.word(words[part]), a=_PARTS[part])
    if which < 0.45:
        part = draw.choice("nvar")
        name = ("an " if part in "ar" else "a ") + _PARTS[part]
        return draw.fill("part of speech", _PART_OF, w=draw.word(words[part]), a=name)
    parts = draw.rng.sample("nvar", 3)
    some = [draw.word(words[part]) for part in parts]
    if which < 0.7:
        answer = "\n".join(
            f"{capital(w)}: {capital(_PARTS[p])}" for w, p in zip(some, parts, strict=True)
        )
        return draw.fill("parts of speech", _PARTS_OF, w=", ".join(some), a=answer)
    at = draw.rng.randrange(3)
    kind = _PARTS[parts[at]]
    values = {"k": kind, "an": "an" if kind[0] == "a" else "a", "a": some[at], "w": ", ".join(some)}
    return draw.fill("pick the part of speech", _PICK, **values)


_CONTRACTION = (
    "What is the contraction for `{w}`? => The contraction for `{w}` is `{a}`.",
    "Provide the correct contraction for `{w}`. => The contraction for `{w}` is `{a}`.",
    "What is the contraction of `{w}`? => The contraction for `{w}` is `{a}`.",
    "Write the contraction for `{w}`. => The contraction for `{w}` is `{a}`.",
    "~How can `{w}` be shortened to one word? => The contraction for `{w}` is `{a}`.",
)


def contraction(lexicon: Lexicon, draw: Draw) -> Exercise:
    table = pairs("contractions")
    words = draw.choice(tuple(table))
    return draw.fill("contraction", _CONTRACTION, FACT, w=words, a=table[words])
