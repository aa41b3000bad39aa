"""Files that somebody has set apart to validate or to test with."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import UsageError
from training.data.splits import SAID, Part

_RULE = (
    "; with --{0}, files that only --{0} names are {1} as a whole, those that only --data names "
    "have no {1} part, and rows of the {1} part leave the others"
)


@dataclass(frozen=True)
class File:
    """A data file, and the parts to which its rows may come."""

    path: Path
    parts: tuple[Part, ...]

    @property
    def set_apart(self) -> bool:
        """Whether none of it is learnt."""
        return "train" not in self.parts

    def source(self) -> dict[str, object]:
        """For a card: to which parts its rows come, if not to all."""
        if len(self.parts) == len(SAID):
            return {}
        return {"part": " and ".join(SAID[part] for part in self.parts)}


@dataclass(frozen=True)
class Given:
    """Each field is a flag of the same name."""

    val: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()

    def files(self, data: Sequence[Path]) -> list[File]:
        """All files, in the order in which they claim their rows: what only tests, what only
        validates, then `data`.

        Raises:
            UsageError: a file would test and validate.
        """
        of_data = _resolved(data)
        # A file of the data has rows for each of its parts.
        both = _resolved(self.val) & _resolved(self.test) - of_data
        if both:
            raise UsageError(
                f"--val and --test both name {sorted(both)[0]}; rows that chose the best weights "
                "are no test of them"
            )
        found = []
        for part, paths in (("test", self.test), ("val", self.val)):
            alone = dict.fromkeys(path for path in paths if path.resolve() not in of_data)
            found += [File(path, (part,)) for path in alone]  # type: ignore[arg-type]
        return [*found, *(File(path, self._parts(path)) for path in data)]

    def _parts(self, path: Path) -> tuple[Part, ...]:
        """Of a file of the data: it has no part that other files are named for."""
        parts: list[Part] = ["train"]
        for part, paths in (("val", self.val), ("test", self.test)):
            if not paths or path.resolve() in _resolved(paths):
                parts.append(part)  # type: ignore[arg-type]
        return tuple(parts)

    def rule(self) -> str:
        """What it adds to the rule of a split, for cards."""
        rules = (("test", self.test), ("val", self.val))
        return "".join(_RULE.format(flag, SAID[flag]) for flag, paths in rules if paths)

    def identity(self) -> dict[str, list[str]]:
        """What a resumed run must share."""
        return {"val": [p.name for p in self.val], "test": [p.name for p in self.test]}


NONE_GIVEN = Given()


def among(parts: Collection[Part], wanted: Part) -> Part:
    """`wanted`, if a row may come to it; else it trains, or is what its file is for."""
    if wanted in parts or not parts:
        return wanted
    return "train" if "train" in parts else next(iter(parts))


def _resolved(paths: Sequence[Path]) -> set[Path]:
    return {path.resolve() for path in paths}
