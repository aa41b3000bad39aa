"""Folds for cross-validation, and further texts that are only trained on.

Each fold is a split of its own: a K-th of each label tests, a tenth of all validates, the rest
trains. Folds follow the order of the split (by hash), so they depend on the texts alone, and texts
that differ only in digits and punctuation stay in one fold.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from model.errors import DataError, UsageError
from training.data.files import read_file
from training.data.labelled import Example, Reading, read_labelled
from training.data.labelled_parts import (
    Distinct,
    Entry,
    LabelledData,
    between_groups,
    check_parts,
)
from training.data.splits import NOTHING, Part, Parts, near_hash

FOLD_RULE = (
    "each label's distinct texts, in the order of the SHA-256 of their words with all digits as 0, "
    "cut into K runs that do not part equal ones; a fold tests on its run, validates on the tenth "
    "of all before it (around the end), and trains on the rest"
)
_MOST = 10  # folds: a cut may move by a twentieth, which must be less than a fold
_VAL = 0.1


def check_folds(folds: int) -> None:
    """
    Raises:
        UsageError: no such number of folds.
    """
    if folds and not 2 <= folds <= _MOST:
        raise UsageError(f"--folds is {folds}; it must be 0 (none), or from 2 to {_MOST}")


def fold(distinct: Distinct, index: int, folds: int, known: Parts = NOTHING) -> LabelledData:
    """Fold `index`, from 0, of `folds`.

    Args:
        known: parts of the training that this one goes on from; what it learnt is not tested.

    Raises:
        DataError: a label has too few texts for so many folds.
    """
    distinct.check_labels()
    parts: dict[str, list[Entry]] = {"train": [], "val": [], "test": []}
    for label, entries in distinct.entries.items():
        count = len(entries)
        if count < folds + 2:
            raise DataError(
                f"{distinct.names}: label {label!r} has {count} distinct text{'s' * (count > 1)}; "
                f"with --folds {folds} it must have at least {folds + 2}"
            )
        cuts = (between_groups(entries, round(i * count / folds)) for i in range(1, folds))
        bounds = [0, *cuts, count]
        start, end = bounds[index], bounds[index + 1]
        rest = [*entries[end:], *entries[:start]]
        validates = between_groups(rest, len(rest) - max(1, round(count * _VAL)))
        chosen: tuple[tuple[Part, Sequence[Entry]], ...] = (
            ("train", rest[:validates]),
            ("val", rest[validates:]),
            ("test", entries[start:end]),
        )
        for part, some in chosen:
            for entry in some:
                parts[known.after(part, entry.example.text)].append(entry)
    check_parts(distinct, parts)
    return distinct.as_data(**parts)


class ExtraTexts:
    """Texts of `--extra`, which are trained on and never validate or test.

    Raises:
        DataError: a file cannot be read, or has a label that the data has not; names file and line.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[str], reading: Reading) -> None:
        self._texts: dict[str, Example] = {}
        self.sources: list[dict[str, object]] = []
        for path in paths:
            file = read_file(path, reading.encoding)
            found = list(read_labelled(file, reading))
            for example in found:
                if example.label not in labels:
                    raise DataError(
                        f"--extra {path}: label {example.label!r} is unseen in --data, which has "
                        f"{', '.join(labels)}"
                    )
                self._texts.setdefault(near_hash(example.text), example)
            self.sources.append({**file.source, "rows": len(found)})

    def leave_out(self, unwanted: Callable[[Example], bool]) -> None:
        """Forget those that are not to be trained on."""
        self._texts = {key: one for key, one in self._texts.items() if not unwanted(one)}

    def beside(self, data: LabelledData) -> tuple[Example, ...]:
        """Those that are like no text of `data`, up to case, digits and punctuation."""
        known = {near_hash(e.text) for part in (data.train, data.val, data.test) for e in part}
        return tuple(example for key, example in self._texts.items() if key not in known)
