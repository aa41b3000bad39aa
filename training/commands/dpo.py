"""`penwright-train dpo`: a model that answers as people prefer it to.

    penwright-train dpo --base base --adapter instruct --data preferences.json --out preferred

Direct Preference Optimization (Rafailov et al., 2023, equation 7): of two answers to a question,
the network learns to give the chosen one more, and the rejected one less, of the probability that
a frozen reference gives them. See `training.objectives.preferences` for the objective.

What is tuned starts as the reference, which is what `--base` and `--adapter` name:

    --base base                      a base, or a fully fine-tuned instruction follower
    --base base --adapter instruct   the base with an adapter that `instruct` made

With `--method lora` the reference is the same base with the adapter off, or with the adapter as it
was: the base is held once. An adapter given with `--adapter` is trained on, in its own shape. With
`--method full` it is merged into the weights first.
"""

import argparse
from pathlib import Path

from training.commands import flags
from training.objectives.preferences import Objective
from training.tasks.dpo import DEFAULTS, METHODS, dpo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_tuning(parser, METHODS)
    flags.add_given(parser)
    flags.add_lengths(parser)
    flags.add_template(parser)
    parser.add_argument("--adapter", type=Path, help="instruct adapter of the base to start from")
    parser.add_argument(
        "--beta", type=float, default=0.1, help="lower: further from the reference (0.1)"
    )
    parser.add_argument(
        "--label-smoothing",
        type=float,
        default=0.0,
        help="share of the pairs that may be the wrong way round (0)",
    )
    flags.add_loop(parser, DEFAULTS)


def run(args: argparse.Namespace) -> None:
    dpo(
        args.data,
        args.base,
        flags.job(args),
        adapter=args.adapter,
        objective=Objective(args.beta, args.label_smoothing),
        method=flags.method(args),
        settings=flags.loop(args),
        given=flags.given(args),
        encoding=args.encoding,
        template=args.template,
        lengths=flags.lengths(args),
    )
