"""What is filled into a template: names and firms of a country, amounts, codes, dates, links.

The words are in `slots.txt`; numbers are drawn here. A link of an honest notice is on the domain of
the firm that the text names, a fraud's imitates it; both are shortened at times.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from model.errors import DataError

_FILE = Path(__file__).parent / "slots.txt"


@dataclass(frozen=True)
class Country:
    """How money and telephone numbers are written."""

    money: tuple[str, ...]
    """What stands before an amount."""
    dollar: float
    """What one dollar is, roughly, so that amounts are likely ones."""
    phones: tuple[str, ...]
    """Patterns in which 0 is any digit."""
    weight: float = 1.0
    """How often it is drawn where a template may be from anywhere."""


COUNTRIES: Mapping[str, Country] = {
    "us": Country(("$", "$", "USD "), 1, ("(200) 555-0000", "888-200-0000", "+1 200 555 0000"), 3),
    "uk": Country(("£", "£", "GBP "), 1, ("07000 000000", "0800 000 0000", "+447000000000"), 3),
    "ie": Country(("€", "€", "EUR "), 1, ("080 000 0000", "01 000 0000"), 0.7),
    "in": Country(
        ("Rs.", "Rs ", "INR ", "₹"), 40, ("9000000000", "+91 90000 00000", "1800000000"), 3
    ),
    "ng": Country(
        ("N", "NGN", "₦", "NGN "), 400, ("08000000000", "+2348000000000", "0700000000"), 3
    ),
    "gh": Country(("GHS ", "GHc"), 8, ("0240000000", "+233240000000"), 0.7),
    "ke": Country(("Ksh ", "KES ", "Ksh"), 80, ("0700000000", "+254700000000"), 1),
    "za": Country(("R", "R", "ZAR "), 12, ("080 000 0000", "0860 000 000", "+2782 000 0000"), 1.5),
    "ph": Country(("P", "PHP ", "Php", "₱"), 40, ("09170000000", "+63 917 000 0000"), 1.2),
    "sg": Country(("$", "S$", "SGD "), 1.3, ("6000 0000", "90000000", "+65 8000 0000"), 1.5),
    "my": Country(("RM", "RM"), 4, ("010-000 0000", "03-0000 0000", "+60100000000"), 1),
    "au": Country(
        ("$", "$", "AUD "), 1.4, ("0400 000 000", "1300 000 000", "+61 400 000 000"), 1.2
    ),
    "nz": Country(("$", "NZ$"), 1.5, ("021 000 0000", "0800 000 000"), 0.5),
}

_FIRMS = (
    "bank",
    "courier",
    "telco",
    "shop",
    "app",
    "company",
    "place",
    "hotel",
    "clinic",
    "school",
)
_LINKS = ("link", "promo", "bad")
_SLOT = re.compile(r"\{(\w+)\}")
_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_LETTERS = "abcdefghjkmnpqrstuvwxyz"


@cache
def words() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """The words of each slot by country; under `""` those of all others.

    Raises:
        DataError: a line is no slot, or names an unknown country.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for number, line in enumerate(_FILE.read_text("utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        head, colon, values = line.partition(": ")
        name, _, countries = head.partition("@")
        for country in countries.split(","):
            if not colon or (country and country not in COUNTRIES):
                raise DataError(f"{_FILE}:{number}: {line!r} is not `slot@country: value | value`")
            each = tuple(value.strip() for value in values.split("|"))
            found.setdefault(name, {})[country] = each
    return found


class Filler:
    """Fills templates, as said in one country, from one source of random numbers."""

    def __init__(self, rng: random.Random, country: str) -> None:
        self.rng, self.country = rng, country
        self._money = COUNTRIES[country]
        self._firm = ""
        digits = self._digits
        self._drawn: dict[str, Callable[[], str]] = {
            "n": lambda: str(rng.randint(2, 9)),
            "digits": lambda: digits(rng.randint(6, 11)),
            "digits3": lambda: digits(3),
            "code": lambda: digits(rng.choice((4, 5, 6, 6, 6, 6, 8))),
            "code3": lambda: digits(3),
            "code4": lambda: digits(4),
            "last4": lambda: digits(4),
            "short": lambda: digits(rng.choice((3, 5, 5, 6))),
            "small": lambda: self._amount(2, 60),
            "amount": lambda: self._amount(60, 2500),
            "big": lambda: self._amount(5_000, 900_000, whole=True),
            "plain": lambda: self._number(60, 2500, rng.random() < 0.4),
            "phone": lambda: re.sub("0", lambda _: digits(1), rng.choice(self._money.phones)),
            "ref": lambda: "".join(rng.choices(_LETTERS.upper(), k=2)) + digits(rng.randint(4, 9)),
            "word": lambda: self._word(rng.randint(5, 9)),
            "flight": lambda: "".join(rng.choices(_LETTERS.upper(), k=2)) + digits(3),
            "time": self._time,
            "date": self._date,
            "day2": lambda: self._value("day"),
            "name2": lambda: self._value("name"),
            "full": lambda: f"{self._value('name')} {self._value('last')}",
            "link": self._link,
            "promo": self._link,
            "bad": self._imitation,
        }

    def fill(self, text: str) -> str:
        """The template with one of each alternatives, and its slots filled.

        Raises:
            DataError: there is no such slot.
        """
        while "[" in text:
            chosen = _ALTERNATIVES.sub(lambda m: self.rng.choice(m[1].split("|")), text)
            if chosen == text:
                raise DataError(f"{text!r}: a bracket is not closed")
            text = chosen
        self._firm = ""
        # Links are last: they are on the domain of a firm that the text names.
        text = _SLOT.sub(lambda m: m[0] if m[1] in _LINKS else self._slot(m[1]), text)
        self._firm = self._firm or _first_name(text)
        return _SLOT.sub(lambda m: self._slot(m[1]), text)

    def _slot(self, name: str) -> str:
        value = self._drawn[name]() if name in self._drawn else self._value(name)
        if name in _FIRMS and not self._firm:
            self._firm = value
        return value

    def _value(self, name: str) -> str:
        if name not in words():
            raise DataError(f"there is no slot {name!r}")
        by_country = words()[name]
        value = self.rng.choice(by_country.get(self.country) or by_country[""])
        return _SLOT.sub(lambda m: self._slot(m[1]), value)

    def _digits(self, count: int) -> str:
        return "".join(str(self.rng.randrange(10)) for _ in range(count))

    def _word(self, count: int) -> str:
        return "".join(self.rng.choices(_LETTERS + _LETTERS.upper() + "23456789", k=count))

    def _amount(self, low: int, high: int, *, whole: bool = False) -> str:
        return self.rng.choice(self._money.money) + self._number(low, high, whole)

    def _number(self, low: int, high: int, whole: bool) -> str:
        """A likely amount from `low` to `high` dollars in the country's money."""
        value = low * (high / low) ** self.rng.random() * self._money.dollar
        if whole or self.rng.random() < 0.4:
            step = 10 ** max(0, len(str(int(value))) - 2)
            value = max(step, round(value / step) * step)
            text = f"{value:,.0f}"
        else:
            text = f"{value:,.2f}"
        return text if self.rng.random() < 0.7 else text.replace(",", "")

    def _time(self) -> str:
        hour, minute = self.rng.randint(7, 20), self.rng.choice((0, 0, 15, 30, 45))
        half = "am" if hour < 12 else "pm"
        short = f"{(hour - 1) % 12 + 1}"
        full = f"{short}:{minute:02}" if minute else short
        return self.rng.choice(
            (
                f"{hour:02}:{minute:02}",
                f"{full}{half}",
                f"{full} {half.upper()}",
                f"{short}.{minute:02}{half}",
            )
        )

    def _date(self) -> str:
        day, month, year = (
            self.rng.randint(1, 28),
            self.rng.randint(1, 12),
            self.rng.randint(2015, 2026),
        )
        name = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[
            month - 1
        ]
        forms = [
            f"{day} {name}",
            f"{day}-{name}-{year % 100}",
            f"{day:02}/{month:02}/{year}",
            f"{name} {day}",
        ]
        forms += [f"{day:02}-{month:02}-{year}", f"{day} {name} {year}", f"{day}/{month}"]
        if self.country == "us":
            forms = [
                f"{month}/{day}",
                f"{month:02}/{day:02}/{year}",
                f"{name} {day}",
                f"{name} {day}, {year}",
            ]
        return self.rng.choice(forms)

    def _short_link(self) -> str:
        return f"{self._value('shortener')}/{self._word(self.rng.randint(5, 7))}"

    def _link(self) -> str:
        """A firm's own, or shortened."""
        if self.rng.random() < 0.3:
            return self._scheme(self._short_link())
        end = {"uk": "co.uk", "in": "in", "ng": "ng", "za": "co.za", "ph": "ph", "sg": "sg"}
        own = end.get(self.country, "com") if self.rng.random() < 0.4 else "com"
        host = f"{_slug(self._firm)}.{own}"
        path = f"/{self._value('path')}" * (self.rng.random() < 0.75)
        return self._scheme(
            host + path + f"/{self._word(6)}" * bool(path and self.rng.random() < 0.5)
        )

    def _imitation(self) -> str:
        """What looks like a firm's, or is shortened."""
        kind, mark = self.rng.random(), self._value("mark")
        slug, end = _slug(self._firm), self._value("end")
        if kind < 0.35:
            return self._scheme(self._short_link())
        host = self.rng.choice(
            (
                f"{slug}-{mark}.{end}",
                f"{mark}-{slug}.{end}",
                f"{slug}.{mark}-{self._value('mark')}.{end}",
            )
        )
        if kind > 0.8:
            host = f"{self._word(self.rng.randint(5, 9)).lower()}.{end}"
        return self._scheme(host + f"/{self._word(4)}" * (self.rng.random() < 0.4))

    def _scheme(self, link: str) -> str:
        return self.rng.choice(("", "", "https://", "http://")) + link


def _slug(firm: str) -> str:
    return re.sub(r"[^a-z0-9]", "", firm.lower()) or "service"


_NO_NAMES = frozenset(
    {
        *("all", "and", "are", "because", "claim", "congrats", "congratulations", "dear", "earn"),
        *("for", "free", "get", "good", "have", "hello", "here", "last", "need", "notice", "our"),
        *("pay", "someone", "text", "the", "this", "turn", "win", "with", "you", "your"),
    }
)


def _first_name(text: str) -> str:
    """Of a firm, in a text that names none from a slot."""
    found = re.findall(r"\b[A-Z][A-Za-z]{2,}", _SLOT.sub("", text))
    return next((word for word in found if word.lower() not in _NO_NAMES), "info")
