"""Short messages for a spam filter: honest notices and private talk (ham), frauds and advertising
(spam), from templates written by hand, in several kinds of English.

    python -m examples.notices --out data --count 2500

The known collections of messages are of one time and place, and have private talk alone as ham:
with them a filter learns that whatever a bank, a parcel service or a clinic sends is spam. Here are
notices of that kind, and the frauds that imitate them. Spam is also any advertising in bulk, as in
the collections, be the sender honest: a text does not show whether its reader asked for it. What
concerns something that the reader has, bought or belongs to is ham.

notices-train.jsonl, notices-val.jsonl, notices-test.jsonl   rows of `label`, `text` and `topic`;
                    their wordings differ, for each template belongs to one of them
notices.json        how they were made, and how many there are of each topic
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from examples.notices.generator import Message, generate
from examples.notices.template import PARTS, Template, read_templates
from model.checkpoint.atomic import write_file
from model.errors import PenwrightError, UsageError


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "examples.notices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--out", type=Path, required=True, help="directory to write into")
    found.add_argument("--count", type=int, default=2500, help="training rows (2500)")
    found.add_argument("--val-count", type=int, default=200, help="validation rows (200)")
    found.add_argument("--test-count", type=int, default=400, help="test rows (400)")
    found.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    return found


def write(out: Path, args: argparse.Namespace) -> list[Path]:
    """Draw the messages and write all files into `out`, which is made where it is missing.

    Raises:
        UsageError: a count is not above 0.
        DataError: there are not that many distinct messages.
    """
    counts = dict(zip(PARTS, (args.count, args.val_count, args.test_count), strict=True))
    for part, count in counts.items():
        if count < 1:
            flag = "--count" if part == "train" else f"--{part}-count"
            raise UsageError(f"{flag} is {count}; it must be above 0")
    templates = read_templates()
    rows = generate(templates, counts, args.seed)
    summary = {
        "seed": args.seed,
        "templates": {p: _topics(t for t in templates if t.part == p) for p in PARTS},
        "rows": {part: _topics(rows[part]) for part in PARTS},
    }
    contents = {f"notices-{part}.jsonl": _lines(rows[part]) for part in PARTS}
    contents["notices.json"] = json.dumps(summary, indent=1) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        write_file(out / name, text.encode())
    return [out / name for name in contents]


def _topics(rows: Iterable[Message | Template]) -> dict[str, int]:
    """How many there are of each label and topic."""
    return dict(sorted(Counter(f"{row.label}/{row.topic}" for row in rows).items()))


def _lines(rows: Sequence[Message]) -> str:
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        for path in write(args.out, args):
            print(f"{path}: {path.stat().st_size:,} bytes")
    except (PenwrightError, OSError) as error:
        print(f"examples.notices: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
