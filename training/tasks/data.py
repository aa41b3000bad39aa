"""`penwright-train data`: get training data that has a public home.

    penwright-train data spam --out data

`verdict` is the short story of the book's first run, `spam` the UCI SMS Spam Collection,
`instructions` the book's 1,100 instructions: one known content each, checked by its SHA-256, also
when a copy is taken with `--file`. `text` is some children's books and classics of Project
Gutenberg, or those named with `--book`; or any text of one's own with `--file`.

    penwright-train data exercises --out data --count 45000

`exercises` are language exercises in the style of the book's instructions (tenses, plurals,
synonyms, spelling, order, units, capitals, ...), generated from WordNet and small tables of facts.
"""

import argparse
from pathlib import Path

from model.errors import UsageError
from training.data import gutenberg
from training.data.download import SOURCES, obtain
from training.data.exercises.generator import generate
from training.data.exercises.wordnet import DIRECTORY, WordNet
from training.data.exercises.writer import write_exercises

_NAMES = (*SOURCES, "text", "exercises")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help=f"one of {', '.join(_NAMES)}")
    parser.add_argument("--out", type=Path, required=True, help="directory to write into")
    parser.add_argument("--file", type=Path, help="take this local copy, download nothing")
    parser.add_argument("--url", help="a mirror; for text, with {book} where the number belongs")
    parser.add_argument(
        "--book",
        nargs="+",
        type=int,
        metavar="NUMBER",
        help="for text: books by their number at Project Gutenberg",
    )
    parser.add_argument(
        "--wordnet", type=Path, metavar="DIR", help=f"for exercises: WordNet's files ({DIRECTORY})"
    )
    parser.add_argument("--count", type=int, help="for exercises: training rows (45000)")
    parser.add_argument("--test-count", type=int, help="for exercises: test rows (3000)")
    parser.add_argument("--seed", type=int, help="for exercises: of what is drawn (0)")


def run(args: argparse.Namespace) -> None:
    if args.name not in _NAMES:
        raise UsageError(f"the data set is {args.name!r}; it must be one of {', '.join(_NAMES)}")
    if args.book and (args.name != "text" or args.file):
        raise UsageError("--book is for `text` that is downloaded")
    if args.file and args.url:
        raise UsageError("--file and --url: give one of them")
    if args.name == "exercises":
        _exercises(args)
        return
    for flag in ("wordnet", "count", "test_count", "seed"):
        if getattr(args, flag) is not None:
            raise UsageError(f"--{flag.replace('_', '-')} is for `exercises`")
    if args.name == "text":
        path = gutenberg.obtain_text(
            args.out, args.book or gutenberg.BOOKS, url=args.url or gutenberg.URL, file=args.file
        )
        print(f"{path}: {path.stat().st_size:,} bytes; checksums are in {path.parent}/text.json")
        return
    source = SOURCES[args.name]
    path = obtain(source, args.out, url=args.url, file=args.file)
    print(f"{path}: {path.stat().st_size:,} bytes, checksum as known; {source.licence}")


def _exercises(args: argparse.Namespace) -> None:
    if args.file or args.url:
        raise UsageError("--file and --url are not for `exercises`, which are generated")
    count = 45_000 if args.count is None else args.count
    test_count = 3_000 if args.test_count is None else args.test_count
    for flag, value in (("--count", count), ("--test-count", test_count)):
        if value < 1:
            raise UsageError(f"{flag} is {value}; it must be above 0")
    seed = args.seed or 0
    exercises = generate(WordNet(args.wordnet or DIRECTORY), count, seed, test_count)
    made = {"seed": seed, "count": count, "test_count": test_count}
    for path in write_exercises(args.out, exercises, made):
        print(f"{path}: {path.stat().st_size:,} bytes")
