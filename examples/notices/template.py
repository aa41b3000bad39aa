"""Templates of messages: lines of the files in `templates/ham` and `templates/spam`.

    @uk,ie {bank}: your card ending {last4} [is|has been] blocked. [Call {phone}.|]

Countries in which it is said that way come first, if they are not all; `{slot}` is filled as
`examples.notices.slots` says, of `[a|b|]` one is taken, and `\\n` is a new line. A line that begins
with `#` says what the file is about.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from examples.notices.slots import COUNTRIES
from model.errors import DataError
from training.data.documents import hash_fraction

DIRECTORY = Path(__file__).parent / "templates"
LABELS = ("ham", "spam")
PARTS = ("train", "val", "test")

_TEST, _VAL = 0.2, 0.3
"""Below the first fraction of the hash a template is for the test, below the second to validate."""


@dataclass(frozen=True)
class Template:
    """One wording of a message."""

    label: str
    topic: str
    """The file that it is from."""
    text: str
    """With slots and alternatives."""
    countries: tuple[str, ...] = tuple(COUNTRIES)
    """Where it is said that way."""

    @cached_property
    def part(self) -> str:
        """`train`, `val` or `test`: follows from the wording alone, so that another template moves
        none."""
        fraction = hash_fraction(self.text)
        return "test" if fraction < _TEST else "val" if fraction < _VAL else "train"


def read_templates(directory: Path = DIRECTORY) -> list[Template]:
    """All templates below `directory`, by label, file and line.

    Raises:
        DataError: a line names an unknown country, or none are there.
    """
    found = [
        template
        for label in LABELS
        for path in sorted((directory / label).glob("*.txt"))
        for template in _of_file(path, label)
    ]
    if not found:
        raise DataError(f"{directory}: has no templates in {' and '.join(LABELS)}")
    return found


def _of_file(path: Path, label: str) -> Iterator[Template]:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        text, countries = line.strip(), tuple(COUNTRIES)
        if not text or text.startswith("#"):
            continue
        if text.startswith("@"):
            named, _, text = text[1:].partition(" ")
            countries = tuple(named.split(","))
            unknown = sorted(set(countries) - COUNTRIES.keys())
            if unknown:
                raise DataError(
                    f"{path}:{number}: the country is {unknown[0]!r}; it must be one of "
                    f"{', '.join(COUNTRIES)}"
                )
        yield Template(label, path.stem, text.replace("\\n", "\n"), countries)
