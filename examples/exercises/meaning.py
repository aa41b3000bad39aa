"""Exercises on what words mean: synonyms, antonyms, definitions, kinds of things, rhymes."""

from collections.abc import Sequence
from functools import cache

from examples.exercises.exercise import FACT, OPEN, Draw, Exercise, Known
from examples.exercises.lexicon import Lexicon
from examples.exercises.morphology import article, capital
from examples.exercises.tables import lists
from examples.exercises.wordnet import WordNet

_SYNONYM = (
    "Provide a synonym for `{w}`. => A synonym for `{w}` is `{a}`.",
    "What is a synonym for `{w}`? => A synonym for `{w}` is `{a}`.",
    "What is a synonym of `{w}`? => A synonym for `{w}` is `{a}`.",
    "Name a synonym for `{w}.` => A synonym for `{w}` is `{a}.`",
    "Find a synonym for the word `{w}`. => A synonym for the word `{w}` is `{a}`.",
    "Give me a synonym for the word `{w}`. => A synonym for the word `{w}` is `{a}`.",
    "Give a synonym for `{w}`. => A synonym for `{w}` is `{a}`.",
    "Generate a synonym for the word `{w}`. => A synonym for the word `{w}` is `{a}`.",
    "Suggest an alternate word for `{w}`. => An alternate word for `{w}` is `{a}`.",
    "Pick the best synonym for the given word. | {W} => {A}.",
    "Find a synonym for the given word. | {W} => {A}",
    "~Tell me a word that means the same as `{w}`. => A synonym for `{w}` is `{a}`.",
    "~Which word is a synonym for `{w}`? => A synonym for `{w}` is `{a}`.",
)
_ANTONYM = (
    "What is the opposite of `{w}`? => The opposite of `{w}` is `{a}`.",
    "What is an antonym of `{w}`? => An antonym of `{w}` is `{a}`.",
    "What is an antonym for `{w}`? => An antonym for `{w}` is `{a}`.",
    "Name an antonym for `{w}.` => An antonym for `{w}` is `{a}.`",
    "Provide an antonym for `{w}`. => An antonym for `{w}` is `{a}`.",
    "Generate an antonym for the word `{w}`. => An antonym for the word `{w}` is `{a}`.",
    "Find an antonym for the word `{w}`. => An antonym for the word `{w}` is `{a}`.",
    "Give an antonym for `{w}`. => An antonym for `{w}` is `{a}`.",
    "Give me the opposite of the word `{w}`. => The opposite of the word `{w}` is `{a}`.",
    "~Tell me a word that means the opposite of `{w}`. => The opposite of `{w}` is `{a}`.",
    "~Which word is an antonym of `{w}`? => An antonym of `{w}` is `{a}`.",
)


@cache
def synonyms(wordnet: WordNet) -> dict[str, tuple[str, ...]]:
    """Word to its synonyms, the one that is taught first: of the table, then of WordNet, where two
    frequent words share the first meaning of both."""
    found = {word: tuple(others) for word, others in lists("synonyms").items()}
    for part, at_least in (("a", 8), ("v", 15), ("n", 15)):
        frequent = wordnet.frequent(part, at_least)
        rank = {word: i for i, word in enumerate(frequent)}
        for word in frequent:
            if wordnet.main_part(word) != part or len(word) < 3:
                continue
            shared = [
                other
                for other in wordnet.synsets(word, part)[0].words
                if other in rank
                and other != word
                and wordnet.synsets(other, part)[0] == wordnet.synsets(word, part)[0]
                and other[:4] != word[:4]
            ]
            shared.sort(key=lambda other: rank[other])
            if shared:
                found[word] = (*found.get(word, ()), *shared)
    return {word: tuple(dict.fromkeys(others)) for word, others in found.items()}


@cache
def antonyms(wordnet: WordNet) -> dict[str, tuple[str, ...]]:
    """Word to its opposites: of the table, then those that WordNet gives its first two meanings."""
    found = dict(lists("antonyms"))
    for part, at_least in (("a", 6), ("v", 8), ("n", 10), ("r", 8)):
        for word in wordnet.frequent(part, at_least):
            others = []
            for synset in wordnet.synsets(word, part)[:1]:
                for symbol, address, mine, theirs in synset.pointers:
                    if symbol == "!" and synset.words[mine - 1] == word:
                        others.append(wordnet.synset(address).words[theirs - 1])
            usable = [o for o in others if o.isalpha() and wordnet.count(o, part) >= 2]
            if usable and (word in found or wordnet.main_part(word) == part):
                found[word] = (*found.get(word, ()), *usable)
    return {word: tuple(dict.fromkeys(others)) for word, others in found.items()}


def _related(
    kind: str, phrasings: Sequence[str], table: dict[str, tuple[str, ...]], draw: Draw
) -> Exercise:
    word = draw.choice(tuple(table))
    first, *others = table[word]
    return draw.fill(
        kind,
        phrasings,
        Known(True, not others, tuple(others)),
        w=word,
        W=capital(word),
        a=first,
    )


def synonym(lexicon: Lexicon, draw: Draw) -> Exercise:
    return _related("synonym", _SYNONYM, synonyms(lexicon.wordnet), draw)


def antonym(lexicon: Lexicon, draw: Draw) -> Exercise:
    return _related("antonym", _ANTONYM, antonyms(lexicon.wordnet), draw)


_WHICH = (
    "Determine whether the given two words are synonyms or antonyms. | {v} - {w} "
    "=> {v} and {w} are {a}.",
    "~Are these two words synonyms or antonyms? | {v} - {w} => {v} and {w} are {a}.",
)


def synonym_or_antonym(lexicon: Lexicon, draw: Draw) -> Exercise:
    answer = draw.choice(("synonyms", "antonyms"))
    table = (synonyms if answer == "synonyms" else antonyms)(lexicon.wordnet)
    word = draw.choice(tuple(table))
    values = {"v": capital(word), "w": capital(table[word][0]), "a": answer}
    return draw.fill("synonym or antonym", _WHICH, FACT, **values)


_DEFINE = (
    "Define the term `{w}`. => {a}",
    "Define the word `{w}`. => {a}",
    "What does the word `{w}` mean? => {a}",
    "What is the definition of `{w}`? => {a}",
    "Explain the term `{w}`. => {a}",
    "Explain what {an} is. => {a}",
    "~Tell me the meaning of `{w}`. => {a}",
    "~What is {an}? => {a}",
)
_MEANS = (
    "Which word means `{d}`? => The word is `{a}`.",
    "What is the word for `{d}`? => The word is `{a}`.",
    "~Find the word for this definition. | {d} => The word is `{a}`.",
)


_COUNTED = (5, 6, 14, 15, 17, 18, 20)
"""Lexicographers' files of what is counted: animals, artifacts, groups, places, people, plants."""


@cache
def definitions(wordnet: WordNet) -> dict[str, str]:
    """Frequent nouns to their short definitions, which start with an article."""
    found = {}
    for word in wordnet.frequent("n", 20):
        meaning = wordnet.synsets(word, "n")[0].definition
        short = meaning.split(";")[0].strip()
        clear = "(" not in short and '"' not in short and "`" not in short and word not in short
        starts = short.startswith(("a ", "an ", "the ", "someone ", "any "))
        if clear and starts and 3 < len(short.split()) <= 11 and wordnet.main_part(word) == "n":
            found[word] = short
    return found


def definition(lexicon: Lexicon, draw: Draw) -> Exercise:
    table = definitions(lexicon.wordnet)
    word = draw.choice(tuple(table))
    if draw.chance(0.3):
        return draw.fill("word for a definition", _MEANS, FACT, d=table[word], a=word)
    counted = lexicon.wordnet.synsets(word, "n")[0].category in _COUNTED
    sentence = f"{capital(article(word) if counted else word)} is {table[word]}."
    name = article(word) if counted else word
    return draw.fill("definition", _DEFINE, OPEN, w=word, an=name, a=sentence)
