"""Altered copies of texts to train on: what a sender changes, and a reader sees through.

    spelling     letters of longer words swapped, dropped, doubled or replaced by a neighbouring key
    digits       other digits, numbers of other lengths and forms, other currencies
    links        other hosts, paths and schemes in place of each link
    casing       all lower, all upper, capitals at the start of words, or a word in capitals
    spacing      marks dropped or repeated, spaces doubled or lost
    obfuscation  letters as digits or signs (fr33, c@sh), or d.o.t.t.e.d

Each change is made to a text with a probability of its own, whatever the label, so that the change
itself says nothing of it. What becomes of a text depends on (seed, epoch, example) alone: a resumed
run sees the same copies.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model.errors import UsageError
from model.tokenizer import Tokenizer
from training.data.order import Order

DEFAULT_RATE = 0.2
"""Probability of a change that is named without one; with all six, a quarter stay as they are."""

_ALL = "all"
_SHARE = 0.1  # of the words or marks of a text that one change touches, and at least one

_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_SIGNS = {"a": "4@", "e": "3", "i": "1!", "o": "0", "s": "5$", "t": "7", "l": "1", "b": "8"}
_CURRENCIES = ("£", "$", "€", "₹", "Rs ", "RM", "USD ", "GBP ")
_HOSTS = ("bit.ly", "tinyurl.com", "goo.gl", "t.co", "is.gd", "wa.me")
_ENDINGS = ("com", "net", "org", "co.uk", "co", "info", "in", "sg", "xyz", "top", "biz")

_WORD = re.compile(r"[^\W\d_]{4,}")
_NUMBER = re.compile(r"\d+")
_CURRENCY = re.compile(r"[£$€₹](?=\s?\d)")
_LINK = re.compile(
    r"(?:https?://|www\.)\S+|\b[a-z0-9-]+\.(?:com|net|org|co|tv|biz|info)(?:\.\w\w)?(?:/\S*)?\b",
    re.IGNORECASE,
)
_MARK = re.compile(r"[^\w\s]+")


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made, and how often."""

    rates: tuple[tuple[str, float], ...]
    """Name and probability of each change, in the order in which they are made."""

    @classmethod
    def parse(cls, flags: Sequence[str]) -> "Augmentation":
        """Read `--augment`: names among `CHANGES`, or `all`, each with or without `=RATE`.

        Raises:
            UsageError: there is no such change, or a rate is no probability.
        """
        rates: dict[str, float] = {}
        for flag in flags:
            name, equals, value = flag.partition("=")
            if name != _ALL and name not in CHANGES:
                raise UsageError(
                    f"--augment has {name!r}; it must be among {', '.join(CHANGES)}, or {_ALL}"
                )
            try:
                rate = float(value) if equals else DEFAULT_RATE
            except ValueError:
                rate = -1.0
            if not 0 <= rate <= 1:
                raise UsageError(f"--augment has {flag!r}; its rate must be between 0 and 1")
            rates |= dict.fromkeys(CHANGES if name == _ALL else [name], rate)
        return cls(tuple((name, rates[name]) for name in CHANGES if rates.get(name)))


def augmented(text: str, augmentation: Augmentation, key: tuple[int, int, int]) -> str:
    """The copy of `text` that a step sees.

    Args:
        key: (seed, epoch, example); it alone decides.
    """
    # A string seeds by its SHA-512: the same in every process, unlike a tuple's hash.
    rng = random.Random("{}/{}/{}".format(*key))
    changed = text
    for name, rate in augmentation.rates:
        if rng.random() < rate:
            changed = CHANGES[name](changed, rng)
    return changed if changed.strip() else text  # all marks, and all of them dropped


class Copies:
    """The texts of a training part as its epochs see them.

    The copy of text i that epoch e sees has the index e × n + i, so that an order of such indices
    is all that a run needs to see the same copies again.
    """

    def __init__(
        self,
        texts: Sequence[str],
        augmentation: Augmentation,
        seed: int,
        tokenizer: Tokenizer,
        context: int,
    ) -> None:
        self._texts, self._augmentation, self._seed = texts, augmentation, seed
        self._tokenizer, self._context = tokenizer, context

    def tokens(self, index: int) -> tuple[int, ...]:
        """Of the copy with this index, cut at the end to the length of the context."""
        epoch, example = divmod(index, len(self._texts))
        key = (self._seed, epoch, example)
        text = augmented(self._texts[example], self._augmentation, key)
        return tuple(self._tokenizer.encode_prompt(text)[: self._context])

    def order(self, texts: Order) -> Order:
        """The order of copies that goes through the texts as `texts` does."""
        return _CopyOrder(texts, len(self._texts))


class _CopyOrder:
    def __init__(self, texts: Order, count: int) -> None:
        self._texts, self._count = texts, count

    def __getitem__(self, position: int) -> int:
        return position // self._count * self._count + self._texts[position]


def _spelling(text: str, rng: random.Random) -> str:
    return _some(text, _WORD, rng, _misspelt)


def _misspelt(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)  # the first letter is seldom wrong
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[: at + 1] + word[at:]
    return word[:at] + _neighbour(word[at], rng) + word[at + 1 :]


def _neighbour(letter: str, rng: random.Random) -> str:
    """A letter beside this one on the keyboard; the same letter where there is none."""
    for row in _KEYS:
        at = row.find(letter.lower())
        if at >= 0:
            found = rng.choice([row[i] for i in (at - 1, at + 1) if 0 <= i < len(row)])
            return found.upper() if letter.isupper() else found
    return letter


def _digits(text: str, rng: random.Random) -> str:
    text = _CURRENCY.sub(lambda found: rng.choice((found[0], rng.choice(_CURRENCIES))), text)
    return _NUMBER.sub(lambda found: _number(found[0], rng), text)


def _number(digits: str, rng: random.Random) -> str:
    """Other digits; long numbers, such as those one calls, also in another length and form."""
    if len(digits) < 5:
        return "".join(rng.choice("0123456789") if rng.random() < 0.8 else d for d in digits)
    length = len(digits) if rng.random() < 0.5 else rng.choice((5, 6, 8, 10, 11, 12))
    new = "".join(rng.choice("0123456789") for _ in range(length))
    form = rng.random()
    if length < 8 or form < 0.6:
        return new
    if form < 0.8:
        return f"+{rng.choice((1, 44, 61, 65, 91))} {new[:-6]} {new[-6:]}"
    return f"{new[:-7]}-{new[-7:-4]}-{new[-4:]}"


def _links(text: str, rng: random.Random) -> str:
    def link(found: "re.Match[str]") -> str:
        scheme = rng.choice(("", "", "http://", "https://", "www."))
        if rng.random() < 0.4:
            return f"{scheme.removesuffix('www.')}{rng.choice(_HOSTS)}/{_name(rng, 7)}"
        host = "-".join(_name(rng, rng.randint(3, 8)).lower() for _ in range(rng.randint(1, 2)))
        path = rng.choice(("", "", f"/{_name(rng, 4)}", f"/{_name(rng, 3)}/{_name(rng, 3)}"))
        return f"{scheme}{host}.{rng.choice(_ENDINGS)}{path}"

    return _LINK.sub(link, text)


def _name(rng: random.Random, length: int) -> str:
    return "".join(
        rng.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ23456789", k=length)
    )


def _casing(text: str, rng: random.Random) -> str:
    kind = rng.randrange(5)
    if kind < 2:
        return text.lower()
    if kind == 2:
        return text.upper()
    if kind == 3:
        return _WORD.sub(lambda found: found[0].capitalize(), text)
    return _some(text, _WORD, rng, lambda word, _: word.upper())


def _spacing(text: str, rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        return _MARK.sub(lambda found: "" if rng.random() < 0.5 else found[0], text)
    if kind == 1:
        return _some(text, _MARK, rng, lambda mark, _: mark * rng.randint(2, 4))
    if kind == 2:
        return re.sub(r"(?<=[.,!?]) ", lambda _: "" if rng.random() < 0.5 else " ", text)
    return re.sub(r" ", lambda _: "  " if rng.random() < _SHARE else " ", text)


def _obfuscation(text: str, rng: random.Random) -> str:
    def hide(word: str, rng: random.Random) -> str:
        if rng.random() < 0.2:
            return rng.choice(".- *").join(word)
        return "".join(
            rng.choice(_SIGNS[c.lower()]) if c.lower() in _SIGNS and rng.random() < 0.6 else c
            for c in word
        )

    return _some(text, _WORD, rng, hide)


def _some(
    text: str,
    pattern: "re.Pattern[str]",
    rng: random.Random,
    change: Callable[[str, random.Random], str],
) -> str:
    """`text` with `change` made to about a tenth of what matches, and to one match at least."""
    matches = list(pattern.finditer(text))
    if not matches:
        return text
    count = max(1, round(_SHARE * len(matches)))
    pieces, end = [], 0
    for index in sorted(rng.sample(range(len(matches)), count)):
        found = matches[index]
        pieces += [text[end : found.start()], change(found[0], rng)]
        end = found.end()
    return "".join([*pieces, text[end:]])


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "links": _links,
    "digits": _digits,
    "spelling": _spelling,
    "obfuscation": _obfuscation,
    "casing": _casing,
    "spacing": _spacing,
}
