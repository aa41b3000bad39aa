"""Exercises on facts: capitals, chemical symbols and formulas, proverbial comparisons."""

from examples.exercises.exercise import FACT, OPEN, Draw, Exercise, Skip
from examples.exercises.lexicon import Lexicon
from examples.exercises.morphology import capital
from examples.exercises.tables import pairs

_CAPITAL = (
    "What is the capital of {w}? => The capital of {w} is {a}.",
    "What is the capital city of {w}? => The capital of {w} is {a}.",
    "Name the capital of {w}. => The capital of {w} is {a}.",
    "Which city is the capital of {w}? => The capital of {w} is {a}.",
    "Identify the capital of {w}. => The capital of {w} is {a}.",
    "Provide the capital of {w}. => The capital of {w} is {a}.",
    "Name the capital city of the following country. | {W} => The capital of {w} is {a}.",
    "State the capital of {w}. => The capital of {w} is {a}.",
    "Give the capital of {w}. => The capital of {w} is {a}.",
    "~Tell me the capital of {w}. => The capital of {w} is {a}.",
    "~Do you know the capital of {w}? => The capital of {w} is {a}.",
)
_COUNTRY = (
    "Which country has the capital {w}? => {w} is the capital of {a}.",
    "{w} is the capital of which country? => {w} is the capital of {a}.",
    "~Of which country is {w} the capital? => {w} is the capital of {a}.",
)
_STATE = (
    "What is the state capital of {w}? => The state capital of {w} is {a}.",
    "What is the capital of the state of {w}? => The state capital of {w} is {a}.",
    "Name the state capital of {w}. => The state capital of {w} is {a}.",
    "~Tell me the state capital of {w}. => The state capital of {w} is {a}.",
)


def capital_city(lexicon: Lexicon, draw: Draw) -> Exercise:
    which = draw.rng.random()
    if which < 0.2:
        states = pairs("state-capitals")
        state = draw.choice(tuple(states))
        return draw.fill("state capital", _STATE, FACT, w=state, a=states[state])
    table = pairs("capitals")
    country = draw.choice(tuple(table))
    city = table[country]
    if which < 0.3:
        if city in ("London", country) or country == "Georgia":
            raise Skip
        return draw.fill("country of a capital", _COUNTRY, FACT, w=city, a=country)
    exercise = draw.fill("capital", _CAPITAL, FACT, w=country, W=capital(country), a=city)
    if city.endswith("."):  # Washington, D.C.: its full stop is the sentence's
        shorter = exercise.output.removesuffix(".")
        return Exercise("capital", exercise.instruction, exercise.input, shorter, unique=True)
    return exercise


_SYMBOL = (
    "What is the chemical symbol for {w}? => The chemical symbol for {w} is {a}.",
    "What is the symbol for the chemical element {w}? "
    "=> The symbol for the chemical element {w} is {a}.",
    "What is the symbol for {w} on the periodic table? "
    "=> The symbol for {w} on the periodic table is {a}.",
    "What is the periodic symbol for {w}? => The periodic symbol for {w} is {a}.",
    "Provide the chemical symbol for {w}. => The chemical symbol for {w} is {a}.",
    "~Tell me the chemical symbol for {w}. => The chemical symbol for {w} is {a}.",
)
_NUMBER = (
    "What is the atomic number of {w}? => The atomic number of {w} is {a}.",
    "Provide the atomic number of {w}. => The atomic number of {w} is {a}.",
    "~Tell me the atomic number of {w}. => The atomic number of {w} is {a}.",
)
_ELEMENT = (
    "Which element has the chemical symbol {w}? => The element with the symbol {w} is {a}.",
    "What element has the symbol {w}? => The element with the symbol {w} is {a}.",
    "~Name the element whose symbol is {w}. => The element with the symbol {w} is {a}.",
)
_FORMULA = (
    "What is the chemical formula for {w}? => The chemical formula for {w} is {a}.",
    "What is the chemical formula of {w}? => The chemical formula of {w} is {a}.",
    "What is the molecular formula for {w}? => The molecular formula for {w} is {a}.",
    "Provide the chemical formula for {w}. => The chemical formula for {w} is {a}.",
    "~Tell me the chemical formula for {w}. => The chemical formula for {w} is {a}.",
)


def chemistry(lexicon: Lexicon, draw: Draw) -> Exercise:
    which = draw.rng.random()
    if which < 0.3:
        table = pairs("formulas")
        name = draw.choice(tuple(table))
        return draw.fill("chemical formula", _FORMULA, FACT, w=name, a=table[name])
    elements = pairs("elements")
    name = draw.choice(tuple(elements))
    symbol, number = elements[name].split()
    if which < 0.7:
        return draw.fill("chemical symbol", _SYMBOL, FACT, w=name, a=symbol)
    if which < 0.85:
        return draw.fill("atomic number", _NUMBER, FACT, w=name, a=number)
    return draw.fill("element", _ELEMENT, FACT, w=symbol, a=name)


_SIMILE = (
    "Rewrite the sentence using a simile. | {s} is very {w}. => {s} is as {w} as {a}.",
    "Rewrite the sentence to use a simile. | {s} is very {w}. => {s} is as {w} as {a}.",
    "Complete the simile. | {s} is as {w} as => {s} is as {w} as {a}.",
    "Create a simile with the word `as {w} as`. => {s} is as {w} as {a}.",
    "~Use a simile in this sentence. | {s} is very {w}. => {s} is as {w} as {a}.",
)
_WHO = {
    "person": ("He", "She", "The boy", "The girl", "My brother", "The teacher", "Her friend"),
    "animal": ("The dog", "The horse", "The cat", "The rabbit"),
    "thing": ("The stone", "The box", "The cloth", "The blanket", "The stick", "The bag"),
    "place": ("The room", "The house", "The garden", "The street", "The hall"),
    "food": ("The cake", "The tea", "The fruit", "The juice"),
}


def simile(lexicon: Lexicon, draw: Draw) -> Exercise:
    table = pairs("similes")
    word = draw.choice(tuple(table))
    answer, _, kinds = table[word].partition(" | ")
    subject = draw.choice(_WHO[draw.choice(kinds.split())])
    return draw.fill("simile", _SIMILE, OPEN, s=subject, w=word, a=answer)
