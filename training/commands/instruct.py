"""`penwright-train instruct`: a base model that follows instructions.

    penwright-train instruct --base base --data instruction-data.json --out instruct

A pair is the prompt of `model.prompts`, which ends where the response begins, then the response and
the end token. The loss is the mean cross-entropy over the tokens of responses, their end tokens
included. Which those are is known from lengths: the padding is the end token too.

    penwright-train instruct --base base --data instruction-data.json exercises-train.json \\
        --repeat 4 1 --test instruction-data.json exercises-test.json --out instruct

takes the test part of the first file, which is named twice, and all of `exercises-test.json` as the
test; all of `exercises-train.json` but a validation part is learnt.
"""

import argparse
from pathlib import Path

from training.commands import flags
from training.tasks.instruct import DEFAULTS, METHODS, instruct


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_tuning(parser, METHODS)
    parser.add_argument(
        "--repeat",
        nargs="+",
        type=float,
        default=[],
        metavar="TIMES",
        help="for each file of --data, how often an epoch has its rows; 0.5 for half of them (1)",
    )
    parser.add_argument(
        "--test",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="files for the test; of those that --data names too, only their test part",
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
        test=args.test,
        encoding=args.encoding,
    )
