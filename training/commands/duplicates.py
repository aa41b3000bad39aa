"""`penwright-train duplicates`: near copies in data, within a file and across files.

    penwright-train duplicates --data train.csv test.csv --out cleaned

Labelled texts, instructions, preferences and documents are read in the forms that the trainings
take. Two texts are near copies when they share at least `--threshold`
of their shingles, which are runs of `--shingle` characters, case and spacing aside. Copies with
different labels are errors in the data; a copy in another file leaks from training into test.

`--out` writes the data without the later copies: a file for one, a directory of files for several.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint.atomic import write_file
from model.checkpoint.files import check_file
from model.errors import UsageError
from training.commands import flags
from training.data.files import BINARY, form
from training.data.labelled import Reading
from training.data.near_duplicates import Cluster, Shingles, near_duplicates
from training.data.rows import KINDS, DataFile, Row, read_rows

_WIDTH, _TEXTS = 76, 8  # characters of a text, and texts of a cluster, that are shown


@dataclass(frozen=True)
class Place:
    """A row and the file that it is in."""

    file: int
    index: int
    row: Row


@dataclass(frozen=True)
class Found:
    """The near copies of some files."""

    files: tuple[DataFile, ...]
    places: tuple[Place, ...]
    """Of all rows, the files' one after another's."""
    clusters: tuple[Cluster, ...]

    def labels(self, cluster: Cluster) -> list[str]:
        """Its labels, sorted; more than one is a contradiction."""
        found = (self.places[member.index].row.label for member in cluster)
        return sorted({label for label in found if label is not None})

    def file_names(self, cluster: Cluster) -> list[str]:
        """The files that its rows are in."""
        files = {self.places[member.index].file for member in cluster}
        return [str(self.files[file].path) for file in sorted(files)]

    def dropped(self, file: int) -> set[int]:
        """The rows of a file that are near copies of earlier ones."""
        members = (member for cluster in self.clusters for member in cluster)
        places = (self.places[member.index] for member in members if member.copy_of is not None)
        return {place.index for place in places if place.file == file}

    def counts(self) -> dict[str, int]:
        members = [member for cluster in self.clusters for member in cluster]
        return {
            "rows": len(self.places),
            "clusters": len(self.clusters),
            "rows_in_clusters": len(members),
            "copies": sum(member.copy_of is not None for member in members),
            "inexact_copies": sum(member.similarity < 1 for member in members),
            "conflicting_labels": sum(len(self.labels(c)) > 1 for c in self.clusters),
            "across_files": sum(len(self.file_names(c)) > 1 for c in self.clusters),
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, help="data files, packed too"
    )
    parser.add_argument(
        "--kind", help=f"one of {', '.join(KINDS)} (default: by each file's name and beginning)"
    )
    for part in ("label", "text"):
        parser.add_argument(f"--{part}-column", default=part, help=f"column of the {part} ({part})")
    flags.add_encoding(parser)
    parser.add_argument(
        "--threshold", type=float, default=0.8, help="least similarity of near copies (0.8)"
    )
    parser.add_argument("--shingle", type=int, default=5, help="characters in a shingle (5)")
    parser.add_argument(
        "--ignore-digits", action="store_true", help="take all digits as the same digit"
    )
    parser.add_argument("--show", type=int, default=20, help="clusters to print (20)")
    parser.add_argument("--json", type=Path, help="write all clusters to this file")
    parser.add_argument("--out", type=Path, help="write the data without the later copies")


def run(args: argparse.Namespace) -> None:
    _check_flags(args)
    reading = Reading(args.label_column, args.text_column, encoding=args.encoding)
    files = tuple(read_rows(path, args.kind, reading) for path in args.data)
    found = find(files, args.threshold, Shingles(args.shingle, args.ignore_digits))
    _print(found, args.threshold, args.show)
    if args.json:
        settings = {name: getattr(args, name) for name in ("threshold", "shingle", "ignore_digits")}
        report = json.dumps({**settings, **_report(found)}, indent=1, ensure_ascii=False)
        write_file(args.json, report.encode("utf-8", "backslashreplace"))
        print(f"{args.json}: all clusters")
    if args.out:
        for number, (file, out) in enumerate(zip(files, _targets(args), strict=True)):
            dropped = found.dropped(number)
            file.write_without(dropped, out)
            print(f"{out}: {len(file.rows) - len(dropped):,} of {len(file.rows):,} rows")


def find(files: Sequence[DataFile], threshold: float, shingles: Shingles) -> Found:
    """The near copies within and across `files`; of copies, the first one is kept."""
    places = tuple(
        Place(number, index, row)
        for number, file in enumerate(files)
        for index, row in enumerate(file.rows)
    )
    clusters = near_duplicates([place.row.text for place in places], threshold, shingles)
    return Found(tuple(files), places, tuple(clusters))


def _check_flags(args: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: a value is not allowed, or `--out` would be read wrongly or replace the data.
    """
    if not 0 < args.threshold <= 1:
        raise UsageError(f"--threshold is {args.threshold}; it must be above 0 and at most 1")
    if args.shingle < 1:
        raise UsageError(f"--shingle is {args.shingle}; it must be at least 1")
    if args.show < 0:
        raise UsageError(f"--show is {args.show}; it must be at least 0")
    if args.kind is not None and args.kind not in KINDS:
        raise UsageError(f"--kind is {args.kind!r}; it must be one of {', '.join(KINDS)}")
    if args.json is not None:
        check_file(args.json, "--json")
        flags.keep_inputs("--json", args.json, args.data)
    if args.out is None:
        return
    targets = _targets(args)
    for out in targets:
        check_file(out, "--out")
    for path, out in zip(args.data, targets, strict=True):
        if form(path) in BINARY:
            raise UsageError(f"--out {args.out}: {form(path)} is read, but cannot be written again")
        if form(out) != form(path):
            raise UsageError(
                f"--out {args.out}: {path.name} is of the form '{form(path)}'; "
                "a copy of it must end so, too (.xz, .gz or .zip may follow)"
            )
    if len({out.resolve() for out in targets}) < len(targets):
        raise UsageError(f"--out {args.out}: two of the --data files have the same name")
    if {path.resolve() for path in args.data} & {out.resolve() for out in targets}:
        raise UsageError(f"--out {args.out} would replace the --data; name another place")
    if args.json is not None and args.json.resolve() in {out.resolve() for out in targets}:
        raise UsageError(f"--json {args.json} and --out are the same file; name two")


def _targets(args: argparse.Namespace) -> list[Path]:
    """Where each data file goes without its copies."""
    one = len(args.data) == 1 and not os.path.isdir(args.out)
    return [args.out] if one else [args.out / path.name for path in args.data]


def _print(found: Found, threshold: float, show: int) -> None:
    for file in found.files:
        print(f"{file.path}: {len(file.rows):,} rows ({file.kind})")
    counts = found.counts()
    print(
        f"{counts['clusters']:,} clusters of texts at least {threshold:g} alike: "
        f"{counts['rows_in_clusters']:,} rows, {counts['copies']:,} of them copies of earlier ones "
        f"and {counts['inexact_copies']:,} not to the letter"
    )
    if any(row.label for file in found.files for row in file.rows[:1]):
        print(f"{counts['conflicting_labels']:,} clusters have conflicting labels")
    if len(found.files) > 1:
        print(f"{counts['across_files']:,} clusters go across files")
    # What is most likely a fault comes first.
    shown = sorted(
        found.clusters,
        key=lambda c: (-(len(found.labels(c)) > 1), -len(found.file_names(c)), -len(c)),
    )[:show]
    for cluster in shown:
        _print_cluster(found, cluster)
    if len(shown) < len(found.clusters):
        print(f"… and {len(found.clusters) - len(shown):,} more clusters (--show, --json)")


def _print_cluster(found: Found, cluster: Cluster) -> None:
    notes = []
    if len(found.labels(cluster)) > 1:
        notes.append("LABELS DIFFER: " + ", ".join(found.labels(cluster)))
    if len(found.file_names(cluster)) > 1:
        notes.append("across files")
    print(f"\n{len(cluster)} texts" + "".join(f"; {note}" for note in notes))
    for member in cluster[:_TEXTS]:
        place = found.places[member.index]
        share = "kept" if member.copy_of is None else f"{member.similarity:.2f}"
        label = "" if place.row.label is None else f"{place.row.label}  "
        text = " ".join(place.row.text.split())
        text = text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
        print(f"  {share}  {found.files[place.file].path.name}:{place.row.line}  {label}{text}")
    if len(cluster) > _TEXTS:
        print(f"  … and {len(cluster) - _TEXTS:,} more texts")


def _report(found: Found) -> dict[str, Any]:
    """All that was found, for `--json`."""

    def where(index: int) -> dict[str, Any]:
        place = found.places[index]
        return {"file": str(found.files[place.file].path), "line": place.row.line}

    return {
        "files": [
            {"file": str(file.path), "kind": file.kind, "rows": len(file.rows)}
            for file in found.files
        ],
        **found.counts(),
        "found": [
            {
                "labels": found.labels(cluster),
                "files": found.file_names(cluster),
                "rows": [
                    {
                        **where(member.index),
                        "label": found.places[member.index].row.label,
                        "similarity": round(member.similarity, 4),
                        "copy_of": None if member.copy_of is None else where(member.copy_of),
                        "text": found.places[member.index].row.text,
                    }
                    for member in cluster
                ],
            }
            for cluster in found.clusters
        ],
    }
