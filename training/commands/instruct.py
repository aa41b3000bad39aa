"""`penwright-train instruct`: a base model that follows instructions.

    penwright-train instruct --base base --data instruction-data.json --out instruct

Conversations are written in the base's own chat template, or in Alpaca's where it has none. The
loss is the mean cross-entropy over the tokens of what the assistant says in them, and of what ends
its turns; of a conversation of several turns, all answers are learnt in one pass.

    penwright-train instruct --base base --data instruction-data.json exercises-train.json \\
        --repeat 4 1 --test instruction-data.json exercises-test.json --out instruct

takes the test part of the first file, which is named twice, and all of `exercises-test.json` as the
test; all of `exercises-train.json` but a validation part is learnt.
"""

import argparse

from training.commands import flags
from training.tasks.instruct import DEFAULTS, METHODS, instruct


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_tuning(parser, METHODS)
    flags.add_given(parser)
    flags.add_lengths(parser)
    flags.add_template(parser)
    parser.add_argument(
        "--repeat",
        nargs="+",
        type=float,
        default=[],
        metavar="TIMES",
        help="for each file of --data, how often an epoch has its rows; 0.5 for half of them (1)",
    )
    parser.add_argument(
        "--packing",
        action="store_true",
        help="put several conversations into one row of a batch, up to --max-length tokens; each "
        "sees itself alone",
    )
    flags.add_loop(parser, DEFAULTS)


def run(args: argparse.Namespace) -> None:
    instruct(
        args.data,
        args.base,
        flags.job(args),
        method=flags.method(args),
        settings=flags.loop(args),
        repeats=args.repeat,
        given=flags.given(args),
        encoding=args.encoding,
        template=args.template,
        lengths=flags.lengths(args),
        packing=args.packing,
    )
