"""Exercises on small arithmetic, sequences and figures, as the book has them."""

from examples.exercises.exercise import FACT, Draw, Exercise, Skip
from examples.exercises.lexicon import Lexicon

_SQUARE = (
    "What is the square of {w}? => The square of {w} is {a}.",
    "Calculate the square of {w}. => The square of {w} is {a}.",
    "~Tell me the square of {w}. => The square of {w} is {a}.",
)
_CUBE = (
    "What is the cube of {w}? => The cube of {w} is {a}.",
    "~Tell me the cube of {w}. => The cube of {w} is {a}.",
)
_ROOT = (
    "What is the square root of {w}? => The square root of {w} is {a}.",
    "Calculate the square root of {w}. => The square root of {w} is {a}.",
    "~Tell me the square root of {w}. => The square root of {w} is {a}.",
)
_CUBE_ROOT = (
    "What is the cube root of {w}? => The cube root of {w} is {a}.",
    "~Tell me the cube root of {w}. => The cube root of {w} is {a}.",
)
_PRODUCT = (
    "Determine the product of {v} and {w}. => The product of {v} and {w} is {a}.",
    "What is the product of {v} and {w}? => The product of {v} and {w} is {a}.",
    "~Multiply {v} by {w}. => The product of {v} and {w} is {a}.",
)
_SUM = (
    "What is the sum of {v} and {w}? => The sum of {v} and {w} is {a}.",
    "Determine the sum of {v} and {w}. => The sum of {v} and {w} is {a}.",
    "~Add {v} and {w}. => The sum of {v} and {w} is {a}.",
)


def tables(lexicon: Lexicon, draw: Draw) -> Exercise:
    """Sums, products, powers and roots that one knows by heart."""
    n, m = draw.rng.randrange(1, 13), draw.rng.randrange(1, 13)
    big = draw.rng.randrange(1, 26)
    kind, phrasings, values = draw.choice(
        (
            ("sum", _SUM, {"v": n + m, "w": big, "a": n + m + big}),
            ("product", _PRODUCT, {"v": n, "w": m, "a": n * m}),
            ("product", _PRODUCT, {"v": n, "w": m, "a": n * m}),
            ("square", _SQUARE, {"w": big, "a": big * big}),
            ("square root", _ROOT, {"w": big * big, "a": big}),
            ("cube", _CUBE, {"w": n, "a": n**3}),
            ("cube root", _CUBE_ROOT, {"w": n**3, "a": n}),
        )
    )
    return draw.fill(kind, phrasings, FACT, **{k: str(v) for k, v in values.items()})


_EVEN = (
    "Classify the following numbers as even or odd. | {w} => Even numbers: {e}\nOdd numbers: {o}",
    "~Which of these numbers are even, and which are odd? | {w} "
    "=> Even numbers: {e}\nOdd numbers: {o}",
)
_PRIME = (
    "Classify the following numbers as prime or composite. | {w}. "
    "=> Prime numbers: {e}\nComposite numbers: {o}",
    "Classify the following numbers as prime or composite. | {w} "
    "=> Prime numbers: {e}\nComposite numbers: {o}",
    "~Which of these numbers are prime, and which are composite? | {w} "
    "=> Prime numbers: {e}\nComposite numbers: {o}",
)


def classes(lexicon: Lexicon, draw: Draw) -> Exercise:
    numbers = sorted(draw.rng.sample(range(2, 31), draw.choice((3, 3, 4))))
    even = draw.chance(0.6)

    def belongs(n: int) -> bool:
        return n % 2 == 0 if even else all(n % d for d in range(2, n))

    first = [str(n) for n in numbers if belongs(n)]
    second = [str(n) for n in numbers if not belongs(n)]
    text = ", ".join(map(str, numbers))
    if not first or not second:
        raise Skip
    draw.belongs(f"classes {text}")
    values = {"w": text, "e": ", ".join(first), "o": ", ".join(second)}
    if even:
        return draw.fill("even or odd", _EVEN, **values)
    return draw.fill("prime or composite", _PRIME, **values)


_NEXT = (
    "Find the next 3 terms in the following sequence: {w}. "
    "=> The next three terms in the sequence are: {a}.",
    "Find the next 3 terms in the following sequence: {w} "
    "=> The next three terms in the sequence are: {a}.",
    "~Continue this sequence with three terms. | {w} "
    "=> The next three terms in the sequence are: {a}.",
)
_MISSING = (
    "Find the missing number in the sequence | {w} => The missing number in the sequence is {a}.",
    "Find the missing number in the sequence. | {w} => The missing number in the sequence is {a}.",
    "~Which number is missing? | {w} => The missing number in the sequence is {a}.",
)
_MULTIPLES = (
    "What are the first {n} multiples of {w}? => {a}.",
    "List the first {n} multiples of {w}. => {a}.",
    "~Write down the first {n} multiples of {w}. => {a}.",
)


def sequence(lexicon: Lexicon, draw: Draw) -> Exercise:
    start, step = draw.rng.randrange(0, 31), draw.choice((1, 2, 2, 3, 3, 4, 5, 5, 10))
    which = draw.rng.random()
    if which < 0.2:
        count, of = draw.choice((3, 4, 5, 5)), draw.rng.randrange(2, 13)
        answer = ", ".join(str(of * i) for i in range(1, count + 1))
        return draw.fill("multiples", _MULTIPLES, FACT, n=str(count), w=str(of), a=answer)
    length = draw.choice((4, 5))
    terms = [str(start + step * i) for i in range(length + 3)]
    draw.belongs(f"sequence {start} {step}")
    if which < 0.6:
        values = {"w": ", ".join(terms[:length]), "a": ", ".join(terms[length:])}
        return draw.fill("next terms", _NEXT, **values)
    at = draw.rng.randrange(1, 4)
    shown = [*terms[:at], "?", *terms[at + 1 : 5]]
    return draw.fill("missing number", _MISSING, w=", ".join(shown), a=terms[at])


_PERIMETER = (
    "Calculate the perimeter of {s}. => The perimeter of the {f} is {a}.",
    "What is the perimeter of {s}? => The perimeter of the {f} is {a}.",
    "~Work out the perimeter of {s}. => The perimeter of the {f} is {a}.",
)
_AREA = (
    "Calculate the area of {s}. => The area of the {f} is {a}.",
    "Determine the area of {s}. => The area of the {f} is {a}.",
    "What is the area of {s}? => The area of the {f} is {a}.",
    "~Work out the area of {s}. => The area of the {f} is {a}.",
)


def figure(lexicon: Lexicon, draw: Draw) -> Exercise:
    unit = draw.choice(("cm", "meters", "meters", "inches", "units"))
    n, m = draw.rng.randrange(2, 13), draw.rng.randrange(2, 13)
    square = f"a square with {draw.choice(('a side length', 'side length'))} of {n} {unit}"
    oblong = f"a rectangle with a length of {n} {unit} and a width of {m} {unit}"
    triangle = f"an equilateral triangle with each side measuring {n} {unit}"
    perimeter = draw.chance(0.5)
    if perimeter:
        text, name, result = draw.choice(
            (
                (square, "square", 4 * n),
                (oblong, "rectangle", 2 * (n + m)),
                (triangle, "equilateral triangle", 3 * n),
                (f"a hexagon with side lengths of {n} {unit}", "hexagon", 6 * n),
            )
        )
        answer = f"{result} {unit}"
    else:
        half = f"a triangle with a base of {n} {unit} and a height of {2 * m} {unit}"
        text, name, result = draw.choice(
            (
                (square, "square", n * n),
                (oblong, "rectangle", n * m),
                (half, "triangle", n * m),
            )
        )
        answer = f"{result} square {unit}"
    draw.belongs(f"{perimeter} {text}".replace("a side", "side"))
    values = {"s": text, "f": name, "a": answer}
    if perimeter:
        return draw.fill("perimeter", _PERIMETER, **values)
    return draw.fill("area", _AREA, **values)


_ROMAN = (
    "Convert the following number from Roman numerals: {r}. "
    "=> The number {r} in Roman numerals is {a}.",
    "~Which number is {r} in Roman numerals? => The number {r} in Roman numerals is {a}.",
)
_TO_BINARY = (
    "Convert the number {n} from decimal to binary. "
    "=> The binary equivalent of the decimal number {n} is {a}.",
    "~Write the decimal number {n} in binary. "
    "=> The binary equivalent of the decimal number {n} is {a}.",
)
_FROM_BINARY = (
    "Convert the number {b} from binary to decimal. "
    "=> The decimal equivalent of the binary number {b} is {a}.",
    "~Write the binary number {b} in decimal. "
    "=> The decimal equivalent of the binary number {b} is {a}.",
)
_CLOCK = (
    "Convert the time `{w} hours` into standard 12-hour clock format. "
    "=> {w} hours is equivalent to {a}.",
    "~What time is {w} hours on a 12-hour clock? => {w} hours is equivalent to {a}.",
)


def numeral(lexicon: Lexicon, draw: Draw) -> Exercise:
    number = draw.rng.randrange(1, 33)
    which = draw.rng.random()
    if which < 0.35:
        tens, ones = divmod(number, 10)
        text = "X" * tens + ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"][ones]
        return draw.fill("Roman numerals", _ROMAN, FACT, r=text, a=str(number))
    if which < 0.55:
        return draw.fill("to binary", _TO_BINARY, FACT, n=str(number), a=f"{number:b}")
    if which < 0.75:
        return draw.fill("from binary", _FROM_BINARY, FACT, b=f"{number:b}", a=str(number))
    hour, minute = draw.rng.randrange(1, 24), draw.choice((0, 0, 15, 30, 45))
    twelve = f"{(hour - 1) % 12 + 1}:{minute:02} {'PM' if hour >= 12 else 'AM'}"
    return draw.fill("clock", _CLOCK, FACT, w=f"{hour:02}{minute:02}", a=twelve)


_COUNT = (
    "Given a sentence, count the number of words. | {s} => The sentence `{s}` contains {a} words.",
    "Count the number of words in the sentence. | {s} => The sentence `{s}` contains {a} words.",
    "~How many words does this sentence have? | {s} => The sentence `{s}` contains {a} words.",
)


def count_words(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = lexicon.clause(Draw(draw.rng, test=False))
    sentence = clause.sentence(draw.choice(("past simple", "future simple", "present perfect")))
    draw.belongs(sentence)
    return draw.fill("count words", _COUNT, s=sentence, a=str(len(sentence.split())))
