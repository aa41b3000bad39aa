"""Tables of facts and words, in files beside this one: what is in no lexical database, or better
chosen by hand. Capitals, symbols, forms and spellings are facts; the rest was written for this."""

from functools import cache
from importlib.resources import files


@cache
def lines(name: str) -> tuple[str, ...]:
    """The lines of a table without its comments."""
    text = files(__package__).joinpath(f"{name}.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


@cache
def pairs(name: str) -> dict[str, str]:
    """What a line has before its colon, to what it has after it."""
    split = (line.partition(": ") for line in lines(name))
    return {key: value for key, _, value in split}


@cache
def lists(name: str) -> dict[str, tuple[str, ...]]:
    """As `pairs`, with the words that commas separate."""
    return {key: tuple(value.split(", ")) for key, value in pairs(name).items()}
