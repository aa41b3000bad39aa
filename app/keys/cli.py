"""`penwright-keys`: the file of API keys that `penwright-serve --api-keys FILE` reads.

    penwright-keys add keys.json shop --requests-per-minute 600
    penwright-keys list keys.json
    penwright-keys remove keys.json shop

`add` prints a new key, once: the file has only its hash. A running service takes a changed file on
SIGHUP, or on POST /admin/reload. Several may change a file at once: each waits for the one before
(on Windows none does; change it from one place there). Exit codes: 0 done, 1 the file cannot be
written, 2 an argument or the file is wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from app.keys.key_file import KeyEntry, changing, digest, dump_entries, new_key, read_entries
from model.checkpoint.atomic import write_file
from model.errors import PenwrightError, UsageError

SECRET_MODE = 0o600


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "penwright-keys",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="add|list|remove")
    add = commands.add_parser("add", help="make a key and print it")
    add.add_argument("file", metavar="FILE", type=Path, help="is made if there is none")
    add.add_argument("label", metavar="LABEL", help="its name in logs and metrics")
    add.add_argument("--requests-per-minute", metavar="N", type=int)
    add.add_argument(
        "--tokens-per-minute", metavar="N", type=int, help="of prompts and answers together"
    )
    add.add_argument(
        "--max-priority",
        metavar="N",
        type=int,
        default=0,
        help="the most urgent that its requests may be, 0 to 9; 0",
    )
    add.add_argument("--admin", action="store_true", help="opens /admin too")
    add.add_argument("--days", metavar="N", type=int, help="how long it is valid; for ever")
    show = commands.add_parser("list", help="show the labels and their limits")
    show.add_argument("file", metavar="FILE", type=Path)
    remove = commands.add_parser("remove", help="take a key out")
    remove.add_argument("file", metavar="FILE", type=Path)
    remove.add_argument("label", metavar="LABEL")
    return top


def add(arguments: argparse.Namespace) -> str:
    """Add a key.

    Returns:
        the key
    """
    key = new_key()
    expires = None
    if arguments.days is not None:
        if not 1 <= arguments.days <= 36500:
            raise UsageError(f"--days is {arguments.days}; it must be from 1 to 36500")
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=arguments.days)
    try:
        entry = KeyEntry(
            label=arguments.label,
            sha256=digest(key),
            requests_per_minute=arguments.requests_per_minute,
            tokens_per_minute=arguments.tokens_per_minute,
            max_priority=arguments.max_priority,
            admin=arguments.admin,
            expires=expires,
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0]).replace("_", "-")
        name = "LABEL" if name == "label" else f"--{name}"
        message = wrong["msg"][0].lower() + wrong["msg"][1:]
        raise UsageError(f"{name} is {wrong['input']!r}: {message}") from None
    path: Path = arguments.file
    with changing(path):
        entries = read_entries(path) if path.exists() else []
        if any(known.label == entry.label for known in entries):
            raise UsageError(f"{path}: has a key {entry.label!r} already; remove it first")
        write_file(path, dump_entries([*entries, entry]), mode=SECRET_MODE)
    return key


def show(arguments: argparse.Namespace) -> str:
    """A line for each key."""
    lines = []
    for entry in read_entries(arguments.file):
        facts = [entry.label]
        if entry.requests_per_minute is not None:
            facts.append(f"{entry.requests_per_minute} requests a minute")
        if entry.tokens_per_minute is not None:
            facts.append(f"{entry.tokens_per_minute} tokens a minute")
        if entry.max_priority:
            facts.append(f"priority up to {entry.max_priority}")
        if entry.admin:
            facts.append("admin")
        if entry.expires is not None:
            word = "expired" if entry.expired() else "expires"
            facts.append(f"{word} {entry.expires.isoformat()}")
        lines.append("  ".join(facts))
    return "\n".join(lines) or "no keys"


def remove(arguments: argparse.Namespace) -> str:
    path: Path = arguments.file
    if not path.exists():
        read_entries(path)  # says so; no lock is left beside what is not there
    with changing(path):
        entries = read_entries(path)
        left = [entry for entry in entries if entry.label != arguments.label]
        if len(left) == len(entries):
            labels = ", ".join(entry.label for entry in entries) or "none"
            raise UsageError(f"{path}: has no key {arguments.label!r}; there are: {labels}")
        write_file(path, dump_entries(left), mode=SECRET_MODE)
    return f"{arguments.label} is removed; a running service forgets it on SIGHUP"


COMMANDS = {"add": add, "list": show, "remove": remove}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        sys.stdout.write(f"{COMMANDS[arguments.command](arguments)}\n")
    except PenwrightError as error:
        sys.stderr.write(f"penwright-keys: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
