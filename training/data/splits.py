"""Which rows train, validate and test: kept in the checkpoint.

A row's part follows from the hash of its text, so that no other file, and no order of files, moves
it from training into a test. What a training made of its rows is then written down as hashes, in
`parts.json` beside the card: whoever measures the checkpoint later asks that file, and derives
nothing again.
"""

import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from model.checkpoint.files import CARD, PARTS
from model.errors import CheckpointError
from model.json_files import read_json
from training.data.documents import text_hash

Part = Literal["train", "val", "test", "unused"]

NAMES: tuple[Part, ...] = ("train", "val", "test", "unused")
"""Of parts. `unused` rows were left out of all three, as balancing the labels does. What stands
first counts for a row that is in several."""

SAID: Mapping[str, str] = {"train": "training", "val": "validation", "test": "test"}
"""What messages call them."""

KEY = (
    "the first 6 bytes of the SHA-256 of the row's text, lower-cased and with single spaces; of an "
    "instruction, of its text and input; `near`: of the words of a text that trained or validated, "
    "with all digits as 0; sorted, one after another, in base64"
)
_VERSION = 1
_BYTES = 6  # of a key: of a million rows, one in 280 million others is taken for one of them


def row_key(text: str) -> str:
    """What copies of a row share that differ in case and spacing alone."""
    return text_hash(text)[: 2 * _BYTES]


def near_hash(text: str) -> str:
    """What texts share that differ only in which digits they have and in punctuation, such as a
    chain letter sent with different numbers: one of them in training would give away the other in
    the test."""
    words = re.sub(r"\d", "0", " ".join(re.findall(r"\w+", text.lower())))
    return text_hash(words or text)


def near_key(text: str) -> str:
    """`near_hash`, as short as a `row_key`."""
    return near_hash(text)[: 2 * _BYTES]


@dataclass
class Parts:
    """The part of each row of a training, by its key."""

    of: dict[str, Part] = field(default_factory=dict)
    near: set[str] = field(default_factory=set)
    """`near_key` of the texts that trained or validated, where near copies matter."""
    complete: bool = True
    """Whether all that trained is in here; not where an earlier version did not write it down."""

    def add(self, part: Part, texts: Iterable[str], *, near: bool = False) -> None:
        """Note that `texts` are in `part`.

        Args:
            near: whether near copies of what trains or validates give a test away.
        """
        for text in texts:
            self._add(row_key(text), part)
            if near and part in ("train", "val"):
                self.near.add(near_key(text))

    def _add(self, key: str, part: Part) -> None:
        known = self.of.setdefault(key, part)
        if NAMES.index(part) < NAMES.index(known):
            self.of[key] = part

    def merged(self, other: "Parts") -> "Parts":
        """Of two trainings, one of which went on from the other: a row that trained once stays so,
        whatever comes before or after."""
        both = Parts(dict(self.of), self.near | other.near, self.complete and other.complete)
        for key, part in other.of.items():
            both._add(key, part)
        return both

    def after(self, part: Part, *texts: str) -> Part:
        """The part of a row in a training that goes on from this one: what was learnt cannot be
        tested any more.

        Args:
            part: where the row would be otherwise.
            texts: see `gives_away`.
        """
        if part in ("train", "unused"):
            return part
        trained = "train" in map(self.part, texts)
        return "train" if trained or (part == "test" and self.gives_away(*texts)) else part

    def part(self, text: str) -> Part | None:
        """Of a row; None if the training has never met it."""
        return self.of.get(row_key(text))

    def gives_away(self, *texts: str) -> bool:
        """Whether a row, or a near copy of it, trained or validated.

        Args:
            texts: of the row, and by which else it would be known, such as its chat's beginning.
        """
        if any(self.part(text) in ("train", "val") for text in texts):
            return True
        return bool(self.near) and any(near_key(text) in self.near for text in texts)

    def content(self) -> bytes:
        """Of `parts.json`."""
        keys: dict[str, list[str]] = {name: [] for name in (*NAMES, "near")}
        for key, part in self.of.items():
            keys[part].append(key)
        keys["near"] = list(self.near)
        packed = {
            name: b64encode(bytes.fromhex("".join(sorted(each)))).decode()
            for name, each in keys.items()
        }
        values = {"format_version": _VERSION, "key": KEY, "complete": self.complete, **packed}
        return (json.dumps(values, indent=1) + "\n").encode()

    @property
    def digest(self) -> str:
        """Equal for equal parts: what a resumed run must share."""
        return hashlib.sha256(self.content()).hexdigest()

    @classmethod
    def known(cls, *checkpoints: Path) -> "Parts":
        """What the trainings of some checkpoints that are used together made of their rows; of
        those that were not trained here, nothing.

        Raises:
            CheckpointError: a file is no such file.
        """
        found = cls()
        for path in checkpoints:
            found = found.merged(cls._read(path))
        return found

    @classmethod
    def _read(cls, checkpoint: Path) -> "Parts":
        path = checkpoint / PARTS
        if not path.is_file():
            card = read_json(checkpoint / CARD) if (checkpoint / CARD).is_file() else {}
            # What text a base learnt, hashes and `--val-fraction` say.
            return cls(complete=card.get("task") == "generate" or not card.get("data"))
        values: Mapping[str, Any] = read_json(path)
        if values.get("format_version") != _VERSION:
            raise CheckpointError(
                f"{path}: format version {values.get('format_version')}; this Penwright reads "
                f"version {_VERSION}"
            )
        keys = {name: _unpacked(values.get(name), f"{path}: {name}") for name in (*NAMES, "near")}
        parts = cls(near=set(keys["near"]), complete=values.get("complete") is not False)
        for name in NAMES:
            parts.of.update(dict.fromkeys(keys[name], name))
        return parts


NOTHING = Parts()
"""Of what has learnt nothing; nobody adds to it."""


def _unpacked(packed: object, where: str) -> list[str]:
    """The keys that `Parts.content` packed."""
    try:
        raw = b64decode(packed, validate=True) if isinstance(packed, str) else b"?"
    except ValueError:
        raw = b"?"
    if len(raw) % _BYTES:
        raise CheckpointError(f"{where} is no list of hashes")
    return [raw[at : at + _BYTES].hex() for at in range(0, len(raw), _BYTES)]
