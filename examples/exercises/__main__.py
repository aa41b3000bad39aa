"""Language exercises in the style of the book's instructions, from WordNet and tables of facts.

    python -m examples.exercises --out data --count 45000

Tenses, plurals, synonyms, spelling, order, units, capitals and more: a small network learns from
them to copy and to inflect words. WordNet is Debian's `wordnet-base`, or the directory of
`--wordnet`. What is written, `examples.exercises.writer` says.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.exercises.generator import generate
from examples.exercises.wordnet import DIRECTORY, WordNet
from examples.exercises.writer import write_exercises
from model.errors import PenwrightError, UsageError


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "examples.exercises",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--out", type=Path, required=True, help="directory to write into")
    found.add_argument("--wordnet", type=Path, default=DIRECTORY, help=f"WordNet ({DIRECTORY})")
    found.add_argument("--count", type=int, default=45_000, help="training rows (45000)")
    found.add_argument("--test-count", type=int, default=3_000, help="test rows (3000)")
    found.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        for flag, value in (("--count", args.count), ("--test-count", args.test_count)):
            if value < 1:
                raise UsageError(f"{flag} is {value}; it must be above 0")
        exercises = generate(WordNet(args.wordnet), args.count, args.seed, args.test_count)
        made = {"seed": args.seed, "count": args.count, "test_count": args.test_count}
        for path in write_exercises(args.out, exercises, made):
            print(f"{path}: {path.stat().st_size:,} bytes")
    except (PenwrightError, OSError) as error:
        print(f"examples.exercises: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
