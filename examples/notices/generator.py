"""Messages from templates, as many as are wanted.

Each template gives as many messages as every other of its label, both labels give half of the rows,
and some messages are written as hurried people write: without capitals, or abbreviated.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from examples.notices.slots import COUNTRIES, Filler
from examples.notices.template import LABELS, PARTS, Template
from model.errors import DataError
from training.data.splits import near_hash

_DRAWS = 60
"""How many draws of a template may give nothing new before it counts as used up."""

_SHORTHAND = {
    "you": "u",
    "your": "ur",
    "are": "r",
    "please": "pls",
    "for": "4",
    "to": "2",
    "and": "&",
    "message": "msg",
    "account": "acct",
    "tomorrow": "tmrw",
    "before": "b4",
    "thanks": "thx",
    "with": "w",
}
_WORD = re.compile(r"(?<![\w./@-])[A-Za-z]+(?![\w/@-]|\.\w)")
_LINK = re.compile(r"\S+\.\w\S*/\S+|https?://\S+")


@dataclass(frozen=True)
class Message:
    """One row."""

    label: str
    text: str
    topic: str


def generate(
    templates: Sequence[Template], counts: dict[str, int], seed: int
) -> dict[str, list[Message]]:
    """For each part as many messages as `counts` says, distinct but for digits and punctuation.

    Raises:
        DataError: the templates do not give that many.
    """
    found: dict[str, list[Message]] = {}
    seen: set[str] = set()
    for part in PARTS:
        rows = []
        for number, label in enumerate(LABELS):
            of_label = [t for t in templates if t.part == part and t.label == label]
            wanted = (counts[part] + 1 - number) // 2
            rng = random.Random(f"{part} {label} {seed}")
            drawn = list(_messages(of_label, wanted, rng, seen))
            if len(drawn) < wanted:
                raise DataError(
                    f"there are only {len(drawn)} distinct messages of {label} for the part "
                    f"{part}, of {wanted} that are wanted"
                )
            rows += drawn
        random.Random(f"{part} {seed}").shuffle(rows)
        found[part] = rows
    return found


def _messages(
    templates: Sequence[Template], wanted: int, rng: random.Random, seen: set[str]
) -> Iterator[Message]:
    """One of each template, then another of each, until it is enough or there are no new ones."""
    left = list(templates)
    while left and wanted:
        rng.shuffle(left)
        for template in list(left):
            message = _new(template, rng, seen)
            if message is None:
                left.remove(template)
                continue
            yield message
            wanted -= 1
            if not wanted:
                return


def _new(template: Template, rng: random.Random, seen: set[str]) -> Message | None:
    for _ in range(_DRAWS):
        weights = [COUNTRIES[country].weight for country in template.countries]
        country = rng.choices(template.countries, weights)[0]
        text = hurried(Filler(rng, country).fill(template.text), rng)
        identity = near_hash(text)
        if text and identity not in seen:
            seen.add(identity)
            return Message(template.label, text, template.topic)
    return None


def hurried(text: str, rng: random.Random) -> str:
    """The text, at times without capitals, with capitals alone, abbreviated, or without its last
    full stop; links stay."""
    text = re.sub(r"[ \t]+", " ", text).strip()
    draw = rng.random()
    if draw < 0.08:
        text = _but_links(text, str.lower)
    elif draw < 0.11:
        text = _but_links(text, str.upper)
    elif draw < 0.2:
        text = _WORD.sub(lambda m: _SHORTHAND.get(m[0].lower(), m[0]), text)
    if rng.random() < 0.2:
        text = text.removesuffix(".")
    return text


def _but_links(text: str, change: Callable[[str], str]) -> str:
    """The text changed, its links as they were."""
    kept = iter(_LINK.findall(text))
    return "".join(change(part) + next(kept, "") for part in _LINK.split(text))
