"""What a sweep searches: flags of a training command, each with a range or with choices.

lr=1e-4..1e-2:log     a range, here on a logarithmic scale
warmup=10..50         whole numbers, where the flag takes such
lora-rank=4,8,16      one of these
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from model.errors import UsageError

_RESERVED = ("data", "dry-run", "help", "out", "resume", "run", "token-cache")
"""Flags that every trial shares, or that a sweep sets itself."""


class Suggests(Protocol):
    """What draws values; `optuna.Trial` does."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if both are `int`."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Suggests, name: str) -> float:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def suggest(self, trial: Suggests, name: str) -> str:
        return str(trial.suggest_categorical(name, self.words))


Space = Mapping[str, Range | Choice]
"""By the flags' names, without dashes in front."""


class FlagParser(argparse.ArgumentParser):
    """A parser whose errors are exceptions.

    Raises:
        UsageError: in place of exiting.
    """

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"after --: {message}")


def parse_space(searches: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The space that `--search` describes, over the flags of `parser`.

    Raises:
        UsageError: a flag is unknown or cannot be searched, or its values are wrong; names it.
    """
    space: dict[str, Range | Choice] = {}
    for search in searches:
        name, equals, values = search.partition("=")
        name = name.removeprefix("--")
        if not equals or not values:
            raise UsageError(
                f"--search {search!r}: it must be FLAG=LOW..HIGH, FLAG=LOW..HIGH:log or FLAG=A,B,C"
            )
        if name in space:
            raise UsageError(f"--search {name}: it is there twice")
        space[name] = _values(search, values, _flag(name, parser))
    return space


def _flag(name: str, parser: argparse.ArgumentParser) -> argparse.Action:
    flags = {
        option.removeprefix("--"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    if name in _RESERVED:
        raise UsageError(f"--search {name}: --{name} is not for a sweep to choose")
    if name not in flags:
        known = ", ".join(sorted(set(flags) - set(_RESERVED)))
        raise UsageError(f"--search {name}: {parser.prog} has no --{name}; it has {known}")
    if flags[name].nargs == 0:
        raise UsageError(f"--search {name}: --{name} takes no value")
    return flags[name]


def _values(search: str, values: str, flag: argparse.Action) -> Range | Choice:
    if ".." in values:
        return _range(search, values, flag)
    words = tuple(values.split(","))
    if len(set(words)) < max(2, len(words)):
        raise UsageError(f"--search {search!r}: it must name at least two values, each once")
    for word in words:
        _number(search, word, flag)
    return Choice(words)


def _range(search: str, values: str, flag: argparse.Action) -> Range:
    if flag.type not in (int, float):
        raise UsageError(f"--search {search!r}: {flag.option_strings[0]} takes no number")
    bounds, colon, scale = values.partition(":")
    if colon and scale != "log":
        raise UsageError(f"--search {search!r}: ':{scale}' is unknown; only ':log' is there")
    ends = bounds.split("..")
    if len(ends) != 2:
        raise UsageError(f"--search {search!r}: a range is LOW..HIGH")
    low, high = (_number(search, end, flag) for end in ends)
    if not low < high:
        raise UsageError(f"--search {search!r}: {ends[0]} must be below {ends[1]}")
    if scale and low <= 0:
        raise UsageError(f"--search {search!r}: with :log the range must begin above 0")
    return Range(low, high, bool(scale))


def _number(search: str, word: str, flag: argparse.Action) -> Any:
    """`word` as the flag takes it."""
    convert: Callable[[str], Any] = flag.type if callable(flag.type) else str
    try:
        value = convert(word)
    except (ValueError, argparse.ArgumentTypeError) as error:
        kind = getattr(convert, "__name__", "value")
        raise UsageError(
            f"--search {search!r}: {word!r} is no {kind}, which {flag.option_strings[0]} takes"
        ) from error
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"--search {search!r}: {word!r} must be a finite number")
    return value


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """Values as flags of a command line; four digits of a fraction say enough."""
    words: list[str] = []
    for name, value in values.items():
        words += [f"--{name}", f"{value:.4g}" if isinstance(value, float) else str(value)]
    return words


def check_command(
    parser: argparse.ArgumentParser, words: Iterable[str], space: Space
) -> argparse.Namespace:
    """The command that a sweep runs, parsed with some values of the space.

    Raises:
        UsageError: the command line is wrong, or gives a flag that is searched.
    """
    words = list(words)
    for name in space:
        if any(word == f"--{name}" or word.startswith(f"--{name}=") for word in words):
            raise UsageError(f"--search {name}: --{name} is also given after --; leave one out")
    for name in ("resume", "dry-run", "run"):
        if any(word == f"--{name}" or word.startswith(f"--{name}=") for word in words):
            raise UsageError(f"after --: --{name} is not for a sweep")
    some = {
        name: values.words[0] if isinstance(values, Choice) else values.low
        for name, values in space.items()
    }
    return parser.parse_args([*words, *flags_of(some)])
