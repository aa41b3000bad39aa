"""`penwright-train classify`: a classifier of texts, with any labels.

    penwright-train classify --base base --data SMSSpamCollection.tsv --out spam
    penwright-train classify --base base --data tickets.csv --out tickets \\
        --label-column team --text-column message --folds 5 --augment all

The head reads the hidden state of the last real token, and with `--pooling last-mean` also the
mean over all tokens. The loss is the mean cross-entropy over rows. The best evaluation's weights
are kept; temperature and threshold are then fitted to the validation part, and the test part is
measured once: as it is, and with as many texts of each label.

`--folds K` first trains K classifiers in the same way, each tested on another K-th of the texts,
and compares them with n-grams under a linear SVM. `--extra` names files that are only trained on.
"""

import argparse
from pathlib import Path

from training.commands import flags
from training.objectives.labels import Options
from training.tasks.classify import DEFAULTS, METHODS, classify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_tuning(parser, METHODS)
    flags.add_given(parser)
    flags.add_lengths(parser)
    flags.add_reading(parser)
    parser.add_argument(
        "--extra",
        nargs="+",
        type=Path,
        default=[],
        help="further files to train on, which never validate or test; what is like a text of "
        "--data is left out",
    )
    parser.add_argument(
        "--positive", help="of two labels, the one sought (default: the rarer, if one is)"
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        help="first measure by cross-validation with so many folds, from 2 to 10; 0: do not (0)",
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        type=Path,
        default=[],
        metavar="CHECKPOINT",
        help="classifiers trained in the same way, in folds or without a source that then tested "
        "them: the card says what theirs say of their tests",
    )
    parser.add_argument(
        "--pooling",
        default="last",
        help="what the head reads: last, the last token's hidden state, or last-mean, that and the "
        "mean over all tokens (last)",
    )
    parser.add_argument(
        "--class-weights",
        default="none",
        help="none, or balanced: rare labels count more (none)",
    )
    parser.add_argument(
        "--lm-weight",
        type=float,
        default=0.0,
        help="weight of the next-token loss on the training texts (0)",
    )
    parser.add_argument(
        "--augment",
        nargs="+",
        default=[],
        metavar="CHANGE[=RATE]",
        help="train on altered copies, other ones in each epoch: links, digits, spelling, "
        "obfuscation, casing, spacing, or all; RATE is the share of texts (0.2)",
    )
    parser.add_argument(
        "--cache-mb",
        type=int,
        default=1024,
        help="with --method head or last-block: megabytes of frozen activations to keep in "
        "memory, more go to a file in the run; 0 computes them anew in every epoch (1024)",
    )
    flags.add_loop(parser, DEFAULTS)


def run(args: argparse.Namespace) -> None:
    classify(
        args.data,
        args.base,
        flags.job(args),
        reading=flags.reading(args),
        options=Options(
            args.class_weights, args.lm_weight, tuple(args.augment), args.pooling, args.cache_mb
        ),
        method=flags.method(args),
        settings=flags.loop(args),
        extra=args.extra,
        positive=args.positive,
        folds=args.folds,
        given=flags.given(args),
        lengths=flags.lengths(args),
        beside=args.beside,
    )
