"""A reader of Princeton WordNet's database files, as Debian's `wordnet-base` installs them.

    apt-get install wordnet-base    # /usr/share/wordnet

Only what exercises need: which words there are, how often each sense was tagged (`cntlist.rev`),
synonyms, antonyms, hypernyms, definitions and irregular forms. The formats are those of the manual
pages wndb(5WN) and cntlist(5WN). The reader of NLTK needs files that Debian's package lacks.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model.errors import DataError

DIRECTORY = Path("/usr/share/wordnet")

PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
"""Parts of speech, as in the names of files."""

_TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}  # of a sense key


@dataclass(frozen=True)
class Synset:
    """One meaning and the words that have it."""

    part: str
    category: int
    """Number of the lexicographer's file, such as 5 for animals, 13 for food."""
    words: tuple[str, ...]
    pointers: tuple[tuple[str, str, int, int], ...]
    """Symbol, address of the other synset, and between which words (0: whole synsets)."""
    frames: frozenset[int]
    """Of verbs: the sentences that it fits into, such as 8 for "somebody ----s something"."""
    definition: str
    examples: tuple[str, ...]


class WordNet:
    """The database in one directory. Words have spaces where the files have underscores."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        """
        Raises:
            DataError: the directory does not hold the database.
        """
        self.directory = directory
        if not (directory / "data.noun").is_file() or not (directory / "cntlist.rev").is_file():
            raise DataError(
                f"{directory}: holds no WordNet database (data.noun, cntlist.rev, ...); "
                "install Debian's wordnet-base, or name its directory with --wordnet"
            )
        self._synsets: dict[str, Synset] = {}

    @cached_property
    def _lines(self) -> dict[str, str]:
        """Address (part and byte offset) to line of the data files."""
        lines = {}
        for part, name in PARTS.items():
            for line in (self.directory / f"data.{name}").read_text("ascii", "replace").split("\n"):
                if line and not line.startswith("  "):
                    lines[part + line[:8]] = line
        return lines

    @cached_property
    def index(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """Word and part of speech to the addresses of its synsets, the commonest first."""
        index = {}
        for part, name in PARTS.items():
            for line in (self.directory / f"index.{name}").read_text("ascii").split("\n"):
                if line and not line.startswith("  "):
                    fields = line.split()
                    offsets = fields[-int(fields[2]) :]
                    index[fields[0].replace("_", " "), part] = tuple(part + at for at in offsets)
        return index

    @cached_property
    def counts(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Word and part of speech to how often each sense occurs in tagged text, in their order."""
        found: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        for line in (self.directory / "cntlist.rev").read_text("ascii").splitlines():
            key, number, count = line.split()
            word, _, rest = key.partition("%")
            senses = found[word.replace("_", " "), _TYPES[rest[0]]]
            senses[int(number)] = max(int(count), senses.get(int(number), 0))
        return {
            word: tuple(senses.get(number, 0) for number in range(1, max(senses) + 1))
            for word, senses in found.items()
        }

    def count(self, word: str, part: str) -> int:
        """How often the word occurs as this part of speech in tagged text."""
        return sum(self.counts.get((word, part), ()))

    def main_part(self, word: str) -> str:
        """The part of speech that makes up at least 80% of the word's uses, or none: ''."""
        counts = {part: self.count(word, part) for part in PARTS}
        best = max(counts, key=lambda part: counts[part])
        clear = counts[best] and counts[best] >= 0.8 * sum(counts.values())
        others = [p for p in PARTS if p != best and (word, p) in self.index]
        return best if clear and (counts[best] >= 5 or not others) else ""

    def frequent(self, part: str, at_least: int = 1) -> list[str]:
        """Plain lower-case words of this part of speech, the most frequent first."""
        found = [
            (sum(counts), word)
            for (word, its_part), counts in self.counts.items()
            if its_part == part and word.isascii() and word.isalpha() and len(word) > 1
        ]
        found = [(n, word) for n, word in found if n >= at_least and self.plain(word, part)]
        return [word for _, word in sorted(found, key=lambda pair: (-pair[0], pair[1]))]

    def plain(self, word: str, part: str) -> bool:
        """Whether it is written in lower case, so that it is no proper name."""
        synsets = self.synsets(word, part)
        return bool(synsets) and word in synsets[0].words

    def synsets(self, word: str, part: str) -> list[Synset]:
        """Its meanings, the commonest first."""
        return [self.synset(address) for address in self.index.get((word, part), ())]

    def related(self, synset: Synset, symbol: str) -> list[Synset]:
        """The synsets that it points to, such as `@` for hypernyms."""
        return [self.synset(at) for name, at, _, _ in synset.pointers if name == symbol]

    def synset(self, address: str) -> Synset:
        if address not in self._synsets:
            self._synsets[address] = _synset(address[0], self._lines[address])
        return self._synsets[address]

    def exceptions(self, part: str) -> Iterator[tuple[str, str]]:
        """Irregular forms with the words that they are of."""
        for line in (self.directory / f"{PARTS[part]}.exc").read_text("ascii").splitlines():
            form, *words = line.split()
            for word in words:
                yield form, word


def _synset(part: str, line: str) -> Synset:
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    count = int(fields[3], 16)
    words = [word.partition("(")[0].replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
    at = 4 + 2 * count
    end = at + 1 + 4 * int(fields[at])
    pointers = tuple(
        (symbol, ("a" if kind == "s" else kind) + offset, int(where[:2], 16), int(where[2:], 16))
        for symbol, offset, kind, where in zip(
            *(fields[at + 1 + i : end : 4] for i in range(4)), strict=True
        )
    )
    frames = fields[end + 2 :: 3] if part == "v" else []
    definition, *examples = gloss.strip().split('; "')
    return Synset(
        part,
        int(fields[1]),
        tuple(words),
        pointers,
        frozenset(map(int, frames)),
        definition,
        tuple(example.strip('" ') for example in examples),
    )
