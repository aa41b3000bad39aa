"""Exercises on order and numbers: sorting, conversion of units, small arithmetic."""

from examples.exercises.exercise import FACT, Draw, Exercise, Skip, known
from examples.exercises.lexicon import Lexicon
from examples.exercises.morphology import capital

_ALPHABETICAL = (
    "Sort the following list in alphabetical order. | {C} => {A}",
    "Arrange the following words in alphabetical order. | {C} => {A}",
    "Sort the following words alphabetically. | {C} => {A}",
    "Arrange the given words in alphabetical order. | {C} => {A}",
    "Put the following words in alphabetical order: {w}. => {a}.",
    "Sort the words in alphabetical order: {w}. => {a}.",
    "Rearrange the following list into alphabetical order. | {C} => {A}",
    "~Order these words from A to Z. | {C} => {A}",
    "~List these words alphabetically. | {C} => {A}",
)
_ASCENDING = (
    "Arrange the given numbers in ascending order. | {w} => {a}.",
    "Sort the following list in ascending order. | {w} => {a}.",
    "Put the following numbers in ascending order. | {w} => {a}.",
    "Arrange the numbers from smallest to largest. | {w} => {a}.",
    "Sort the following numbers in ascending order. | {w}. "
    "=> The numbers in ascending order would be: {a}.",
    "Sort the following numbers in ascending order. | {w} "
    "=> The numbers in ascending order would be: {a}.",
    "Rearrange the following list into ascending order. | {w} => {a}",
    "~Order these numbers from low to high. | {w} => {a}.",
)
_DESCENDING = (
    "Arrange the given numbers in descending order. | {w} => {a}.",
    "Sort the following list in descending order. | {w} => {a}.",
    "Put the following numbers in descending order. | {w} => {a}.",
    "Arrange the numbers from largest to smallest. | {w} => {a}.",
    "Sort the following numbers in descending order. | {w} "
    "=> The numbers in descending order would be: {a}.",
    "Rearrange the following list into descending order. | {w} => {a}",
    "~Order these numbers from high to low. | {w} => {a}.",
)
_REVERSED = (
    "Reverse this array | [{w}] => Here is the reversed array: [{a}]",
    "Reverse the order of the following list. | {w} => {a}",
    "~Write this list backwards. | {w} => {a}",
)


def alphabetical(lexicon: Lexicon, draw: Draw) -> Exercise:
    """Words of the test's list are all held out, and so is the order that they need."""
    pool = lexicon.sortable
    count = draw.choice((3, 3, 3, 4, 4, 5))
    words = {draw.word(pool) for _ in range(count)}
    if len(words) < 3:
        raise Skip
    some = sorted(words)
    draw.rng.shuffle(some)
    listed = ", ".join(map(capital, some))
    answer = ", ".join(map(capital, sorted(some)))
    lower = ", ".join(sorted(some))
    filled = draw.fill(
        "alphabetical order", _ALPHABETICAL, w=", ".join(some), C=listed, a=capital(lower)
    )
    if filled.input:  # its words have capitals, and so have those of the answer
        return Exercise(filled.kind, filled.instruction, filled.input, answer, unique=True)
    return filled


def order(lexicon: Lexicon, draw: Draw) -> Exercise:
    count = draw.choice((3, 4, 4, 5, 5, 5))
    top = draw.choice((10, 20, 20, 50, 100, 100, 1000))
    numbers = draw.rng.sample(range(1 if draw.chance(0.9) else -top, top), count)
    text = ", ".join(map(str, numbers))
    which = draw.rng.random()
    draw.belongs(f"order {text}")
    if which < 0.15:
        answer = ", ".join(map(str, reversed(numbers)))
        return draw.fill("reversed", _REVERSED, w=text, a=answer)
    down = which < 0.57
    answer = ", ".join(map(str, sorted(numbers, reverse=down)))
    kind = "descending order" if down else "ascending order"
    return draw.fill(kind, _DESCENDING if down else _ASCENDING, w=text, a=answer)


_METRIC = (
    ("kilometers", "meters", 1000, "distance"),
    ("meters", "centimeters", 100, "length"),
    ("meters", "millimeters", 1000, "length"),
    ("centimeters", "millimeters", 10, "length"),
    ("kilograms", "grams", 1000, "mass"),
    ("grams", "milligrams", 1000, "mass"),
    ("liters", "milliliters", 1000, "volume"),
    ("hours", "minutes", 60, "time"),
    ("minutes", "seconds", 60, "time"),
    ("days", "hours", 24, "time"),
    ("weeks", "days", 7, "time"),
    ("years", "months", 12, "time"),
    ("feet", "inches", 12, "length"),
    ("yards", "feet", 3, "length"),
    ("pounds", "ounces", 16, "mass"),
    ("tons", "kilograms", 1000, "mass"),
)
_APPROXIMATE = (
    ("miles", "kilometers", 1.609344),
    ("kilometers", "miles", 0.621371),
    ("pounds", "kilograms", 0.453592),
    ("kilograms", "pounds", 2.204623),
    ("inches", "centimeters", 2.54),
    ("feet", "meters", 0.3048),
    ("meters", "feet", 3.28084),
    ("miles per hour", "kilometers per hour", 1.609344),
    ("grams", "ounces", 0.035274),
    ("gallons", "liters", 3.785412),
)
_CONVERT = (
    "Convert {w} to {t}. => {w} is {a}.",
    "Convert {w} into {t}. => {w} is {a}.",
    "Convert the {k} from {f} to {t}. | {w} => {w} is equivalent to {a}.",
    "Convert the following to {t}. | {w} => {w} is {a}.",
    "What is {w} in {t}? => {w} is {a}.",
    "~Change {w} to {t}. => {w} is {a}.",
    "~Express {w} in {t}. => {w} is {a}.",
)
_ABOUT = (
    "Convert {w} to {t}. => {w} is approximately {a}.",
    "Convert {w} into {t}. => {w} is approximately {a}.",
    "What is {w} in {t}? => {w} is approximately {a}.",
    "~Change {w} to {t}. => {w} is approximately {a}.",
    "~Express {w} in {t}. => {w} is approximately {a}.",
)
_TEMPERATURE = (
    "Convert the temperature from {f} to {t}. | {w} => {w} is {a}.",
    "Convert {w} to {t}. => {w} is {a}.",
    "What is {w} in {t}? => {w} is {a}.",
    "~Change {w} to {t}. => {w} is {a}.",
)
_HOW_MANY = (
    "How many {t} are in {w}? => There are {a} in {w}.",
    "How many {t} are there in {w}? => There are {a} in {w}.",
    "~Tell me how many {t} {w} has. => There are {a} in {w}.",
)


def _amount(number: float, unit: str) -> str:
    text = f"{round(number, 4):.4f}".rstrip("0").rstrip(".")
    if text != "1":
        return f"{text} {unit}"
    one = {"feet": "foot", "inches": "inch", "miles per hour": "mile per hour"}
    return f"1 {one.get(unit, unit.removesuffix('s'))}"


def units(lexicon: Lexicon, draw: Draw) -> Exercise:
    large, small, factor, quantity = draw.choice(_METRIC[:7] if draw.chance(0.6) else _METRIC)
    number = draw.choice(
        (draw.rng.randrange(1, 13), draw.rng.randrange(1, 100), draw.rng.randrange(1, 100) * 10)
    )
    easy = factor in (10, 100, 1000)
    if not easy:
        number = draw.rng.randrange(1, 21)
    up = draw.chance(0.4)
    if up:  # to the larger unit: whole numbers, or decimal fractions of metric ones
        choices = [number * factor]
        if easy and factor > 10:
            choices += [draw.rng.randrange(1, 10) * factor // 10, draw.rng.randrange(1, 100) * 10]
        number = draw.choice(choices)
        source, target = _amount(number, small), _amount(number / factor, large)
        names = {"f": small, "t": large}
    else:
        source, target = _amount(number, large), _amount(number * factor, small)
        names = {"f": large, "t": small}
    if easy:
        draw.belongs(f"{source} {names['t']}")
    if draw.chance(0.12) and not up:
        return draw.fill("how many units", _HOW_MANY, known(not easy), w=source, a=target, **names)
    return draw.fill("units", _CONVERT, known(not easy), w=source, a=target, k=quantity, **names)


def measures(lexicon: Lexicon, draw: Draw) -> Exercise:
    """Conversions that take a multiplication with many digits: facts for round numbers."""
    numbers = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 45, 50, 60, 70, 80, 90, 100)
    if draw.chance(0.4):
        degrees = draw.choice(range(-10, 101, 5))
        source, target, result = draw.choice(
            (
                ("Celsius", "Fahrenheit", degrees * 9 / 5 + 32),
                ("Celsius", "Kelvin", degrees + 273.15),
            )
        )
        unit = "Kelvin" if target == "Kelvin" else "degrees Fahrenheit"
        values = {"w": f"{degrees} degrees {source}", "f": source, "t": target}
        answer = f"{round(result, 2):g} {unit}"
        return draw.fill("temperature", _TEMPERATURE, FACT, a=answer, **values)
    source, target, factor = draw.choice(_APPROXIMATE)
    number = draw.choice(numbers)
    if source == "grams":
        number *= 10
    digits = 3 if factor == 0.3048 else 2
    answer = _amount(round(number * factor, digits), target)
    return draw.fill("measures", _ABOUT, FACT, w=_amount(number, source), t=target, a=answer)
