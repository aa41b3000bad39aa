"""Exercises on kinds of things, and on rhymes."""

from examples.exercises.exercise import FACT, OPEN, Draw, Exercise, Known, Skip
from examples.exercises.lexicon import Lexicon
from examples.exercises.morphology import article, capital
from examples.exercises.tables import lines

_TYPE_OF = (
    "What type of animal is a `{w}`? => {W} is a type of {a}.",
    "What kind of animal is {an}? => {W} is a type of {a}.",
    "~To which group of animals does {the} belong? => {W} is a type of {a}.",
)
_HYPERNYM = (
    "Identify the hypernym for the word `{w}`. => The hypernym for the word `{w}` is `{a}`.",
    "Identify the hypernym for the word `{w}.` => The hypernym for the word `{w}` is `{a}.`",
    "What is a hypernym for `{w}`? => The hypernym for the word `{w}` is `{a}`.",
    "~Give a hypernym of `{w}`. => The hypernym for the word `{w}` is `{a}`.",
)
_ITEM = (
    "Classify the following item: {w}. => {W} can be classified as {aa}.",
    "~How would you classify this item? | {w} => {W} can be classified as {aa}.",
)
_EITHER = (
    "Classify the item as either {aa} or {ab}. | {C} => {A}",
    "Classify the following item as {aa} or {ab}. | {C} => {A}",
    "~Is this {aa} or {ab}? | {C} => {A}",
)
_ANIMALS = ("mammal", "bird", "fish", "reptile", "amphibian", "insect")
_THINGS = [
    "fruit",
    "vegetable",
    "flower",
    "tree",
    "tool",
    "vehicle",
    "instrument",
    "metal",
    "drink",
    "sport",
    "color",
    "grain",
    "spice",
]
_SINGLE = ["fruit", "vegetable", "flower", "tree", "tool", "vehicle", "instrument"]


def kind_of(lexicon: Lexicon, draw: Draw) -> Exercise:
    which = draw.rng.random()
    names = _ANIMALS if which < 0.35 else (*_THINGS, *_ANIMALS)
    kind = draw.choice(names)
    if kind == "fish" and which < 0.35 and draw.chance(0.5):
        raise Skip
    word = draw.choice(lexicon.things[kind])
    values = {
        "w": word,
        "an": article(word),
        "W": capital(article(word)),
        "the": f"the {word}",
        "aa": article(kind),
        "a": kind,
    }
    if which < 0.35:
        return draw.fill("kind of animal", _TYPE_OF, FACT, **values)
    if which < 0.55:
        return draw.fill("hypernym", _HYPERNYM, OPEN, **values)
    if which < 0.75:
        if kind not in (*_SINGLE, *_ANIMALS):
            raise Skip
        return draw.fill("item", _ITEM, OPEN, **values)
    other = draw.choice(names)
    if other == kind or word in lexicon.things[other]:
        raise Skip
    one, two = (kind, other) if draw.chance(0.5) else (other, kind)
    values |= {"aa": article(one), "ab": article(two), "C": capital(word)}
    return draw.fill("either kind", _EITHER, FACT, **values)


_SORT = (
    "Classify the following into {k}. | {w} => {a}",
    "Categorize the following items into {k}. | {w} => {a}",
    "Classify the following items into {k}. | {w} => {a}",
    "~Sort these items into {k}. | {w} => {a}",
)
_EACH = (
    "Classify the following items as either solid, liquid, or gas. | {w} => {a}",
    "~Say whether each item is a solid, a liquid, or a gas. | {w} => {a}",
)
_DIET = (
    "Classify the following animal as carnivore, herbivore, or omnivore. | {C} => {A}",
    "~Is this animal a carnivore, a herbivore, or an omnivore? | {C} => {A}",
)
_PLURALS = {
    "fish": "fish",
    "furniture": "furniture",
    "clothing": "clothing",
    "electronics": "electronics",
    "gas": "gases",
}
_GROUPS = (
    _ANIMALS,
    ("fruit", "vegetable", "grain", "flower", "tree", "drink", "dessert"),
    ("tool", "clothing", "furniture", "vehicle", "instrument", "appliance", "fruit"),
    ("mammal", "flower", "metal"),
    ("vegetable", "mammal", "metal"),
    ("bird", "tree", "mineral"),
    ("herb", "spice"),
    ("solid", "liquid"),
    ("acid", "base"),
)


def sort_into_kinds(lexicon: Lexicon, draw: Draw) -> Exercise:
    which = draw.rng.random()
    if which < 0.15:
        kind = draw.choice(("carnivore", "herbivore", "omnivore"))
        word = draw.choice(lexicon.things[kind])
        return draw.fill("diet", _DIET, FACT, C=capital(word), a=kind)
    group = ("solid", "liquid", "gas") if which < 0.3 else draw.choice(_GROUPS)
    kinds = draw.rng.sample(group, min(len(group), draw.choice((2, 3, 3))))
    chosen = [(draw.choice(lexicon.things[kind]), kind) for kind in kinds]
    if len(kinds) == 2:
        kind = draw.choice(kinds)
        chosen.append((draw.choice(lexicon.things[kind]), kind))
    draw.rng.shuffle(chosen)
    words = [word for word, _ in chosen]
    if len(set(words)) < len(words) or any(
        word in lexicon.things[other] for word, kind in chosen for other in kinds if other != kind
    ):
        raise Skip
    listed = ", ".join(map(capital, words))
    if which < 0.3:
        if len(kinds) == 2:
            raise Skip
        answer = "\n".join(f"{capital(word)} - {capital(kind)}" for word, kind in chosen)
        return draw.fill("states of matter", _EACH, FACT, w=listed, a=answer)
    names = [_PLURALS.get(kind, f"{kind}s") for kind in kinds]
    text = " and ".join(names) if len(names) == 2 else f"{', '.join(names[:-1])}, and {names[-1]}"
    answer = "\n".join(
        f"{capital(name)}: {', '.join(capital(w) for w, k in chosen if k == kind)}"
        for name, kind in zip(names, kinds, strict=True)
    )
    return draw.fill("sort into kinds", _SORT, FACT, k=text, w=listed, a=answer)


_RHYME = (
    "Provide a word that rhymes with `{w}.` => A word that rhymes with `{w}` is `{a}.`",
    "Find a rhyming word for the word `{w}.` => A rhyming word for the word `{w}` is `{a}.`",
    "What is a word that rhymes with `{w}`? => A word that rhymes with `{w}` is `{a}`.",
    "Name a word that rhymes with `{w}`. => A word that rhymes with `{w}` is `{a}`.",
    "~Which word rhymes with `{w}`? => A word that rhymes with `{w}` is `{a}`.",
)


def rhyme(lexicon: Lexicon, draw: Draw) -> Exercise:
    family = draw.choice(lines("rhymes")).split()
    at = draw.rng.randrange(len(family))
    word, first = family[at], family[at - 1]
    others = [other for other in family if other not in (word, first)]
    return draw.fill("rhyme", _RHYME, Known(True, False, tuple(others)), w=word, a=first)
